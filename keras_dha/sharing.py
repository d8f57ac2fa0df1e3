"""Sharing: layers that are in several places of a network, in its file.

Keras marks a layer as shared where it meets it again, and forgets the mark of
where it met it first. So it meets all of them twice here.
"""

import keras

from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_graph


def serialized(model):
    """Returns a model's configuration, by which what it shares stays shared.

    Also where Keras forgets that, as between models within the model.

    Args:
        model: A `keras.Model`.
    """
    keras.saving.serialize_keras_object(model)
    config = keras.saving.serialize_keras_object(model)
    return marked(config, with_state(model))


def with_state(layer):
    """Returns the ids of the layers in a layer that have something to share.

    A graph finds the calls of a shared layer only if no other graph calls it
    (`check`), so an activation is none.
    """
    return {
        id(part)
        for part in find_layers(layer, keras.layers.Layer)
        if part.variables or not part.built
    }


def marked(config, marks):
    """Returns a configuration in which layers of some ids are marked, only.

    Other objects may be gone, and their ids those of others.
    """
    if isinstance(config, dict):
        return {
            key: marked(value, marks)
            for key, value in config.items()
            if key != "shared_object_id" or value in marks
        }
    if isinstance(config, (list, tuple)):
        return type(config)(marked(value, marks) for value in config)
    return config


def check(network):
    """Refuses a network whose file Keras could not read.

    It numbers a layer's calls by all graphs that call it, and finds those of
    a functional model only where they are the first.

    Args:
        network: A `keras.Model`.

    Raises:
        ValueError: A functional model shares a layer with another model.
    """
    callers = {}
    for model in find_layers(network, keras.Model):
        if is_graph(model):
            for layer in {id(x): x for x in model.layers}.values():
                callers.setdefault(id(layer), (layer, []))[1].append(model)
    for layer, models in callers.values():
        are_chains = all(isinstance(m, keras.Sequential) for m in models)
        if layer.variables and len(models) > 1 and not are_chains:
            raise ValueError(
                "A layer that a functional model shares with another model "
                "cannot be read from a file. Let models that share layers be "
                "`keras.Sequential`, or use the layer in one model alone. "
                f"Received: layer {layer.name} in "
                f"{[model.name for model in models]}"
            )
