"""The search space: from what `keras_dha.AutoModel` is given to a network."""

import functools

import keras

from keras_dha.architecture import spaces
from keras_dha.augmentation import is_policy_layer
from keras_dha.form import Form
from keras_dha.form import facts
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_graph

SPACES = {
    "auto": spaces.resnet,
    "darts": spaces.darts,
    "mobile": spaces.mobile,
    "nas_bench_201": spaces.nas_bench_201,
    "resnet": spaces.resnet,
    "shufflenet": spaces.shufflenet,
}


def space_builder(search_space, has_target=False):
    """Returns a function from a `DataSpec` to a network.

    That of a built-in space takes arguments of the space as well.

    Args:
        search_space: As `keras_dha.AutoModel` takes it.
        has_target: Whether the network is to be small; `spaces.resnet` has
            cheap candidates for that.
    """
    if isinstance(search_space, str) and search_space in SPACES:
        space = SPACES[search_space]
        if has_target and space is spaces.resnet:
            return functools.partial(_built_in, space, bottlenecks=True)
        return functools.partial(_built_in, space)
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


def _built_in(space, spec, **arguments):
    if not spec.is_single:
        raise ValueError(
            "The built-in search spaces have one input and one output. For "
            "several give a `keras.Model`, or a function that makes one, as "
            f"`search_space`. Received: inputs of shape {spec.shape}, "
            f"classes {spec.num_classes}"
        )
    if not spec.is_image:
        raise ValueError(
            "The built-in search spaces are for images, (n, h, w) or "
            "(n, h, w, c). For other data give a `keras.Model` with "
            "`keras_dha.Choice` layers as `search_space`. "
            f"Received: examples of shape {spec.shape}"
        )
    return space(
        spec.shape, spec.num_classes, value_range=spec.value_range, **arguments
    )


def _checked(network, spec):
    """Returns `network` if it maps the data's shape to its classes."""
    _with_inputs(network)
    found = spec.arranged(Form.of(network))
    inputs = [tuple(tensor.shape[1:]) for tensor in network.inputs]
    outputs = [tuple(tensor.shape[1:]) for tensor in network.outputs]
    shapes, classes = facts(found.shape), facts(found.num_classes)
    if not all(map(_fits, inputs, shapes)) or outputs != [
        (number,) for number in classes
    ]:
        hint = ""
        if (1,) in outputs and 2 in classes:
            hint = (
                "Two classes have an output each: in the place of one unit "
                'end in Dense(2, activation="softmax"). '
            )
        raise ValueError(
            f"The search space must map examples of shape {found.shape} to "
            f"{found.num_classes} classes. {hint}Received: a model from "
            f"{_shown(inputs)} to {_shown(outputs)}"
        )
    return network


def _with_inputs(network):
    if not is_graph(network):
        raise ValueError(
            "A search space must be a functional or Sequential `keras.Model` "
            "with an `Input` (that is what can be derived). "
            f"Received: {type(network).__name__}"
        )
    own = [
        name
        for name in ("train_step", "compute_loss")
        if getattr(type(network), name) is not getattr(keras.Model, name)
    ]
    if own:
        raise ValueError(
            "A run takes steps of its own, in which what a model does in "
            f"{own} is not done: give a plain `keras.Model`, and a loss by "
            f"`compile`. Received: {type(network).__name__}"
        )
    learned = [
        layer.name
        for layer in find_layers(network, keras.layers.Layer)
        if is_policy_layer(layer) and layer.trainable
    ]
    if learned:
        raise ValueError(
            "A policy in a network is not learned, and would be trained as "
            "weights are: give the layer as `augmentation=`, or make it with "
            f"trainable=False. Received: layers {learned} in the search space"
        )
    return network


def _fits(expected, shape):
    return len(expected) == len(shape) and all(
        e in (None, s) for e, s in zip(expected, shape, strict=True)
    )


def _shown(shapes):
    return shapes[0] if len(shapes) == 1 else shapes


def known_form(search_space):
    """Returns the `form.Form` of a search space that is a network already.

    Args:
        search_space: As `keras_dha.AutoModel` takes it.

    Returns:
        `None` if the network is still to be made.
    """
    if not isinstance(search_space, keras.Model):
        return None
    return Form.of(_with_inputs(search_space))
