"""Strategies of the architecture search, by the names that users import."""

from keras_dha.architecture.strategies import *  # noqa: F403
from keras_dha.architecture.strategies import __all__  # noqa: F401
