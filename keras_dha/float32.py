"""Float32: a model that computes in it, with the weights of one that does not.

Neither phones nor ONNX have operations of bfloat16, in which a network may
have been trained.
"""

import keras

from keras_dha.nested_layers import can_be_rebuilt
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import hand_over
from keras_dha.nested_layers import inputs_of
from keras_dha.nested_layers import rebuilt
from keras_dha.nested_layers import remade

# What layers may compute in beside float32; integers are as they are.
HALVES = ("bfloat16", "float16")
_OTHERS = (*HALVES, "float64")


def layers_in(dtypes, model):
    """Returns the names of layers that compute in some dtypes, a list."""
    found = find_layers(model, keras.layers.Layer)
    return [x.name for x in found if x.compute_dtype in dtypes]


def in_float32(model):
    """Returns a model that computes in float32 with the same weights.

    Args:
        model: A functional or Sequential `keras.Model`.

    Returns:
        `model` itself if it does.

    Raises:
        ValueError: A layer within another layer, or one that cannot be made
            anew with a dtype, computes in another one; or the model has a
            `call` of its own.
    """
    if not layers_in(_OTHERS, model):
        return model
    if not can_be_rebuilt(model):
        raise ValueError(
            "This format computes in float32 alone, and a model is put into "
            "it by its graph, without a `call` of its own class: build it with "
            "dtype='float32', or do in layers what its `call` does. Received: "
            f"model={model.name} of class {type(model).__name__}"
        )
    policy = keras.config.dtype_policy()
    # Models have the policy that they are made under.
    keras.config.set_dtype_policy("float32")
    try:
        made = _rebuilt(model, {})
    finally:
        keras.config.set_dtype_policy(policy)
    left = layers_in(_OTHERS, made)
    if left:
        raise ValueError(
            "This format computes in float32 alone: build the layers within "
            "other layers, and layers of your own, with dtype='float32'. "
            f"Received: layers {left[:5]} of another dtype"
        )
    hand_over(model, made)
    return made


def _rebuilt(model, copies):
    def replace(layer):
        # An operation, as of `x + y`, computes in what it gets.
        if not isinstance(layer, keras.layers.Layer):
            return layer
        if id(layer) not in copies:
            copies[id(layer)] = _copy(layer, copies)
        return copies[id(layer)]

    # Also what nested models get would be cast to the dtype of their inputs.
    inputs = keras.tree.map_structure(_input, inputs_of(model))
    return rebuilt(model, replace, inputs=inputs)


def _input(tensor):
    is_other = tensor.dtype in _OTHERS
    return keras.Input(
        batch_shape=tensor.shape,
        dtype="float32" if is_other else tensor.dtype,
        name=tensor.name,
    )


def _copy(layer, copies):
    if can_be_rebuilt(layer):
        return _rebuilt(layer, copies)
    if not layers_in(_OTHERS, layer):
        return layer
    is_other = layer.compute_dtype in _OTHERS
    dtype = {"dtype": "float32"} if is_other else {}
    return remade(layer, lambda config: {**config, **dtype})
