"""The weights of a network as one vector.

Update rules and hypergradients are equations on a single vector w. This is
the view of a network's variables that makes them so: read, write, and which
parts of w took part in the step that was just sampled.
"""

import collections
import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.given_weights import GivenWeights
from keras_dha.given_weights import reshaped
from keras_dha.inner_update import spread
from keras_dha.nested_layers import find_layers
from keras_dha.weight_layout import layout


class WeightVector:
    """The trainable weights of `network`, without architecture variables.

    Args:
        network: A built `keras.Model`.

    Attributes:
        variables: List of the Keras variables, in the vector's order.
        sizes: List of their numbers of elements; they sum to P.
        dtype: Name of the vector's dtype, that of the variables.
    """

    def __init__(self, network):
        architecture = {
            id(v) for d in find_decisions(network) for v in d.variables
        }
        self.variables = [
            v for v in network.trainable_variables if id(v) not in architecture
        ]
        self.sizes = [int(np.prod(v.shape)) for v in self.variables]
        dtypes = {v.dtype for v in self.variables}
        if len(dtypes) != 1:
            raise ValueError(
                "A network must have weights, and all of one dtype. "
                f"Received: {len(self.variables)} weights of {sorted(dtypes)}"
            )
        self.dtype = dtypes.pop()
        self._owners = _owners(network, self.variables)
        self._stretches = _stretches(self._owners, self.sizes)
        self._layout = layout(network, self.variables)

    @property
    def size(self):
        """P, the number of weights."""
        return sum(self.sizes)

    def tensors(self):
        """Returns the variables' values, to differentiate by."""
        return [v.value for v in self.variables]

    def read(self):
        """Returns the current weights, a tensor of shape `(P,)`."""
        return self.join(self.tensors())

    def join(self, tensors):
        """Returns tensors shaped like the variables as one vector."""
        flat = [reshaped(t, [-1]) for t in tensors]
        return tf.concat(flat, axis=0)

    def split(self, vector):
        """Returns the parts of a vector, shaped like the variables."""
        return [
            reshaped(part, v.shape)
            for part, v in zip(
                tf.split(vector, self.sizes), self.variables, strict=True
            )
        ]

    def pieces(self, vector):
        """Returns the parts of a vector that are handed to the network.

        To run it at them, by `given`, and to differentiate by: a list of
        vectors (`keras_dha.weight_layout`).
        """
        return tf.split(vector, self._layout.sizes)

    def given(self, pieces, moves=False, once=False):
        """Returns the scope in which the network has other weights.

        Args:
            pieces: List of vectors, as `pieces` gives them.
            moves: Whether normalisation statistics and seeds move.
            once: Whether derivatives by the pieces will be taken once, and
                never twice.
        """
        return GivenWeights(self._layout, pieces, moves, once)

    def write(self, vector):
        """Assigns a vector to the variables."""
        for variable, value in zip(
            self.variables, self.split(vector), strict=True
        ):
            variable.assign(value)

    def positions_of(self, variables):
        """Returns where the elements of some variables stand in the vector.

        Args:
            variables: List of Keras variables, all of them in the vector.

        Returns:
            int64 NumPy array, in the order of `variables`.
        """
        starts = np.cumsum([0, *self.sizes])
        position = {
            id(v): np.arange(start, start + size)
            for v, start, size in zip(
                self.variables, starts, self.sizes, strict=False
            )
        }
        return np.concatenate([position[id(v)] for v in variables])

    def decayed(self):
        """Returns `(P,)`: 1 where weight decay applies, else 0.

        To kernels and embeddings, but not to biases or normalisation scales
        (variables of rank below 2).
        """
        flags = [float(len(v.shape) > 1) for v in self.variables]
        return spread(tf.constant(flags, self.dtype), self.sizes)

    def active(self):
        """Returns which weights the step that runs uses, booleans `(P,)`.

        A candidate's weights are active when its decision runs it with a
        weight that is not 0, and every decision around it does so too. In a
        network without decisions all are, which is `None`.
        """
        if not self._owners.groups:
            return None
        runs = tf.concat([d.runs() for d in self._owners.decisions], axis=0)
        runs = tf.cast(runs, "int32")
        # Any candidate of a group, and then all groups of a variable.
        used = tf.math.segment_max(
            tf.gather(runs, self._owners.options), self._owners.groups
        )
        flags = tf.math.unsorted_segment_min(
            used, self._owners.variables, len(self.variables)
        )
        # Where no group is, the minimum is the largest integer.
        first, sizes = self._stretches
        return spread(tf.gather(flags, first) > 0, sizes)


class _Owners(NamedTuple):
    """Which options hold which variables, for searchable layers.

    A group is a variable in the candidates of one searchable layer. Lists:

    Attributes:
        decisions: The decisions, whose options are numbered in turn.
        options: For each membership the option,
        groups: and the group, ascending.
        variables: For each group its variable.
    """

    decisions: list
    options: list
    groups: list
    variables: list


def _owners(network, variables):
    """Returns the `_Owners` of the variables of a network."""
    decisions = find_decisions(network)
    starts = dict(
        zip(
            map(id, decisions),
            np.cumsum([0, *(d.num_candidates for d in decisions)]),
            strict=False,
        )
    )
    number = {id(v): k for k, v in enumerate(variables)}
    owners = _Owners(decisions, [], [], [])
    for choice in find_layers(network, SearchableLayer):
        holders = {}
        for k, candidate in enumerate(choice.options):
            for variable in candidate.trainable_variables:
                if id(variable) in number:
                    holders.setdefault(number[id(variable)], []).append(k)
        for variable, options in holders.items():
            first = starts[id(choice.decision)]
            owners.options.extend(first + k for k in options)
            owners.groups.extend([len(owners.variables)] * len(options))
            owners.variables.append(variable)
    return owners


def _stretches(owners, sizes):
    """Returns where variables begin that run together, and their sizes.

    Args:
        owners: `_Owners` of the variables.
        sizes: List of the sizes of all variables.

    Returns:
        Pair of lists, of the first variable of each stretch and of how many
        numbers the stretch has.
    """
    options = collections.defaultdict(list)
    for option, group in zip(owners.options, owners.groups, strict=True):
        options[group].append(option)
    held = [[] for _ in sizes]
    for group, variable in enumerate(owners.variables):
        held[variable].append(options[group])
    stretches = [
        list(stretch)
        for _, stretch in itertools.groupby(range(len(sizes)), held.__getitem__)
    ]
    return (
        [stretch[0] for stretch in stretches],
        [sum(sizes[k] for k in stretch) for stretch in stretches],
    )
