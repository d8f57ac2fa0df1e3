"""Train a Keras model once and learn how to train it in the same run.

The public names load when they are first used, so `import keras_dha`
costs little: KerasCV and TensorFlow Datasets are paid for by those who
use them, when they use them. Where Keras was imported before, the layers of
networks load at once, as Keras finds them in its files by their classes.

Example:

    import keras_dha

    model = keras_dha.AutoModel()
    model.fit(x_train, y_train, epochs=30)
    model.export("models/digits/1")
"""

import importlib
import importlib.util
import os
import sys

from keras_dha._version import __version__

_NAMES = {
    "AutoHAS": "hyperparameters.autohas",
    "AutoModel": "auto_model",
    "Choice": "architecture.choice",
    "Decision": "architecture.decision",
    "DifferentiableAugmentation": "augmentation.layer",
    "Dropout": "hyperparameters.dropout",
    "FusedBatchNormalization": "fused_normalization",
    "LatencyTable": "architecture.latency",
    "NodeChoice": "architecture.node_choice",
    "Policy": "augmentation.policy",
    "Range": "hyperparameters.ranges",
    "SearchReport": "report",
    "SearchResult": "result",
    "SlicedConvolution": "architecture.superkernel",
    "SuperKernel": "architecture.superkernel",
    "hyperparameter": "hyperparameters.own",
}
_MODULES = ("datasets", "spaces", "strategies")

# What saved networks may hold. Not the augmentation, which needs KerasCV.
_LAYERS = (
    *("Choice", "NodeChoice", "Decision"),
    *("Dropout", "FusedBatchNormalization"),
    *("SlicedConvolution", "SuperKernel"),
)

__all__ = ["__version__", *_NAMES, *_MODULES]


def _require_tensorflow():
    """Refuses to go on without TensorFlow, which no extra brings alone.

    `tensorflow` and `tensorflow-cpu` are two distributions of the same
    files, so neither can be a plain requirement of this package.
    """
    try:
        found = importlib.util.find_spec("tensorflow") is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise ImportError(
            "keras_dha needs TensorFlow, which is not installed: run "
            '`pip install "keras_dha[cpu]"`, or '
            '`pip install "keras_dha[gpu]"` for a machine with a GPU.'
        )


def _require_tensorflow_backend(backend):
    """Refuses another Keras backend; `None` means not known yet."""
    if backend not in (None, "tensorflow"):
        raise ImportError(
            "keras_dha works on the TensorFlow backend of Keras only: set "
            "the environment variable KERAS_BACKEND=tensorflow before "
            f"Keras is imported. Received: backend={backend!r}"
        )


def _known_backend():
    """The Keras backend as far as it shows without importing Keras."""
    keras = sys.modules.get("keras")
    if hasattr(keras, "config"):
        return keras.config.backend()
    return os.environ.get("KERAS_BACKEND") or None


_require_tensorflow()
_require_tensorflow_backend(_known_backend())


def __getattr__(name):
    if name not in _NAMES and name not in _MODULES:
        raise AttributeError(f"module 'keras_dha' has no attribute {name!r}")
    import keras

    _require_tensorflow_backend(keras.config.backend())
    if name in _MODULES:
        value = importlib.import_module(f"keras_dha.{name}")
    else:
        module = importlib.import_module(f"keras_dha.{_NAMES[name]}")
        value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))


if "keras" in sys.modules:
    for _name in _LAYERS:
        __getattr__(_name)
