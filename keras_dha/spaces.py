"""Search spaces, by the names that users import."""

from keras_dha.architecture.spaces import *  # noqa: F403
from keras_dha.architecture.spaces import __all__  # noqa: F401
