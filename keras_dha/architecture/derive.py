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
    names = set()
    if isinstance(model, keras.Sequential):
        layers = [_plain(layer, names) for layer in model.layers]
        derived = keras.Sequential(
            [keras.Input(batch_shape=model.input_shape), *layers],
            name=model.name,
        )
    elif isinstance(model, keras.models.Model) and model.inputs:
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
    if isinstance(layer, Choice):
        layer = layer.chosen_candidate()
        layer = _plain(layer, set())
    elif isinstance(layer, keras.Model):
        layer = derive(layer)
    if layer.name in names:
        # Candidates of different choices may bear one name; a functional
        # model wants them distinct, and a layer cannot be renamed.
        layer = keras.Sequential([layer], name=f"{layer.name}_{len(names)}")
    names.add(layer.name)
    return layer
