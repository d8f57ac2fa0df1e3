"""What a layer, a model or another Keras object is, as text without names.

Keras numbers the names of layers as it makes them, and what they share, so
the same model made twice in one process has others. Texts that are equal here
belong to objects that do the same with the same values.
"""

import json

import keras


def described(value, without=()):
    """Returns the text of whatever Keras can serialize, without names.

    Args:
        value: Layer, model, loss, schedule or the like, or plain data.
        without: Keys of configurations that are left out.
    """
    text = json.dumps(keras.saving.serialize_keras_object(value), default=str)
    config = json.loads(
        text,
        object_hook=lambda found: {
            key: item for key, item in found.items() if key not in without
        },
    )
    names = {}
    _collect_names(config, names)
    return json.dumps(_renamed(config, names), sort_keys=True)


def _collect_names(config, names):
    if isinstance(config, dict):
        for key in ("name", "shared_object_id"):
            if isinstance(config.get(key), (str, int)):
                names.setdefault(config[key], f"#{len(names)}")
    if isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            _collect_names(value, names)


def _renamed(value, names):
    if isinstance(value, dict):
        return {
            key: names[item]
            if key == "shared_object_id"
            else _renamed(item, names)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
