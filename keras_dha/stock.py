"""The stock model: a trained network without layer classes of this library.

Whoever loads what was delivered needs Keras alone.
"""

import collections

import keras

from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.hyperparameters import dropout
from keras_dha.nested_layers import called_layers
from keras_dha.nested_layers import can_be_rebuilt
from keras_dha.nested_layers import compile_alike
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import hand_over
from keras_dha.nested_layers import rebuilt
from keras_dha.nested_layers import remade

# Keras' own layer for each of ours, which takes its configuration.
_STOCK = {
    dropout.Dropout: keras.layers.Dropout,
    FusedBatchNormalization: keras.layers.BatchNormalization,
}
_OURS = tuple(_STOCK)
_REGISTERED = {
    keras.saving.get_registered_name(ours): kind
    for ours, kind in _STOCK.items()
}


def stock(model, rate=None):
    """Returns `model` with Keras' own layers in the place of ours.

    Also where a wrapper such as `keras.layers.TimeDistributed` holds them. A
    layer or a subclassed model of the user's own that makes them itself keeps
    them, and so the result needs this library where it has such a one.

    It has weights of its own: with some layers new and others the same, what
    trains one of the two would leave a mixture in the other. But for layers
    that cannot be made anew, of a user's own without `get_config`, and for
    those that have a variable in common, which copies would not.

    Args:
        model: A functional or Sequential `keras.Model`.
        rate: Float, the rate that was found for `keras_dha.Dropout`, or
            `None` for that of each layer.

    Returns:
        `model` itself if it has no layer of ours, or cannot be rebuilt.
    """
    if not find_layers(model, _OURS) or not can_be_rebuilt(model):
        return model
    # What is kept is its own copy.
    copies = {id(layer): (layer, layer) for layer in _tied(model)}
    made = _stock_model(model, rate, copies, {})
    for layer, copy in copies.values():
        if copy is not layer:
            hand_over(layer, copy)
    compile_alike(made, model)
    return made


def _tied(model):
    """Returns the layers that hold a variable which another one holds, too."""
    holders = collections.defaultdict(dict)
    for layer in _leaves(model):
        for variable in getattr(layer, "variables", ()):
            holders[id(variable)][id(layer)] = layer
    return [
        layer
        for sharing in holders.values()
        if len(sharing) > 1
        for layer in sharing.values()
    ]


def _leaves(model):
    """Yields what a model calls that is no model which can be rebuilt."""
    for layer in called_layers(model):
        if can_be_rebuilt(layer):
            yield from _leaves(layer)
        else:
            yield layer


def _stock_model(model, rate, copies, models):
    # Keras asks at each call, and a model may be called twice, as a layer may.
    def replace(layer):
        # What has nothing to train need not be copied, and a lambda cannot
        # be. An operation, as of `x + y`, has nothing and is no layer.
        if not getattr(layer, "variables", ()):
            return layer
        if can_be_rebuilt(layer):
            if id(layer) not in models:
                made = _stock_model(layer, rate, copies, models)
                models[id(layer)] = made
            return models[id(layer)]
        if id(layer) not in copies:
            copies[id(layer)] = (layer, _stock_layer(layer, rate))
        return copies[id(layer)][1]

    return rebuilt(model, replace)


def _stock_layer(layer, rate):
    for ours, kind in _STOCK.items():
        if isinstance(layer, ours):
            return kind.from_config(_config(kind, layer.get_config(), rate))
    return remade(layer, lambda config: _swapped(config, rate))


def _swapped(value, rate):
    """Returns a configuration that names Keras' own layers for ours."""
    if isinstance(value, (list, tuple)):
        return type(value)(_swapped(item, rate) for item in value)
    if not isinstance(value, dict):
        return value
    value = {key: _swapped(item, rate) for key, item in value.items()}
    kind = _REGISTERED.get(value.get("registered_name"))
    if kind is None:
        return value
    return {
        **value,
        "module": "keras.layers",
        "class_name": kind.__name__,
        "config": _config(kind, value["config"], rate),
        "registered_name": None,
    }


def _config(kind, config, rate):
    """Returns the configuration of Keras' own layer from that of ours."""
    is_found = kind is keras.layers.Dropout and rate is not None
    return {**config, "rate": rate} if is_found else config
