"""Deriving: the plain model that a searched model has become.

The graph is cloned; every `Choice` is replaced by the candidate it chose and
every other layer by itself. They are the *same layer objects*, so weights,
normalisation statistics and optimizer state are inherited, not copied.
"""

import keras

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_layers


def derive(model):
    """Returns the plain model that `model` is with its choices made.

    Args:
        model: A functional or Sequential `keras.Model` with or without
            `keras_dha.Choice` layers, also nested in models or candidates.

    Returns:
        A `keras.Model` without `Choice` layers that shares its layers, and
        so its weights, with `model`. A free decision counts as decided for
        its most probable candidate.

    Raises:
        ValueError: A `Choice` sits where it cannot be replaced: inside a
            subclassed model or a custom layer.

    Example:

    >>> plain = derive(supernet)
    >>> plain.save("plain.keras")
    """
    if not find_layers(model, Choice):
        return model
    names = {
        layer.name for layer in model.layers if not isinstance(layer, Choice)
    }
    if isinstance(model, keras.Sequential):
        layers = [_plain(layer, names) for layer in model.layers]
        derived = keras.Sequential(
            [keras.Input(batch_shape=model.input_shape), *layers],
            name=model.name,
        )
    elif getattr(model, "inputs", None):
        replaced = {}

        def replace(layer):
            if id(layer) not in replaced:
                replaced[id(layer)] = _plain(layer, names)
            return replaced[id(layer)]

        derived = keras.models.clone_model(model, clone_function=replace)
    else:
        raise ValueError(
            "Only Sequential and functional models can be derived; build the "
            "part that holds the `Choice` layers as one of these. "
            f"Received: model={model.name} of class {type(model).__name__}"
        )
    left = find_layers(derived, Choice)
    if left:
        raise ValueError(
            "A `Choice` inside a custom layer cannot be replaced. Put it into "
            "a Sequential or functional model instead. "
            f"Received: {[choice.name for choice in left]}"
        )
    return derived


def _plain(layer, names):
    """Returns what takes a layer's place, under a name that is not taken."""
    if isinstance(layer, keras.Model):
        return derive(layer)
    if not isinstance(layer, Choice):
        return layer
    chosen = _plain(layer.chosen_candidate(), set())
    name, number = chosen.name, 1
    while name in names:
        number += 1
        name = f"{chosen.name}_{number}"
    names.add(name)
    if name == chosen.name:
        return chosen
    # Candidates of different choices may bear one name; a functional model
    # wants them distinct, and a layer cannot be renamed.
    return keras.Sequential([chosen], name=name)
