"""Search spaces: functions that build a Keras model out of choices."""

from keras_dha.architecture.spaces.nas_bench_201 import nas_bench_201
from keras_dha.architecture.spaces.nas_bench_201 import nas_bench_201_string
from keras_dha.architecture.spaces.resnet import resnet

__all__ = ["nas_bench_201", "nas_bench_201_string", "resnet"]
