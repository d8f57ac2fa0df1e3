"""What a layer, a model or another Keras object is, as text without names.

Keras numbers the names of layers as it makes them, and what they share, so
the same model made twice in one process has others. Texts that are equal here
belong to objects that do the same with the same values.
"""

import json

import keras

from keras_dha.architecture.decision import Decision

# Where a graph's configuration names its layers.
_REFERENCES = ("keras_history", "input_layers", "output_layers")
# What a saved object says of its use so far, and not of what it is.
USED = ("build_config", "compile_config")
_DECISION = keras.saving.get_registered_name(Decision)
# How names begin that are always registered.
_OURS = "keras_dha>"


def described(value, without=()):
    """Returns the text of whatever Keras can serialize, without names.

    Args:
        value: Layer, model, loss, schedule or the like, or plain data.
        without: Keys of configurations that are left out.
    """
    text = json.dumps(keras.saving.serialize_keras_object(value), default=str)
    config = json.loads(
        text,
        object_hook=lambda found: _kept(found, without),
    )
    names = {}
    for holder, key in list(_names(config)):
        holder[key] = names.setdefault(holder[key], f"#{len(names)}")
    return json.dumps(config, sort_keys=True)


def _kept(found, without):
    name, kind = found.get("registered_name"), found.get("class_name")
    if name == _DECISION:
        # Strategies put it there, and it holds what is learned.
        found["config"].pop("code")
    elif kind == "function" and isinstance(found.get("config"), str):
        found["config"] = found["config"].rpartition(">")[2]
    elif kind and name and not name.startswith(_OURS):
        # A user's class that is registered later is the same as before. It
        # goes by its module and its own name, as a function does by its name.
        found["registered_name"] = kind
    return {key: item for key, item in found.items() if key not in without}


def _names(value, is_config=False):
    """Yields (dict or list, key) for each name of an object in its text.

    Args:
        value: Plain data.
        is_config: Whether it is the configuration of an object with a name.
    """
    if isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        kind = str(value.get("class_name", ""))
        # What a data type policy is called is what it does.
        is_named = kind != "" and not kind.endswith("DTypePolicy")
        for key, item in value.items():
            is_name = key == "name" and (is_named or is_config)
            if key == "shared_object_id" or (is_name and isinstance(item, str)):
                yield value, key
            elif key in _REFERENCES and is_config:
                yield from _references(item)
            else:
                yield from _names(item, is_named and key == "config")


def _references(value):
    """Yields the same in a structure of [name of a layer, number, number]."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            yield value, 0
        else:
            for item in value:
                yield from _references(item)
