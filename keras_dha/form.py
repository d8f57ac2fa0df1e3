"""Form: one input or several, by name or in order; and so with outputs.

Whoever gives data may give one array, a tuple of them or a dict by name, and
so does a Keras network take them. Data are brought into the network's own form
once, and from then on nobody asks which is which. What has several parts is a
dict or a tuple; among the facts about data, where a tuple is a shape, a dict or
a list. Parts in a row are in Keras' order: that of a network's inputs, and for
a dict that of its sorted names.
"""

from collections.abc import Sized
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf


class Ports(NamedTuple):
    """The inputs of a network, or its outputs.

    Attributes:
        kind: `"input"` or `"output"`, for messages.
        names: List of their names, in Keras' order.
        by_name: Whether the network has them in a dict.
    """

    kind: str
    names: list
    by_name: bool

    def arranged(self, given, several=tuple):
        """Returns data, or facts about them, in the form of the network.

        Args:
            given: One part; or several, in a dict or in a `several`.
            several: Class of what holds parts in order.

        Raises:
            ValueError: There are other names, or another number of parts.
        """
        if isinstance(given, dict) and len(given) == len(self.names) == 1:
            # An output that is a choice is called as what was chosen, later.
            found = list(given.values())
        elif isinstance(given, dict):
            self._check(set(given) == set(self.names), sorted(given))
            found = [given[name] for name in self.names]
        elif isinstance(given, several):
            self._check(len(given) == len(self.names), f"{len(given)} in order")
            found = list(given)
        else:
            self._check(len(self.names) == 1, "one without a name")
            found = [given]
        return self.packed(found, several)

    def packed(self, found, several=tuple):
        """Returns parts, a list in Keras' order, in the network's form."""
        if self.by_name:
            return dict(zip(self.names, found, strict=True))
        return several(found) if len(found) > 1 else found[0]

    def _check(self, is_right, received):
        if not is_right:
            raise ValueError(
                f"Expected the {self.kind}s of the network, as a dict with the "
                f"keys {self.names} or in this order. "
                f"Received: {self.kind}s {received}"
            )


class Form(NamedTuple):
    """How a network takes its inputs and gives its outputs.

    Attributes:
        inputs, outputs: `Ports`.
    """

    inputs: Ports
    outputs: Ports

    @classmethod
    def of(cls, network):
        """Returns the form of a network.

        Args:
            network: A functional or Sequential `keras.Model`.

        Raises:
            ValueError: Its inputs or outputs are nested deeper than a list
                or a dict.
        """
        # A sequential model that was never called does not know `input`.
        if isinstance(network, keras.Sequential):
            return cls(
                Ports("input", [network.inputs[0].name], False),
                Ports("output", [network.layers[-1].name], False),
            )
        input_names = [tensor.name for tensor in network.inputs]
        return cls(
            _ports("input", network.input, input_names),
            _ports("output", network.output, list(network.output_names)),
        )

    def arranged(self, x, y):
        """Returns a dataset and `None`, or (x, y), in the network's form.

        Args:
            x: As `structured` returns it.
            y: The same, or `None` where `x` is a dataset.
        """
        if not isinstance(x, tf.data.Dataset):
            return self.inputs.arranged(x), self.outputs.arranged(y)

        def arranged(x, y):
            return self.inputs.arranged(x), self.outputs.arranged(y)

        given = x.element_spec
        wanted = arranged(*given)
        # A map that changes nothing would cost a thread.
        return (x if wanted == given else x.map(arranged)), None


def _ports(kind, structure, names):
    by_name = isinstance(structure, dict)
    found = structure
    if by_name:
        # In Keras' order; the names of an output's layer are not its key.
        names = sorted(structure)
        found = list(structure.values())
    if isinstance(found, (list, tuple)) and any(
        isinstance(part, (dict, list, tuple)) for part in found
    ):
        raise ValueError(
            f"The {kind}s of a network must be a tensor, a list or a dict of "
            f"tensors. Received: {kind}s={structure}"
        )
    if len(set(names)) < len(names):
        raise ValueError(
            f"Each {kind} of a network must have a name of its own: no layer "
            f"can give two. Received: {kind}s {names}"
        )
    return Ports(kind, names, by_name)


def facts(field):
    """Returns the parts of a fact about data, a list in Keras' order."""
    if isinstance(field, dict):
        return [field[name] for name in sorted(field)]
    return field if isinstance(field, list) else [field]


def like(structure, found):
    """Returns facts in the form of data.

    Args:
        structure: Data, or the element spec of a dataset.
        found: List of a fact for each part of it, in Keras' order.
    """
    if isinstance(structure, dict):
        return dict(zip(sorted(structure), found, strict=True))
    return list(found) if isinstance(structure, tuple) else found[0]


def structured(x, y):
    """Tells several inputs and outputs from one that is a list of examples.

    A list or tuple holds several if these are arrays as long as there are
    labels, and there are not as many of them; else it is one array.

    Args:
        x, y: As `keras_dha.AutoModel.fit` takes arrays.

    Returns:
        (x, y), each one part, a tuple of parts or a dict of them.
    """
    x = _structured(x, _lengths(y))
    if isinstance(x, (dict, tuple)):
        counts = {len(part) for part in keras.tree.flatten(x)[:1]}
    else:
        counts = _lengths(x)
    return x, _structured(y, counts)


def _structured(given, counts):
    if isinstance(given, dict):
        return dict(given)
    if not isinstance(given, (list, tuple)):
        return given
    if _are_arrays(given):
        lengths = {len(array) for array in given}
        if lengths <= counts and len(given) not in lengths:
            return tuple(given)
        if isinstance(given, tuple) and len(given) not in counts:
            # Several, whatever is wrong with their lengths.
            return given
    try:
        return np.asarray(given)
    except ValueError:
        shapes = [np.shape(part) for part in given[:5]]
        raise ValueError(
            "Expected one array, or one for each input or output, all as long "
            "as there are labels; images of several sizes must be resized "
            f"first. Received: {len(given)} arrays, shapes {shapes}"
        ) from None


def _are_arrays(given):
    return (
        isinstance(given, (list, tuple))
        and len(given) > 0
        and all(
            isinstance(part, (np.ndarray, tf.Tensor)) and len(part.shape) > 0
            for part in given
        )
    )


def _lengths(given):
    """Returns the numbers of examples that data can be meant to have."""
    if isinstance(given, dict):
        return {len(part) for part in given.values()}
    if not isinstance(given, Sized):
        return set()
    lengths = {len(given)}
    if _are_arrays(given):
        lengths |= {len(part) for part in given}
    return lengths


def count(x):
    """Returns how many examples tensors hold, an integer or a scalar."""
    first = keras.tree.flatten(x)[0]
    return first.shape[0] or tf.shape(first)[0]
