"""Search spaces: functions that build a Keras model out of choices."""

from keras_dha.architecture.spaces.darts import DARTS_V2
from keras_dha.architecture.spaces.darts import DartsGenotype
from keras_dha.architecture.spaces.darts import darts
from keras_dha.architecture.spaces.darts import darts_genotype
from keras_dha.architecture.spaces.darts import darts_network
from keras_dha.architecture.spaces.resnet import resnet

__all__ = [
    "DARTS_V2",
    "DartsGenotype",
    "darts",
    "darts_genotype",
    "darts_network",
    "resnet",
]
