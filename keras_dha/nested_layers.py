"""Nested layers: those that a layer or a model holds, at any depth.

What a graph is made of has no public way to it: the private hooks are here.
"""

import keras


def find_layers(model, kind):
    """Returns every layer of class `kind` inside `model`, each one once.

    Uses Keras' private `_flatten_layers`: `Model.layers` does not show the
    layers that a layer holds, and there is no public way to reach them.

    Args:
        model: A `keras.Layer` or `keras.Model`, which counts as well.
        kind: A class, or a tuple of classes.
    """
    found = {}
    for layer in model._flatten_layers(include_self=True, recursive=True):
        if isinstance(layer, kind):
            found.setdefault(id(layer), layer)
    return list(found.values())


def trains_normalisation(model):
    """Whether a batch normalisation inside `model` is trained.

    Args:
        model: A `keras.Model`.
    """
    found = find_layers(model, keras.layers.BatchNormalization)
    return any(layer.trainable for layer in found)


def is_stock(layer):
    """Whether a layer's class is one of Keras itself."""
    return type(layer).__module__.startswith("keras.")


def is_graph(layer):
    """Whether a layer is a model that shows what it calls.

    As Sequential and functional models do, once they have inputs.
    """
    is_model = isinstance(layer, keras.Model)
    return is_model and bool(getattr(layer, "inputs", None))


def held_layers(layer):
    """Returns the layers that a layer holds itself, a list.

    Uses Keras' private `_flatten_layers`, as `find_layers` does.

    Args:
        layer: A `keras.Layer` or `keras.Model`.
    """
    return list(layer._flatten_layers(include_self=False, recursive=False))


def output_layers(model):
    """Returns what gives each output of a functional model, a list.

    Uses Keras' private `_keras_history` of a tensor.

    Args:
        model: A functional or Sequential `keras.Model`.
    """
    return [tensor._keras_history.operation for tensor in model.outputs]


def called_layers(model):
    """Returns what a model calls itself, once for each call, a list.

    Uses Keras' private `_nodes_by_depth`.

    Args:
        model: A functional or Sequential `keras.Model`.
    """
    if isinstance(model, keras.Sequential):
        return model.layers
    return [
        node.operation
        for nodes in model._nodes_by_depth.values()
        for node in nodes
    ]


def loses_its_call(model):
    """Whether a model that is rebuilt does without a `call` of its class.

    Keras rebuilds a functional one as its class if that is made from inputs
    and outputs, and otherwise without it, as it is with a Sequential one.

    Args:
        model: A functional or Sequential `keras.Model`.
    """
    kinds = ("Sequential", "Functional")
    kept = next(
        kind
        for kind in type(model).__mro__
        if kind.__module__.startswith("keras.") and kind.__name__ in kinds
    )
    is_made_otherwise = type(model).__init__ is not kept.__init__
    is_lost = is_made_otherwise or isinstance(model, keras.Sequential)
    return type(model).call is not kept.call and is_lost


def can_be_rebuilt(layer):
    """Whether a layer is a model that `rebuilt` does the same as."""
    return is_graph(layer) and not loses_its_call(layer)


def forgets_arguments(layer):
    """Whether a layer does not say what it was made with, but makes it up.

    Keras keeps the arguments of layers without `get_config`, but of a
    subclassed model it gives the defaults.
    """
    is_of_keras = type(layer).get_config.__module__.startswith("keras.")
    is_own_model = isinstance(layer, keras.Model) and not is_stock(layer)
    return is_own_model and is_of_keras


def remade(layer, change):
    """Returns a layer made anew, or itself if it cannot be.

    Args:
        layer: Keras layer, which may be of a user's own.
        change: Function from its configuration to that of the new one.
    """
    if forgets_arguments(layer):
        return layer
    try:
        return type(layer).from_config(change(layer.get_config()))
    except (TypeError, NotImplementedError):
        # One that cannot be made from what it says of itself.
        return layer


def inputs_of(model):
    """Returns a model's inputs: a tensor, or a structure of them."""
    # A sequential model that was never called does not know `input`.
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    return model.input


def rebuilt(model, replace, call=None, inputs=None):
    """Returns a model with other layers in the place of its own.

    It is not compiled.

    Args:
        model: A functional or Sequential `keras.Model`.
        replace: Function from a layer to what takes its place, maybe itself.
        call: How a functional model's layers are called, as `clone_model`
            takes it; by default as they are.
        inputs: Its inputs, as `inputs_of` has them; by default alike.
    """
    if isinstance(model, keras.Sequential):
        if inputs is None:
            given = inputs_of(model)
            inputs = keras.Input(
                batch_shape=given.shape, dtype=given.dtype, name=given.name
            )
        # One layer may stand in several places.
        distinct = {id(layer): layer for layer in model.layers}
        made = {key: replace(layer) for key, layer in distinct.items()}
        layers = [made[id(layer)] for layer in model.layers]
        return keras.Sequential([inputs, *layers], name=model.name)
    return cloned(
        model,
        input_tensors=inputs,
        clone_function=replace,
        call_function=call,
    )


def cloned(model, **arguments):
    """Returns `keras.models.clone_model(model, ...)`, which is not compiled.

    Keras would write down loss and metrics, and read those of the copy from
    that, which works for its own and for registered ones alone.

    Args:
        model: A `keras.Model`.
        **arguments: As `clone_model` takes them.
    """
    is_compiled = model.compiled
    model.compiled = False
    try:
        return keras.models.clone_model(model, **arguments)
    finally:
        model.compiled = is_compiled


def compiled_with(model):
    """Returns the arguments that a model was compiled with, a dict.

    Uses Keras' private `_compile_config`: there is no public way to what a
    model was compiled with but one that writes it down.

    Args:
        model: A `keras.Model`.

    Returns:
        Dict of objects, `{}` if it was not compiled.
    """
    return model._compile_config.config if model.compiled else {}


def compile_alike(model, other):
    """Compiles a model with the loss and the metrics of another, if it is.

    Args:
        model: A `keras.Model`.
        other: The `keras.Model` whose objects it gets.
    """
    if other.compiled:
        model.compile(**compiled_with(other))


def hand_over(layer, copy):
    """Gives a copy what its original has learned, as files of Keras do.

    With what follows from it: after `adapt` a `Normalization` has constants,
    which `set_weights` leaves as they are.

    Args:
        layer, copy: Two layers, or models, of layers in the same order.
    """
    held = (find_layers(each, keras.layers.Layer) for each in (layer, copy))
    for theirs, ours in zip(*held, strict=True):
        kept = {}
        theirs.save_own_variables(kept)
        ours.load_own_variables(kept)
