"""A decision: the architecture variables of one choice among candidates.

A `Decision` owns what is learned of a choice and knows what runs now. One or
several searchable layers consult it; a strategy samples it, credits it and
finally freezes it. What belongs to a `Decision` is architecture, all other
trainable variables are weights: ownership decides, never a name.

Its options stand in a table of edges (inputs) and operations. On each edge

    either one operation runs, or none, times a factor    `indices`, `factors`
    or all of them run, weighted                          `coefficients`

and that is all a strategy has to say. A `keras_dha.Choice` has one edge.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_dha.architecture.selection import margin
from keras_dha.architecture.selection import select
from keras_dha.architecture.sparse_code import SparseCode
from keras_dha.architecture.wiring import checked_place
from keras_dha.arguments import checked_count
from keras_dha.nested_layers import find_layers


@keras.saving.register_keras_serializable("keras_dha")
class Decision(keras.layers.Layer):
    """The architecture variables of one choice among `num_candidates`.

    A decision is *free* while it is searched and *frozen* once `freeze` was
    called. In training mode a free decision runs what was last put into
    `sampled`, or all candidates if its strategy mixes them; in inference
    mode it runs what deriving would keep. A frozen decision always runs
    `chosen`.

    Args:
        num_candidates: Integer of at least 2, how many options there are:
            for each of the edges, in turn, its operations.
        edges: Integer of at least 1, how many inputs there are to choose
            from, with equally many operations each.
        keep: Integer in 1..edges, how many edges are kept, with one
            operation each.
        none: Optional integer: an operation that takes part in the search
            but is never kept.
        code: Optional configuration of a `SparseCode`, as it was saved.
        place: Optional `keras_dha.architecture.wiring.Place`, or a dict of
            its fields: where in a cell the edges are. The run then records
            how deep and wide that cell is.
        **kwargs: Base layer arguments, such as `name`.

    Attributes:
        logits: float32 variable of shape `(num_candidates,)`; the
            probabilities of an edge's operations are its softmax.
        sampled: int32 variable, the operation that runs on each edge in
            training mode while the decision is free: a scalar if there is
            one edge, else `(edges,)`. One past the last stands for none.
        drawn: float32 variable like `logits`, the uniform draws of the last
            sample.
        chosen: int32 variable, the frozen option, -1 while free: a scalar if
            there is one edge, else `(keep,)`.
        code: The `SparseCode` that takes the place of the logits under
            `keras_dha.strategies.ISTA`, else `None`.
        strategy: The strategy of the running search, `None` outside of one.

    Example:

    >>> decision = keras_dha.Decision(3, name="kernel")
    >>> decision.probabilities()
    array([0.33333334, 0.33333334, 0.33333334], dtype=float32)
    """

    def __init__(
        self,
        num_candidates,
        edges=1,
        keep=1,
        none=None,
        code=None,
        place=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        num_candidates, edges, keep = _checked_sizes(
            num_candidates, edges, keep, none
        )
        self.num_candidates = num_candidates
        self.edges = edges
        self.keep = keep
        self.none = none
        self.place = checked_place(place, edges)
        self.strategy = None
        self.code = None if code is None else SparseCode(**code)
        self.logits = self.add_weight(
            name="logits",
            shape=(num_candidates,),
            initializer="zeros",
            dtype="float32",
            # Whatever the precision of the layer that consults it.
            autocast=False,
        )
        one = edges == 1
        self.sampled = self._state("sampled", () if one else (edges,), 0)
        self.chosen = self._state("chosen", () if one else (keep,), -1)
        self.drawn = self._state("drawn", (num_candidates,), 0.5, "float32")
        # There is no input to build for: a decision is consulted, not called.
        self.built = True

    def _state(self, name, shape, value, dtype="int32"):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            trainable=False,
            autocast=False,
        )

    @property
    def operations(self):
        """How many operations there are on each edge."""
        return self.num_candidates // self.edges

    def count_options(self):
        """Returns how many ways there are to keep edges and operations."""
        operations = self.operations - (self.none is not None)
        return math.comb(self.edges, self.keep) * operations**self.keep

    def table(self, values):
        """Returns values of all options as a table (edges, operations)."""
        return ops.reshape(values, (self.edges, self.operations))

    @property
    def parameter(self):
        """The variable that the search moves: the logits or the code."""
        return self.logits if self.code is None else self.code.code

    def mixes(self, training):
        """Whether all candidates run, weighted, rather than single ones."""
        return training and self.strategy is not None and self.strategy.mixes

    def indices(self, training):
        """Returns the operation that runs on each edge, int32 `(edges,)`.

        Where none runs it is one past the last.
        """
        if training:
            free = ops.reshape(self.sampled, (self.edges,))
        else:
            free = select(self.strength(), self.keep)
        return ops.where(self.is_free(), free, self._chosen_indices())

    def take(self, operations):
        """Puts sampled operations, int32 `(edges,)`, into a free decision."""
        taken = ops.where(self.is_free(), operations, self._chosen_indices())
        self.sampled.assign(ops.reshape(taken, self.sampled.shape))

    def factors(self, training, credits=True):
        """Returns the factor of what runs on each edge, float32 `(edges,)`.

        Under a sampling strategy its value is 1 and its gradient carries
        the credit to the logits. `None` stands for 1 without a gradient.

        Args:
            training: Boolean.
            credits: Whether that gradient is asked for.
        """
        is_sampled = training and self.strategy is not None
        if self.code is None:
            if not (is_sampled and credits):
                return None
            return ops.where(self.is_free(), self.strategy.factors(self), 1.0)
        indices = self.indices(training)
        free = (
            self.strategy.factors(self)
            if is_sampled
            else self.code.weights_at(indices)
        )
        return ops.where(self.is_free(), free, self.code.scales_at(indices))

    def coefficients(self):
        """Returns the candidates' weights in a mixture, as a table."""
        free = self.strategy.coefficients(self.table(self.logits))
        return ops.where(
            self.is_free(),
            free,
            ops.one_hot(self._chosen_indices(), self.operations),
        )

    def runs(self):
        """Returns which options run and count in training, `(K,)` bools."""
        if self.mixes(True):
            return ops.reshape(self.coefficients() != 0, (-1,))
        ran = ops.one_hot(self.indices(True), self.operations + 1)
        return ops.reshape(ran[:, :-1] > 0, (-1,))

    def strength(self):
        """Returns a table by which options are ranked; none is below all."""
        if self.code is not None:
            table = ops.abs(self.table(self.code.sparse))
        else:
            table = ops.softmax(self.table(self.logits))
        if self.none is None:
            return table
        is_none = ops.arange(self.operations) == self.none
        return ops.where(is_none, -1.0, table)

    def is_free(self):
        """Returns whether the choice is open, a boolean scalar tensor."""
        # Asked for dozens of times in a step that is traced.
        first = self.chosen if self.edges == 1 else self.chosen[0]
        return ops.less(first, 0)

    def _chosen_indices(self):
        """Returns as `indices` what runs if the choice is frozen."""
        if self.edges == 1:
            return ops.reshape(self.chosen, (1,))
        chosen = ops.convert_to_tensor(self.chosen)
        edge, operation = chosen // self.operations, chosen % self.operations
        on_edge = ops.cast(ops.one_hot(edge, self.edges), "int32")
        less = ops.expand_dims(operation - self.operations, 1)
        return self.operations + ops.sum(on_edge * less, axis=0)

    def kept(self):
        """Returns the options that deriving keeps, a list of integers."""
        indices = ops.convert_to_numpy(self.indices(False))
        return [
            edge * self.operations + int(operation)
            for edge, operation in enumerate(indices)
            if operation < self.operations
        ]

    def probabilities(self):
        """Returns the candidates' probabilities, float32 `(K,)` NumPy array.

        They sum to 1 on each edge, for a sparse code over all edges. A
        frozen decision is certain.
        """
        if self.is_frozen:
            certain = np.zeros(self.num_candidates, "float32")
            certain[self.kept()] = 1.0
            return certain
        if self.code is not None:
            size = np.abs(ops.convert_to_numpy(self.code.sparse))
            total = size.sum()
            even = np.full_like(size, 1 / size.size)
            return size / total if total > 0 else even
        table = ops.softmax(self.table(self.logits))
        return ops.convert_to_numpy(ops.reshape(table, (-1,)))

    def margin(self):
        """Returns how far what is kept is ahead of what is not; 1 if frozen.

        The smallest of the leads, in strength, of the operation on each kept
        edge over the next one and of the kept edges over the others.
        """
        if self.is_frozen:
            return 1.0
        strength = ops.convert_to_numpy(self.strength())
        if self.code is not None:
            strength = strength / max(strength.max(), 1e-30)
        return margin(strength, self.keep)

    def freeze(self, index=None):
        """Fixes the choice, by default to what deriving would keep.

        Args:
            index: Integer, or list of `keep` integers on distinct edges.
        """
        options = self.kept() if index is None else list(np.ravel(index))
        edges = {int(k) // self.operations for k in options}
        if not all(0 <= k < self.num_candidates for k in options):
            raise ValueError(
                f"`index` must be in 0..{self.num_candidates - 1}. "
                f"Received: index={index}"
            )
        if len(edges) < len(options) or len(options) != self.keep:
            raise ValueError(
                f"`index` must name {self.keep} options on distinct edges. "
                f"Received: index={index}"
            )
        if self.code is not None:
            self.code.freeze(self.indices(False) if index is None else None)
        shape = tuple(self.chosen.shape)
        self.chosen.assign(np.reshape(options, shape).astype("int32"))
        running = ops.convert_to_numpy(self._chosen_indices())
        self.sampled.assign(np.reshape(running, tuple(self.sampled.shape)))

    def forget_code(self):
        """Goes back to before a search gave it a code."""
        if self.code is not None:
            # Keras goes on holding a layer in whose place another value is put,
            # and there is no public way out: the private hook is here.
            self._tracker.untrack(self.code)
            self.code = None

    @property
    def is_frozen(self):
        """Whether the choice is fixed."""
        return bool(np.ravel(ops.convert_to_numpy(self.chosen))[0] >= 0)

    def get_config(self):
        return {
            **super().get_config(),
            "num_candidates": self.num_candidates,
            "edges": self.edges,
            "keep": self.keep,
            "none": self.none,
            "code": self.code and self.code.get_config(),
            "place": self.place and self.place._asdict(),
        }


def _checked_sizes(num_candidates, edges, keep, none):
    """Returns numbers of candidates, of edges and of those that are kept."""
    num_candidates = checked_count("num_candidates", num_candidates, least=2)
    edges, keep = checked_count("edges", edges), checked_count("keep", keep)
    if num_candidates % edges:
        raise ValueError(
            "`edges` must divide `num_candidates`. Received: "
            f"edges={edges}, num_candidates={num_candidates}"
        )
    if keep > edges:
        raise ValueError(
            f"`keep` must be in 1..{edges}, one operation for each edge that "
            f"is kept. Received: keep={keep}"
        )
    operations = num_candidates // edges
    if none is not None and (operations < 2 or none not in range(operations)):
        raise ValueError(
            "`none` must be one of at least two operations, in "
            f"0..{operations - 1}. Received: none={none}"
        )
    return num_candidates, edges, keep


def find_decisions(model):
    """Returns every `Decision` inside `model`, in a fixed order."""
    return find_layers(model, Decision)
