"""Search spaces: functions that build a Keras model out of choices."""

from keras_dha.architecture.spaces.darts import DARTS_V2
from keras_dha.architecture.spaces.darts import DartsGenotype
from keras_dha.architecture.spaces.darts import darts
from keras_dha.architecture.spaces.darts import darts_genotype
from keras_dha.architecture.spaces.darts import darts_network
from keras_dha.architecture.spaces.mobile import mobile
from keras_dha.architecture.spaces.nas_bench_201 import nas_bench_201
from keras_dha.architecture.spaces.nas_bench_201 import nas_bench_201_string
from keras_dha.architecture.spaces.resnet import resnet
from keras_dha.architecture.spaces.shufflenet import shufflenet

__all__ = [
    "DARTS_V2",
    "DartsGenotype",
    "darts",
    "darts_genotype",
    "darts_network",
    "mobile",
    "nas_bench_201",
    "nas_bench_201_string",
    "resnet",
    "shufflenet",
]
