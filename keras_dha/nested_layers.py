"""Nested layers: those that a layer or a model holds, at any depth."""


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
