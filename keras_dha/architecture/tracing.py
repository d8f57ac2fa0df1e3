"""Tracing: candidates are built, and asked what they give, as Keras does it.

A layer of the user's own may hold layers and have a `call`, and nothing else.
Keras builds it, and knows its output, by running it on a tensor without values.
A layer that holds candidates must do so for them: it calls them in a branch,
where nothing can be built any more.
"""

import keras

from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_stock


def has_own_build(layer):
    """Whether a layer says itself how it is built."""
    return type(layer).build is not keras.layers.Layer.build


def build(layer, tensor):
    """Builds a layer and what it holds; what is built stays as it is.

    Args:
        layer: Keras layer.
        tensor: `keras.KerasTensor` like the inputs that it will get.
    """
    if not layer.built and (has_own_build(layer) or not _holds_unbuilt(layer)):
        layer.build(tensor.shape)
    if _holds_unbuilt(layer):
        traced(layer, tensor)


def output_spec(layer, tensor):
    """Returns what a layer makes of a tensor, a `keras.KerasTensor`.

    Args:
        layer: Keras layer that is built.
        tensor: `keras.KerasTensor` like its inputs.

    Raises:
        ValueError: It gives something else than one tensor.
    """
    kind, base = type(layer), keras.layers.Layer
    knows = (
        kind.compute_output_shape is not base.compute_output_shape
        or kind.compute_output_spec is not base.compute_output_spec
    )
    found = (
        layer.compute_output_spec(tensor) if knows else traced(layer, tensor)
    )
    if not isinstance(found, keras.KerasTensor):
        raise ValueError(
            "A candidate must give one tensor. "
            f"Received: candidate={layer.name}, which gives {found}"
        )
    return found


def _holds_unbuilt(layer):
    return any(
        not part.built
        for part in find_layers(layer, keras.layers.Layer)
        if part is not layer
    )


def traced(layer, tensor):
    """Returns what a layer makes of a tensor, by running it."""
    return _Call(layer).compute_output_spec(tensor)


def gives_mask(layer, tensor):
    """Whether the output of a layer has a mask, where its input has none.

    Args:
        layer: Keras layer that is built.
        tensor: `keras.KerasTensor` like its inputs.
    """
    if not any(map(_makes_mask, find_layers(layer, keras.layers.Layer))):
        return False
    call = _Call(layer)
    call.compute_output_spec(tensor)
    return call.gave_mask


def _makes_mask(layer):
    if is_stock(layer):
        is_masking = isinstance(layer, keras.layers.Masking)
        return is_masking or bool(getattr(layer, "mask_zero", False))
    return type(layer).compute_mask is not keras.layers.Layer.compute_mask


class _Call(keras.Operation):
    """The call of a layer.

    An operation is traced to know its output. To trace `layer.call` would
    leave out what comes before it: the layer's name in the paths of its
    weights, and the data type of its inputs. To call the layer on a
    `KerasTensor` would leave a node on it, which is no part of any model.
    """

    def __init__(self, layer):
        super().__init__(name=layer.name)
        self._layer = layer
        self.gave_mask = False

    def call(self, inputs):
        outputs = self._layer(inputs)
        # Keras' private attribute: there is no public way to a mask.
        self.gave_mask = any(
            getattr(output, "_keras_mask", None) is not None
            for output in keras.tree.flatten(outputs)
        )
        return outputs
