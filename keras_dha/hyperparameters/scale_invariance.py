"""Scale invariance: weights whose length does not change the loss.

Weights in front of a normalisation may be multiplied by any c > 0:
L(c w) = L(w). Differentiated by c and by w, at c = 1:

    <g, w> = 0,        g(c w) = g(w) / c,        H w = -g

So weight decay moves nothing there by itself; it acts because steps weigh
more on shorter weights (van Laarhoven, "L2 regularization versus batch and
weight normalization", 2017). A horizon that takes dg = 0 does not see that.
The last equation gives what is missing without a Hessian product: a tangent Z
whose part along w is c w has, from that part, exactly

    dg = -c g,         c = <Z, w> / <w, w>

An L2 penalty of the training loss knows lengths: g is then without its part.

Which variables are invariant is read off the first equation.
"""

from typing import NamedTuple

from keras import ops

from keras_dha.inner_update import spread
from keras_dha.inner_update import sums

# <g, w>^2 n / (|g| |w|)^2 is about 1 for n numbers that know nothing of each
# other. In front of normalisations it was seen below 1e-4, elsewhere above
# 0.1. Where it is small by chance, what follows changes next to nothing.
_TOLERANCE = 0.01


class Lengths(NamedTuple):
    """What of weights and tangents is a matter of length alone.

    Attributes:
        invariant: `(variables,)`, 1 where a variable's length does not matter.
        share: Scalar, which share of the weights that ran these are.
        turning: List of tangents `(P,)` without their part c w.
        radial: List of c, repeated over the invariant variables, `(P,)`; 0
            elsewhere.
    """

    invariant: object
    share: object
    turning: list
    radial: list


def read(gradient, at, sizes, turning=(), weights=None, radial=()):
    """Returns the `Lengths` that a gradient tells of.

    Args:
        gradient: Vector `(P,)`, zero where weights did not run.
        at: Vector `(P,)`, the weights that it was taken at.
        sizes: List of the variables' sizes; they sum to P.
        turning: Sequence of tangents `(P,)` at these weights, of which what
            is left without c w is asked for.
        weights: Vector `(P,)`, other weights, of the tangents in `radial`.
        radial: Sequence of tangents `(P,)` whose c is asked for.
    """
    rows = [gradient * at, ops.square(gradient), ops.square(at)]
    rows += [tangent * at for tangent in turning]
    if radial:
        rows += [ops.square(weights), *(t * weights for t in radial)]
    # One sum for each variable, of all rows: each of a supernet's hundreds of
    # operations takes its time to trace.
    along, gradients, lengths, *rest = ops.unstack(sums(ops.stack(rows), sizes))
    counts = ops.convert_to_tensor(sizes, along.dtype)
    # Strictly: without a gradient there is nothing to tell by.
    is_invariant = ops.square(along) * counts < _TOLERANCE * gradients * lengths
    where = ops.cast(is_invariant, along.dtype)
    ran = counts * ops.cast(gradients > 0.0, along.dtype)
    share = ops.sum(where * ran) / ops.maximum(ops.sum(ran), 1.0)
    count = len(turning)
    parts = [where * p / (lengths + 1e-30) for p in rest[:count]]
    if radial:
        parts += [where * p / (rest[count] + 1e-30) for p in rest[count + 1 :]]
    parts = ops.unstack(spread(ops.stack(parts), sizes)) if parts else []
    turned = [t - c * at for t, c in zip(turning, parts, strict=False)]
    return Lengths(where, share, turned, parts[count:])
