"""A network at given weights: those of a vector, in place of its variables'."""

import contextlib
import itertools
import math
import threading

import keras
import tensorflow as tf

_active = threading.local()


class GivenWeights(keras.StatelessScope):
    """Inside of it layers read these weights.

    Penalties on activations are collected. Assignments to other variables,
    as normalisation statistics and seeds, either happen, which Keras' own
    scope does not let them, or are dropped: that one would hand them on to
    the next call of the layer, and what is made in the branch of a choice
    cannot be read outside of it.

    Args:
        layout: `keras_dha.weight_layout.Layout` of the weights.
        pieces: List of vectors, one for each of its pieces.
        moves: Whether other variables move.
        once: Whether derivatives by the pieces will be taken once, and never
            twice,
        along: but that of these there will be derivatives by what comes in
            from above.
        credits: Whether there will be derivatives by the architecture.
    """

    def __init__(self, layout, pieces, moves, once, along=False, credits=True):
        super().__init__(collect_losses=True, initialize_variables=False)
        self._layout = layout
        self._pieces = pieces
        self._moves = moves
        self.once, self.along, self.credits = once, along, credits

    def values(self):
        """Returns the given weights as they were taken so far, tensors."""
        return [*self._pieces, *self.state_mapping.values()]

    def get_current_value(self, variable):
        """Returns the value of a weight, else `None`."""
        value = self.state_mapping.get(id(variable))
        if value is None or not _is_in_reach(value):
            number = self._layout.piece_of.get(id(variable))
            if number is None:
                return None
            every = range(len(self._layout.variables[number]))
            self._take(number, every)
        return self.state_mapping[id(variable)]

    def _take(self, number, places):
        """Maps some variables of a piece to their values in it."""
        variables = self._layout.variables[number]
        taken, sizes = [], []
        for is_taken, run in itertools.groupby(
            range(len(variables)), lambda place: place in places
        ):
            found = [variables[place] for place in run]
            each = [math.prod(variable.shape) for variable in found]
            # What is left out between them is one part.
            taken += found if is_taken else [None]
            sizes += each if is_taken else [sum(each)]
        piece = self._pieces[number]
        parts = tf.split(piece, sizes) if len(sizes) > 1 else [piece]
        for variable, part in zip(taken, parts, strict=True):
            if variable is not None:
                value = reshaped(part, variable.shape)
                self.state_mapping[id(variable)] = value

    def add_update(self, update):
        """Assigns at once, or not at all; refuses it of the given weights.

        It would be lost: the step that is taken writes them.
        """
        variable, value = update
        if id(variable) in self._layout.piece_of:
            raise ValueError(
                "Weights that are trained are moved by the steps of a run "
                "alone, so no layer may assign them, as "
                "`keras.layers.SpectralNormalization` does: leave it out, set "
                "its `trainable` to False, or use a `kernel_constraint`. "
                f"Received: variable={variable.path!r}"
            )
        if not self._moves:
            return
        self.__exit__()
        try:
            variable.assign(value)
        finally:
            self.__enter__()

    @contextlib.contextmanager
    def within(self, candidate):
        """Takes a candidate's weights from their piece for what runs inside.

        Values that are made inside, of a branch, are forgotten outside.
        """
        before, known = dict(self.state_mapping), len(self.losses)
        place = self._layout.candidates.get(id(candidate))
        try:
            if place is not None:
                self._take(*place)
            yield
        finally:
            self.state_mapping = before
        if len(self.losses) > known:
            raise ValueError(
                "A candidate must not call `add_loss`: what it adds is lost "
                "where not every candidate runs. Add it behind the choice, or "
                "use a `kernel_regularizer`. "
                f"Received: candidate={candidate.name}"
            )

    def __enter__(self):
        self._outer = active()
        _active.scope = self
        return super().__enter__()

    def __exit__(self, *args):
        _active.scope = self._outer
        super().__exit__(*args)


def active():
    """Returns the `GivenWeights` that the running layer is in, or `None`."""
    return getattr(_active, "scope", None)


def _is_in_reach(tensor):
    """Whether a tensor may be used here.

    One that was made in the body of a loop, or in a branch, of a layer's own
    may not be used behind it.
    """
    # An eager one has none.
    made_in = getattr(tensor, "graph", None)
    graph = tf.compat.v1.get_default_graph()
    while made_in is not None and graph is not made_in:
        if graph is None:
            return False
        graph = getattr(graph, "outer_graph", None)
    return True


def reshaped(tensor, shape):
    """Returns `tf.reshape(tensor, shape)`, without an operation if it can.

    Most of a supernet's many variables are vectors already, and what each
    operation costs is not its work.
    """
    if len(tensor.shape) == len(shape) == 1:
        return tensor
    return tf.reshape(tensor, shape)
