"""Readable: whether the file of a run could be read, before there is one.

Keras writes any class and any function, by name, and reads those it can find.
What it and this library bring along can be found. So what is a user's own is
read once from its configuration, without its weights: other layers are not
made anew, which takes as long as the network took.
"""

import json
import types
import warnings

import keras

from keras_dha.assembly import keeping_generators
from keras_dha.nested_layers import held_layers

# Where classes and functions are from that can always be found.
_FOUND = ("keras", "keras_dha")
# And where those are from that layers have about them.
_PLAIN = (*_FOUND, "builtins", "collections", "inspect", "numpy", "tensorflow")
# What a file holds code of.
_CODE = ("Lambda", "__lambda__")
# As much is said of what went wrong.
_LONGEST = 300


@keeping_generators()
def check(joint, arguments, safe_mode=True):
    """Refuses a run that could not be read from its file.

    Args:
        joint: The `JointModel`.
        arguments: Dict of `saving.ARGUMENTS`.
        safe_mode: Whether the file may hold no code, as that of a `Lambda`.

    Raises:
        ValueError: A class or function of the user's own is not registered,
            or an object cannot be made from what its `get_config` returns.
    """
    layers, others = _parts(joint.network)
    others += [
        joint.architecture.strategy,
        joint.policy.augmentation,
        joint.hyperparameters,
        joint.rule,
        joint.target,
        arguments,
    ]
    found = []
    for layer in layers:
        config = _config(layer)
        # Keras' own may hold what is not, which says more by itself.
        found += [own for own in _own(config) if own != config] + [config]
    for other in others:
        found += _own(_config(other))
    for config in found:
        try:
            keras.saving.deserialize_keras_object(
                _without_weights(config), safe_mode=safe_mode
            )
        except Exception as error:
            # Whatever a class of the user's own raises.
            raise _refused(config, error) from error


def gist(error):
    """Returns what an error of Keras says, without whole configurations."""
    text = str(error).rpartition("Exception encountered: ")[2]
    return text.partition(" Full object config:")[0][:_LONGEST]


def _parts(network):
    """Returns what in a network is not Keras' own, nor ours.

    Layers that such a layer holds are its own business: it may make them
    itself, and then the file has nothing of them.

    Returns:
        (layers, what models are compiled with): loss and metrics are what the
        network itself is.
    """
    layers, compiled = [], []
    held, seen = [network], set()
    while held:
        layer = held.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if not all(map(_is_plain, (layer, *vars(layer).values()))):
            layers.append(layer)
            continue
        if isinstance(layer, keras.Model) and layer.compiled:
            compiled.append(layer.get_compile_config())
        held.extend(held_layers(layer))
    return layers, compiled


def _config(value):
    """Returns a configuration as a file has it."""
    with warnings.catch_warnings():
        # Of lambdas, which are refused if they cannot be read.
        warnings.simplefilter("ignore")
        config = keras.saving.serialize_keras_object(value)
    # Where a tuple comes back as a list.
    return json.loads(json.dumps(config))


def _is_plain(value):
    kind = value if isinstance(value, types.FunctionType) else type(value)
    is_code = isinstance(value, keras.layers.Lambda)
    return _root(kind.__module__) in _PLAIN and not is_code


def _root(module):
    return str(module).partition(".")[0]


def _own(config):
    """Yields the configurations of what is of the user's own, outermost."""
    if isinstance(config, dict):
        is_own = config.get("registered_name") and (
            _root(config.get("module")) not in _FOUND
        )
        if is_own or config.get("class_name") in _CODE:
            yield config
            return
        config = config.values()
    elif not isinstance(config, list):
        return
    for value in config:
        yield from _own(value)


def _without_weights(config):
    if isinstance(config, dict):
        return {
            key: _without_weights(value)
            for key, value in config.items()
            if key != "build_config"
        }
    if isinstance(config, list):
        return [_without_weights(value) for value in config]
    return config


def _refused(config, error):
    """Returns the error that says what cannot be read, and why."""
    kind, config = config["class_name"], config["config"]
    name = config.get("name") if isinstance(config, dict) else config
    if kind in _CODE:
        advice = (
            "A lambda could not be read from a file: put a layer of your own "
            "or a registered function in its place, or call "
            "`keras.config.enable_unsafe_deserialization()`, as you trust "
            "the files that you load"
        )
        kind = "layer" if kind == "Lambda" else kind
    else:
        advice = (
            "Expected layers, losses, metrics and the like that can be read "
            "from a file. Decorate a class or function of your own with "
            "`@keras.saving.register_keras_serializable()`, and let its "
            "`get_config` return all that its constructor takes"
        )
    received = f"{kind}={name}" if name else kind
    return ValueError(f"{advice}. Received: {received} ({gist(error)})")
