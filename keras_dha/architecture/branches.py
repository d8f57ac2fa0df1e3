"""Branches of a choice: of several candidates one runs, by index.

TensorFlow spreads the branches of `tf.switch_case` over the graph around them,
with a switch for every input of every branch, and makes every intermediate
result that a derivative needs an output of all branches. In a supernet that
takes more memory than training does, and time. A candidate that is to be
differentiated once becomes two functions instead, forward and backward: the
forward one hands all that the backward one needs over as a single value, and
functions are prepared when they first run.

The backward one is linear in the derivative that comes in from above. Where
derivatives of it by that one are asked for, there is a third function, of the
same value: with y = f(x, w) and upstream u, the second is (x, w)' = J^T u, and
the derivative of <J^T u, v> by u is J v, which needs no other derivative of f.
"""

import math

import keras
import tensorflow as tf
from keras import ops

from keras_dha.architecture import tracing
from keras_dha.architecture.custom_gradient import custom_gradient


def run_one(index, candidates, inputs, weights=None, along=False):
    """Returns what one of the candidates makes of the inputs.

    Args:
        index: int32 scalar in `[0, len(candidates))`.
        candidates: List of functions or layers of one tensor, whose outputs
            have one shape and dtype.
        inputs: Tensor.
        weights: List of tensors of known shapes that the candidates may use.
            With them the output has first derivatives by `inputs` and by
            these, and by nothing else. Without, it has all derivatives.
        along: Whether these have derivatives by what comes in from above.
            Those by `inputs` and `weights` are NaN then.

    Raises:
        RuntimeError: From a second derivative, if there are `weights` and it
            is not `along`.
    """
    # What functions cost on a GPU was not measured.
    is_on_gpu = bool(tf.config.list_physical_devices("GPU"))
    if weights is None or tf.executing_eagerly() or is_on_gpu:
        return ops.switch(index, candidates, inputs)
    weights = _distinct(weights)
    functions = [_Functions(c, inputs, weights, along) for c in candidates]
    sources = _distinct([t for each in functions for t in each.sources])
    captured = _distinct(
        [*sources, *(t for f in functions for t in f.captured)]
    )
    forward = [each.forward_branch(inputs, captured) for each in functions]
    backward = [each.backward_branch(inputs, sources) for each in functions]
    tangents = []
    if along:
        tangents = [each.tangent_branch(inputs, sources) for each in functions]
    likeness = functions[0].output

    @custom_gradient
    def run(*values):
        output, kept = tf.raw_ops.Case(
            branch_index=index,
            input=[*values, *captured[len(sources) :]],
            Tout=[likeness.dtype, tf.variant],
            branches=forward,
            output_shapes=[likeness.shape, []],
        )

        @custom_gradient
        def backwards(index, kept, upstream, *values):
            found = tf.raw_ops.StatelessCase(
                branch_index=index,
                input=[kept, upstream, values[0]],
                Tout=[t.dtype for t in values],
                branches=backward,
                output_shapes=[t.shape for t in values],
            )

            def derivatives(*directions):
                if not along:
                    raise RuntimeError(
                        "A second derivative was asked of a choice that was "
                        "run to be differentiated once. Say `along` in "
                        "`run_one`, or leave out `weights`; or so in "
                        "`WeightVector.given`, or leave out `once`."
                    )
                (by_upstream,) = tf.raw_ops.StatelessCase(
                    branch_index=index,
                    input=[kept, upstream, *directions],
                    Tout=[upstream.dtype],
                    branches=tangents,
                    output_shapes=[upstream.shape],
                )
                return None, None, by_upstream, *map(_unknown, values)

            return found, derivatives

        def gradient(upstream):
            # Within a branch of `ops.switch` this is in another graph, and
            # TensorFlow differentiates no further than what it has of its own.
            own = map(tf.identity, (index, kept, upstream, values[0]))
            return backwards(*own, *values[1:])

        return output, gradient

    return run(inputs, *sources)


def nothing(candidate):
    """Returns the function of an edge on which nothing runs.

    Args:
        candidate: One of the edge's, whose output the zeros are like.
    """

    def zeros(inputs):
        given = keras.KerasTensor(inputs.shape, inputs.dtype)
        like = tracing.output_spec(candidate, given)
        shape = (ops.shape(inputs)[0], *like.shape[1:])
        return ops.zeros(shape, like.dtype)

    return zeros


class _Functions:
    """The functions of one candidate, forward and backward, and along.

    Each is a function of its own inside of a branch: TensorFlow optimises
    functions that are called, with the kernels of oneDNN, but not branches.

    Args:
        candidate: Function of one tensor.
        inputs: Tensor like those that it will get.
        weights: List of tensors to differentiate by, if it uses them.
        along: Whether there is a third one.

    Attributes:
        output: `tf.TensorSpec` of what it returns.
        sources: List of those of `weights` that it uses.
        captured: List of all tensors from outside that it uses.
    """

    def __init__(self, candidate, inputs, weights, along):
        def forward(inputs):
            sources = [inputs, *weights]
            if not inputs.dtype.is_floating:
                sources[0] = tf.zeros([])  # Which has no derivative.
            # Only what is made in here may hold the tape: Python does not see
            # that it holds the graph, which would never be forgotten.
            with tf.GradientTape(
                persistent=along, watch_accessed_variables=False
            ) as tape:
                tape.watch(sources)
                output = candidate(inputs)
            self.output = _spec(output)

            def backward(upstream):
                found = tape.gradient(output, sources, upstream)
                self._has = [d is not None for d in found]
                # An embedding's derivative is slices.
                return [tf.convert_to_tensor(d) for d in found if d is not None]

            def tangent(upstream, *directions):
                with tf.GradientTape(watch_accessed_variables=False) as twice:
                    twice.watch(upstream)
                    found = backward(upstream)
                return twice.gradient(
                    found,
                    upstream,
                    output_gradients=directions,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )

            self._backward = _called(backward, self.output)
            later = [self._backward]
            if along:
                like = self.output, *self._backward.outputs
                self._tangent = _called(tangent, *like)
                later.append(self._tangent)
            # What these functions capture is what must be kept.
            captured = [function.captured_inputs for function in later]
            kept = _distinct([t for each in captured for t in each])
            self._uses = [[_place(t, kept) for t in each] for each in captured]
            self._kept = [_spec(t) for t in kept]
            return output, _as_one(kept)

        self._forward = _called(forward, _spec(inputs))
        self.captured = self._forward.captured_inputs
        self.sources = [
            t for t, has in zip(weights, self._has[1:], strict=True) if has
        ]

    def forward_branch(self, inputs, captured):
        """Returns the forward branch, of inputs and captured tensors."""
        places = [_place(t, captured) for t in self.captured]

        def branch(inputs, *captured):
            return tf.raw_ops.StatefulPartitionedCall(
                args=[inputs, *(captured[k] for k in places)],
                Tout=[self.output.dtype, tf.variant],
                f=self._forward,
            )

        return _branch(branch, inputs, *captured)

    def backward_branch(self, inputs, sources):
        """Returns the backward branch: derivatives by inputs and sources.

        It is a function of what was kept, the derivative of the output, and
        the inputs, which only tell their shape.
        """
        places = self._places(sources)

        def branch(kept, upstream, inputs):
            found = []
            if places:
                kept = _as_many(kept, self._kept)
                found = tf.raw_ops.PartitionedCall(
                    args=[upstream, *(kept[k] for k in self._uses[0])],
                    Tout=[t.dtype for t in self._backward.outputs],
                    f=self._backward,
                )
            found = dict(zip(places, found, strict=True))
            return [
                found[k] if k in found else _zeros_like(t)
                for k, t in enumerate([inputs, *sources])
            ]

        return _branch(
            branch, tf.TensorSpec([], tf.variant), self.output, inputs
        )

    def tangent_branch(self, inputs, sources):
        """Returns the branch that takes derivatives of the backward one.

        It is a function of what was kept, the derivative of the output, and
        directions like inputs and sources.
        """
        places = self._places(sources)

        def branch(kept, upstream, *directions):
            if not places:
                return _zeros_like(upstream)
            kept = _as_many(kept, self._kept)
            (found,) = tf.raw_ops.PartitionedCall(
                args=[
                    upstream,
                    *(directions[k] for k in places),
                    *(kept[k] for k in self._uses[1]),
                ],
                Tout=[upstream.dtype],
                f=self._tangent,
            )
            return found

        return _branch(
            branch, tf.TensorSpec([], tf.variant), self.output, inputs, *sources
        )

    def _places(self, sources):
        """Returns which of inputs and sources it has derivatives by."""
        places = [0, *(1 + _place(t, sources) for t in self.sources)]
        return places if self._has[0] else places[1:]


def _as_one(tensors):
    """Returns tensors as a single value."""
    if not tensors:
        return tf.raw_ops.OptionalNone()
    return tf.raw_ops.OptionalFromValue(components=tensors)


def _as_many(value, specs):
    """Returns the tensors of which a value was made."""
    if not specs:
        return []
    return tf.raw_ops.OptionalGetValue(
        optional=value,
        output_types=[s.dtype for s in specs],
        output_shapes=[s.shape for s in specs],
    )


def _zeros_like(tensor):
    return tf.zeros(_shape(tensor), tensor.dtype)


def _shape(tensor):
    # Where the shape is known the tensor is not needed, nor captured.
    is_known = tensor.shape.is_fully_defined()
    return tensor.shape if is_known else tf.shape(tensor)


def _unknown(tensor):
    """Returns what says of a derivative by a tensor that it is not known."""
    if not tensor.dtype.is_floating:
        return None
    return tf.fill(_shape(tensor), tf.constant(math.nan, tensor.dtype))


def _called(function, *likeness):
    """Returns a concrete function that stays one where it is called."""
    return tf.function(
        function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    ).get_concrete_function(*(_spec(t) for t in likeness))


def _branch(function, *likeness):
    """Returns a concrete function of tensors like some."""
    return tf.function(function, autograph=False).get_concrete_function(
        *(_spec(t) for t in likeness)
    )


def _spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _distinct(tensors):
    return list({id(t): t for t in tensors}.values())


def _place(tensor, tensors):
    return next(k for k, t in enumerate(tensors) if t is tensor)
