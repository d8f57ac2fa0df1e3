"""Methods: which three parts a name stands for, as data.

A method is a row of three parts; each can be replaced or switched off. There
is no class for a combination: what is off is `None`.
"""

from typing import NamedTuple

import keras

from keras_dha.architecture import spaces
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import GDAS
from keras_dha.architecture.strategies import Strategy
from keras_dha.hyperparameters.hypergradient import DISCOUNTED
from keras_dha.hyperparameters.hypergradient import HORIZONS
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.quantities import validated


class Parts(NamedTuple):
    """What is learned beside the weights; `None` is off.

    Attributes:
        strategy: `Strategy` of the architecture search.
        augmentation: `"auto"` or a `DifferentiableAugmentation`.
        hyperparameters: Dict from name to number or `Range`; `"auto"` for
            what suits the optimizer.
        horizon: `hypergradient.Horizon` by which they are learned.
    """

    strategy: object
    augmentation: object
    hyperparameters: dict | str | None
    horizon: Horizon = DISCOUNTED


METHODS = {
    "auto": lambda: Parts(DSNAS(), "auto", "auto"),
    "darts": lambda: Parts(DARTS(), None, None),
    "dsnas": lambda: Parts(DSNAS(), None, None),
    "gdas": lambda: Parts(GDAS(), None, None),
}


SPACES = {
    "auto": spaces.resnet,
    "darts": spaces.darts,
    "mobile": spaces.mobile,
    "nas_bench_201": spaces.nas_bench_201,
    "resnet": spaces.resnet,
    "shufflenet": spaces.shufflenet,
}


def parts(method, strategy, augmentation, hyperparameters, horizon="auto"):
    """Returns the `Parts` of a method with the given ones in their place.

    Args:
        method: Name of a method.
        strategy, augmentation, hyperparameters, horizon: As
            `keras_dha.AutoModel` takes them; `"auto"` keeps the method's.
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {sorted(METHODS)}. "
            f"Received: method={method!r}"
        )
    row = METHODS[method]()
    if strategy != "auto":
        row = row._replace(strategy=_checked_strategy(strategy))
    if not isinstance(augmentation, str) or augmentation != "auto":
        row = row._replace(augmentation=_checked_augmentation(augmentation))
    if hyperparameters is None or isinstance(hyperparameters, dict):
        values = validated(hyperparameters or {})
        row = row._replace(hyperparameters=values or None)
    elif hyperparameters != "auto":
        raise ValueError(
            "`hyperparameters` must be 'auto', None or a dict. "
            f"Received: hyperparameters={hyperparameters!r}"
        )
    if horizon != "auto":
        row = row._replace(horizon=_checked_horizon(horizon))
    return row


def _checked_horizon(horizon):
    if isinstance(horizon, Horizon):
        return horizon
    if horizon not in HORIZONS:
        raise ValueError(
            f"`horizon` must be 'auto' or one of {sorted(HORIZONS)}. "
            f"Received: horizon={horizon!r}"
        )
    return HORIZONS[horizon]


def _checked_strategy(strategy):
    if strategy is None or isinstance(strategy, Strategy):
        return strategy
    raise ValueError(
        "`strategy` must be 'auto', None or an object of "
        f"`keras_dha.strategies`. Received: strategy={strategy!r}"
    )


def _checked_augmentation(augmentation):
    # Asked by its verb: to import the class would load KerasCV.
    if augmentation is None or (
        isinstance(augmentation, keras.layers.Layer)
        and hasattr(type(augmentation), "score_gradient")
    ):
        return augmentation
    raise ValueError(
        "`augmentation` must be 'auto', None or a "
        "`keras_dha.DifferentiableAugmentation`. "
        f"Received: augmentation={augmentation!r}"
    )


def space_builder(search_space):
    """Returns a function from a `DataSpec` to a network.

    Args:
        search_space: As `keras_dha.AutoModel` takes it.
    """
    if isinstance(search_space, str) and search_space in SPACES:
        return lambda spec: _built_in(SPACES[search_space], spec)
    if isinstance(search_space, keras.Model):
        return lambda spec: _checked(search_space, spec)
    if callable(search_space):
        return lambda spec: _checked(
            search_space(spec.shape, spec.num_classes), spec
        )
    raise ValueError(
        f"`search_space` must be one of {sorted(SPACES)}, a `keras.Model` "
        "or a function (input_shape, num_classes) -> keras.Model. "
        f"Received: search_space={search_space!r}"
    )


def _built_in(space, spec):
    if not spec.is_image:
        raise ValueError(
            "The built-in search spaces are for images, (n, h, w) or "
            "(n, h, w, c). For other data give a `keras.Model` with "
            "`keras_dha.Choice` layers as `search_space`. "
            f"Received: examples of shape {spec.shape}"
        )
    return space(spec.shape, spec.num_classes, value_range=spec.value_range)


def _checked(network, spec):
    """Returns `network` if it maps the data's shape to its classes."""
    if not isinstance(network, keras.Model) or not getattr(
        network, "inputs", None
    ):
        raise ValueError(
            "A search space must be a functional or Sequential `keras.Model` "
            "with an `Input` (that is what can be derived). "
            f"Received: {type(network).__name__}"
        )
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            "A search space must have one input and one output. Received: "
            f"{len(network.inputs)} inputs, {len(network.outputs)} outputs"
        )
    expected, outputs = network.inputs[0].shape[1:], network.outputs[0].shape
    fits = len(expected) == len(spec.shape) and all(
        e in (None, s) for e, s in zip(expected, spec.shape, strict=True)
    )
    if not fits or tuple(outputs[1:]) != (spec.num_classes,):
        raise ValueError(
            f"The search space must map examples of shape {spec.shape} to "
            f"{spec.num_classes} classes. Received: a model from "
            f"{tuple(expected)} to {tuple(outputs[1:])}"
        )
    return network
