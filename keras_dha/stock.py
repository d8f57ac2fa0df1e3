"""The stock model: a trained network without layer classes of this library.

Whoever loads what was delivered needs Keras alone.
"""

import keras

from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.hyperparameters import dropout
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import rebuilt

_OURS = (dropout.Dropout, FusedBatchNormalization)


def stock(model, rate=None):
    """Returns `model` with Keras' own layers in the place of ours.

    Args:
        model: A functional or Sequential `keras.Model`; all other layers are
            shared with it.
        rate: Float, the rate that was found for `keras_dha.Dropout`, or
            `None` for that of each layer.
    """
    replaced = {}
    made = _stock_model(model, rate, replaced)
    for layer, theirs in replaced.values():
        if theirs is not layer:
            theirs.set_weights(layer.get_weights())
    return made


def _stock_model(model, rate, replaced):
    if not find_layers(model, _OURS):
        return model

    def replace(layer):
        if isinstance(layer, keras.Model):
            return _stock_model(layer, rate, replaced)
        if id(layer) not in replaced:
            replaced[id(layer)] = (layer, _stock_layer(layer, rate))
        return replaced[id(layer)][1]

    return rebuilt(model, replace)


def _stock_layer(layer, rate):
    if isinstance(layer, dropout.Dropout):
        config = layer.get_config()
        if rate is not None:
            config["rate"] = rate
        return keras.layers.Dropout.from_config(config)
    if isinstance(layer, FusedBatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    return layer
