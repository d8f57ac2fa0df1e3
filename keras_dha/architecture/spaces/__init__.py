"""Search spaces: functions that build a Keras model out of choices."""

from keras_dha.architecture.spaces.resnet import resnet

__all__ = ["resnet"]
