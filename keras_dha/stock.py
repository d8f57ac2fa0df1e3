"""The stock model: a trained network without layer classes of this library.

Whoever loads what was delivered needs Keras alone.
"""

import keras

from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.hyperparameters import dropout
from keras_dha.nested_layers import cloned
from keras_dha.nested_layers import compile_alike
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import hand_over
from keras_dha.nested_layers import is_graph
from keras_dha.nested_layers import rebuilt

_OURS = (dropout.Dropout, FusedBatchNormalization)


def stock(model, rate=None):
    """Returns `model` with Keras' own layers in the place of ours.

    It has weights of its own: with some layers new and others the same, what
    trains one of the two would leave a mixture in the other. But for layers
    that cannot be made anew, of a user's own without `get_config`: these are
    kept. Layers of ours that a layer of a user's own holds stay there.

    Args:
        model: A functional or Sequential `keras.Model`.
        rate: Float, the rate that was found for `keras_dha.Dropout`, or
            `None` for that of each layer.

    Returns:
        `model` itself if it has no layer of ours.
    """
    if not find_layers(model, _OURS):
        return model
    copies = {}
    made = _stock_model(model, rate, copies)
    for layer, copy in copies.values():
        if copy is not layer:
            hand_over(layer, copy)
    compile_alike(made, model)
    return made


def _stock_model(model, rate, copies):
    def replace(layer):
        # Keras asks at each call: a layer, or a model, may be called twice.
        if id(layer) not in copies:
            copies[id(layer)] = (layer, _stock_layer(layer, rate, copies))
        return copies[id(layer)][1]

    return rebuilt(model, replace)


def _stock_layer(layer, rate, copies):
    if is_graph(layer) and find_layers(layer, _OURS):
        return _stock_model(layer, rate, copies)
    if isinstance(layer, dropout.Dropout):
        config = layer.get_config()
        if rate is not None:
            config["rate"] = rate
        return keras.layers.Dropout.from_config(config)
    if isinstance(layer, FusedBatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    # What has nothing to train need not be copied, and a lambda cannot be. An
    # operation, as of `x + y`, has nothing and is no layer.
    if not getattr(layer, "variables", ()):
        return layer
    return cloned(layer) if is_graph(layer) else _anew(layer, rate)


def _anew(layer, rate):
    """Returns a layer as the configuration of another says."""
    try:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Wrapper):
            # Its weights come with the wrapper's.
            inner = _stock_layer(layer.layer, rate, {})
            config["layer"] = keras.saving.serialize_keras_object(inner)
        return type(layer).from_config(config)
    except (TypeError, NotImplementedError):
        # One that cannot be made from what it says of itself.
        return layer
