"""Estimators: how the gradient by a policy is got from what a step shows.

All move the same logits and share sampling, dispatch and update; they differ
in what they look at and in bias and variance.
"""

from keras_dha.augmentation.estimators.dha import DHA
from keras_dha.augmentation.estimators.estimator import Estimator
from keras_dha.augmentation.estimators.estimator import Evidence
from keras_dha.augmentation.estimators.influence import Influence
from keras_dha.augmentation.estimators.relax import Relax
from keras_dha.augmentation.estimators.relaxed import Relaxed

__all__ = [
    "DHA",
    "Estimator",
    "Evidence",
    "Influence",
    "Relax",
    "Relaxed",
    "get",
]

_NAMES = {
    "influence": Influence,
    "dha": DHA,
    "relaxed": Relaxed,
    "relax": Relax,
}


def get(identifier):
    """Returns an estimator.

    Args:
        identifier: A name, an `Estimator`, or its Keras config.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(identifier, dict):
        import keras

        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, Estimator):
        return identifier
    if isinstance(identifier, str) and identifier in _NAMES:
        return _NAMES[identifier]()
    raise ValueError(
        f"`estimator` must be one of {sorted(_NAMES)} or an object of "
        "`keras_dha.augmentation.estimators`. "
        f"Received: estimator={identifier!r}"
    )
