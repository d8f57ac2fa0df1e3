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
        radial: `(n, P)`, for each of n tangents c of its part c w, repeated
            over the invariant variables; 0 elsewhere.
        turning: `(m, P)`, tangents without that part.
    """

    invariant: object
    share: object
    radial: object
    turning: object


def read(gradient, at, sizes, radial=None, turning=None):
    """Returns the `Lengths` that a gradient tells of.

    Args:
        gradient: Vector `(P,)`, zero where weights did not run.
        at: Vector `(P,)`, the weights that it was taken at.
        sizes: List of the variables' sizes; they sum to P.
        radial: Pair of weights `(P,)` and tangents `(n, P)` whose c is asked
            for, or `None`.
        turning: Likewise what is asked for what is left without c w.
    """
    asked = [pair for pair in (radial, turning) if pair is not None]
    rows = [gradient * at, ops.square(gradient), ops.square(at)]
    for weights, tangents in asked:
        rows += [ops.square(weights), *ops.unstack(tangents * weights)]
    # One sum for each variable, of all rows: each of a supernet's hundreds of
    # operations takes its time to trace.
    found = sums(ops.stack(rows), sizes)
    along, gradients, lengths = found[0], found[1], found[2]
    counts = ops.convert_to_tensor(sizes, along.dtype)
    # Strictly: without a gradient there is nothing to tell by.
    is_invariant = ops.square(along) * counts < _TOLERANCE * gradients * lengths
    where = ops.cast(is_invariant, along.dtype)
    ran = counts * ops.cast(gradients > 0.0, along.dtype)
    share = ops.sum(where * ran) / ops.maximum(ops.sum(ran), 1.0)
    parts, row = [], 3
    for _, tangents in asked:
        end = row + 1 + tangents.shape[0]
        parts.append(where * found[row + 1 : end] / (found[row] + 1e-30))
        row = end
    parts = spread(ops.concatenate(parts), sizes) if parts else None
    count = 0 if radial is None else radial[1].shape[0]
    return Lengths(
        where,
        share,
        None if radial is None else parts[:count],
        None if turning is None else turning[1] - parts[count:] * turning[0],
    )
