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

from keras import ops

from keras_dha.inner_update import spread
from keras_dha.inner_update import sums

# <g, w>^2 n / (|g| |w|)^2 is about 1 for n numbers that know nothing of each
# other. In front of normalisations it was seen below 1e-4, elsewhere above
# 0.1. Where it is small by chance, what follows changes next to nothing.
_TOLERANCE = 0.01


def invariant(gradient, weights, sizes):
    """Returns for each variable 1 where its length does not matter, else 0.

    Args:
        gradient, weights: Vectors `(P,)`.
        sizes: List of the variables' sizes; they sum to P.
    """
    along, gradients, lengths = ops.unstack(
        sums(
            ops.stack(
                [
                    gradient * weights,
                    ops.square(gradient),
                    ops.square(weights),
                ]
            ),
            sizes,
        )
    )
    along = ops.square(along) * ops.convert_to_tensor(sizes, along.dtype)
    # Strictly: without a gradient there is nothing to tell by.
    return ops.cast(along < _TOLERANCE * gradients * lengths, along.dtype)


def share(gradient, where, sizes):
    """Returns which share of the weights that ran are invariant, a scalar.

    Args:
        gradient: Vector `(P,)`, zero where weights did not run.
        where, sizes: As for `radial`.
    """
    ran = ops.cast(sums(ops.square(gradient), sizes) > 0.0, where.dtype)
    ran = ran * ops.convert_to_tensor(sizes, where.dtype)
    return ops.sum(where * ran) / ops.maximum(ops.sum(ran), 1.0)


def radial(tangents, weights, where, sizes):
    """Returns c of the part c w of tangents, repeated over variables.

    Args:
        tangents: `(..., P)`, as what is returned.
        weights: Vector `(P,)`.
        where: What `invariant` returned; elsewhere c is 0.
        sizes: List of the variables' sizes.
    """
    square = sums(ops.square(weights), sizes) + 1e-30
    share = where * sums(tangents * weights, sizes) / square
    return spread(share, sizes)


def turning(tangents, weights, where, sizes):
    """Returns tangents without what changes only lengths, `(..., P)`.

    Args:
        tangents, weights, where, sizes: As for `radial`.
    """
    return tangents - radial(tangents, weights, where, sizes) * weights
