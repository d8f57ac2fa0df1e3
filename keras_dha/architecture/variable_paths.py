"""Variable paths: by which options of which choices a weight is reached."""

from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.nested_layers import held_layers


def variable_paths(network):
    """Returns by which options each variable of a network is reached.

    Args:
        network: A `keras.Model`.

    Returns:
        A dict from a variable's id to the set of its paths: tuples of
        (searchable layer, number of an option) from the outermost to the
        innermost, `()` outside of all searchable layers.
    """
    found, seen = {}, set()

    def walk(layer, path):
        if (id(layer), path) in seen:
            return
        seen.add((id(layer), path))
        theirs = set()
        for inner, within in _held(layer, path):
            walk(inner, within)
            theirs.update(id(v) for v in inner.variables)
        for variable in layer.variables:
            if id(variable) not in theirs:
                found.setdefault(id(variable), set()).add(path)

    walk(network, ())
    return found


def _held(layer, path):
    """Yields each layer that a layer holds itself, with each path to it."""
    options = layer.options if isinstance(layer, SearchableLayer) else []
    for inner in held_layers(layer):
        steps = [(layer, k) for k, c in enumerate(options) if c is inner]
        for step in steps:
            yield inner, (*path, step)
        if not steps:
            yield inner, path
