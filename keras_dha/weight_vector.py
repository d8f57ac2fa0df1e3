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

from keras_dha.architecture.absorb import undoing
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.variable_paths import variable_paths
from keras_dha.given_weights import GivenWeights
from keras_dha.given_weights import reshaped
from keras_dha.inner_update import spread
from keras_dha.nested_layers import find_layers
from keras_dha.weight_layout import layout

# Biases of attention and GRU layers, and the scales of a normalisation over
# several axes, have rank 2 or more.
_UNDECAYED = ("bias", "beta", "gamma")


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
        self.variables = _trained(network)
        self.sizes = [int(np.prod(v.shape)) for v in self.variables]
        dtypes = {v.dtype for v in self.variables}
        if len(dtypes) != 1:
            raise ValueError(
                "A network must have weights, and all of one dtype. "
                f"Received: {len(self.variables)} weights of {sorted(dtypes)}"
            )
        self.dtype = dtypes.pop()
        if self.dtype not in ("float32", "float64"):
            raise ValueError(
                "Weights must be float32, or float64: in fewer digits neither "
                "steps nor averages add up. Use the dtype policy "
                '"mixed_bfloat16", whose layers compute in bfloat16. '
                f"Received: weights of {self.dtype}"
            )
        self._owners = _owners(network, self.variables, self.sizes)
        # An eager tensor, which a step captures; in graphs it would be one of
        # the nodes, as large as the weights.
        self._decayed = tf.constant(
            np.repeat([_decays(v) for v in self.variables], self.sizes)
        )
        self._undoing = _undoing(network, self.variables, self.sizes)
        self._layout = layout(network, self.variables)

    def check(self, network):
        """Refuses a network of which other weights are to be trained by now.

        Args:
            network: That of the vector; layers may have been frozen since.
        """
        now = _trained(network)
        unfrozen = _names_of_layers(now, self.variables)
        frozen = _names_of_layers(self.variables, now)
        if unfrozen or frozen:
            raise ValueError(
                "Which weights are trained is fixed by the first `fit`. Set "
                "`trainable` of these layers back; or take `export_model()`, "
                "set it there, and make a new `AutoModel` of that. "
                f"Received: unfrozen={unfrozen[:5]}, frozen={frozen[:5]}"
            )

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

    def given(self, pieces, moves=False, once=False, along=False, credits=True):
        """Returns the scope in which the network has other weights.

        Args:
            pieces: List of vectors, as `pieces` gives them.
            moves: Whether normalisation statistics and seeds move.
            once: Whether derivatives by the pieces will be taken once, and
                never twice,
            along: but that of these there will be derivatives by what comes in
                from above.
            credits: Whether there will be derivatives by the architecture.
        """
        return GivenWeights(self._layout, pieces, moves, once, along, credits)

    def write(self, vector):
        """Assigns a vector to the variables."""
        for variable, value in zip(
            self.variables, self.split(vector), strict=True
        ):
            variable.assign(value)

    def constrained(self, vector, active=None):
        """Returns weights as the constraints of their variables have them.

        A layer's `kernel_constraint` and the like, which Keras' optimizers
        apply behind each step as well.

        Args:
            vector: Weights after a step, `(P,)`.
            active: Booleans `(P,)`, where they took part in it, or `None`:
                everywhere. Elsewhere they stay.
        """
        constraints = [v.constraint for v in self.variables]
        if not any(constraints):
            return vector
        found = self.join(
            [
                part if constraint is None else constraint(part)
                for part, constraint in zip(
                    self.split(vector), constraints, strict=True
                )
            ]
        )
        return found if active is None else tf.where(active, found, vector)

    def positions(self):
        """Returns a dict from each variable's id to where its elements are."""
        starts = np.cumsum([0, *self.sizes])
        return {
            id(v): np.arange(start, start + size)
            for v, start, size in zip(
                self.variables, starts, self.sizes, strict=False
            )
        }

    def decayed(self):
        """Returns `(P,)`: 1 where weight decay applies, else 0.

        To kernels and embeddings, but not to biases or normalisation scales:
        variables of rank below 2, and by their names those of a higher one.
        """
        return tf.cast(self._decayed, self.dtype)

    def active(self):
        """Returns which weights the step that runs uses, booleans `(P,)`.

        A candidate's weights are active when its decision runs it with a
        weight that is not 0, and every decision around it does so too. Those
        of a layer that is also elsewhere always are. `None` stands for all,
        always, as in a network without decisions.

        While a decision is free, what could undo the weights of its candidates
        rests where the strategy wants that (`Strategy.rests_scales`).
        """
        owners = self._owners
        if not owners.groups:
            return None
        runs = tf.concat([d.runs() for d in owners.decisions], axis=0)
        runs = tf.cast(runs, "int32")
        # Any candidate of a group, and then all groups of a stretch.
        used = tf.math.segment_max(
            tf.gather(runs, owners.options), owners.groups
        )
        flags = tf.math.unsorted_segment_min(
            used, owners.stretches, len(owners.sizes)
        )
        # Where no group is, the minimum is the largest integer.
        active = spread(flags > 0, owners.sizes)
        for decision, held in self._undoing:
            active &= ~(held & decision.is_free())
        return active


def _decays(variable):
    return len(variable.shape) > 1 and variable.name not in _UNDECAYED


def _trained(network):
    """Returns the variables that are weights to be trained, a list."""
    architecture = {id(v) for d in find_decisions(network) for v in d.variables}
    return [v for v in network.trainable_variables if id(v) not in architecture]


def _names_of_layers(variables, known):
    """Returns the names of the layers of variables that are not known."""
    known = {id(v) for v in known}
    paths = [v.path for v in variables if id(v) not in known]
    return list(dict.fromkeys(path.rpartition("/")[0] for path in paths))


def _undoing(network, variables, sizes):
    """Returns for each decision what is to rest while it is free, a list.

    Of pairs (decision, booleans `(P,)`).
    """
    found, layers = [], find_layers(network, SearchableLayer)
    for decision in find_decisions(network):
        if decision.strategy is None or not decision.strategy.rests_scales:
            continue
        held = {
            id(variable)
            for layer in layers
            if layer.decision is decision
            for candidate in layer.options
            for variable in undoing(candidate)
        }
        flags = [id(v) in held for v in variables]
        if any(flags):
            found.append((decision, tf.constant(np.repeat(flags, sizes))))
    return found


class _Owners(NamedTuple):
    """Which options hold which weights, for searchable layers.

    A stretch is variables side by side that the same options hold, and a
    group is a stretch in the candidates of one searchable layer. Lists:

    Attributes:
        decisions: The decisions, whose options are numbered in turn.
        options: For each membership the option,
        groups: and the group, ascending.
        stretches: For each group its stretch.
        sizes: For each stretch how many numbers it has.
    """

    decisions: list
    options: list
    groups: list
    stretches: list
    sizes: list


def _owners(network, variables, sizes):
    """Returns the `_Owners` of the variables of a network."""
    decisions = find_decisions(network)
    starts = dict(
        zip(
            map(id, decisions),
            np.cumsum([0, *(d.num_candidates for d in decisions)]),
            strict=False,
        )
    )
    paths = variable_paths(network)
    held = {id(v): _groups(paths[id(v)], starts) for v in variables}
    owners = _Owners(decisions, [], [], [], [])
    for groups, stretch in itertools.groupby(
        zip(variables, sizes, strict=True), lambda pair: held[id(pair[0])]
    ):
        for options in groups:
            owners.options.extend(options)
            owners.groups.extend([len(owners.stretches)] * len(options))
            owners.stretches.append(len(owners.sizes))
        owners.sizes.append(sum(size for _, size in stretch))
    return owners


def _groups(paths, starts):
    """Returns the options that hold a variable, for each layer around it.

    Layers around each other must all run it. Nothing is returned where one
    such group of layers may run it without the others, or where it is outside
    of all: it is then always active.

    Args:
        paths: Set of paths, as `variable_paths` has them.
        starts: Dict from a decision's id to the number of its first option.
    """
    ways = collections.defaultdict(list)
    for path in paths:
        ways[tuple(id(layer) for layer, _ in path)].append(path)
    groups = {
        tuple(
            tuple(sorted({starts[id(x.decision)] + k for x, k in steps}))
            for steps in zip(*way, strict=True)
        )
        for way in ways.values()
    }
    return groups.pop() if len(groups) == 1 else ()
