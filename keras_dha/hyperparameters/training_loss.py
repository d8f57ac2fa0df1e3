"""What hyperparameters do to the training loss: label smoothing and mixup.

Label smoothing is linear in its strength, so its derivative needs no second
derivative of a fused cross-entropy (TensorFlow's is 0 by the labels). Mixup's
strength a shapes a distribution, so it is learned as what is sampled is: with
r_i the influence of image i and lambda_i ~ Beta(a, a) what was drawn for it,

    dL_S/da = -eta sum_i r_i d log p(lambda_i; a)/da
    d log p/da = log lambda + log(1 - lambda) - 2 psi(a) + 2 psi(2 a)

without a derivative through images and normalisation. The search loss never
has either of them.
"""

import keras
import tensorflow as tf
from keras import ops

CROSS_ENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
)


def smoothed(loss, labels, predictions, strength):
    """Returns each example's loss with label smoothing, shape `(n,)`.

        (1 - strength) L(y, p) + strength L(uniform, p)

    Args:
        loss: `keras.losses.Loss`; a categorical cross-entropy.
        labels, predictions: As the loss takes them.
        strength: Scalar in [0, 1), or `None` for the plain loss.

    Reference:
        Szegedy et al., "Rethinking the inception architecture", CVPR 2016.
    """
    losses = loss.call(labels, predictions)
    if strength is None:
        return losses
    outputs = ops.cast(predictions, losses.dtype)
    if _from_logits(loss):
        logarithms = ops.log_softmax(outputs)
    else:
        floor = keras.config.epsilon()
        logarithms = ops.log(ops.clip(outputs, floor, 1.0 - floor))
    strength = ops.cast(strength, losses.dtype)
    uniform = -ops.mean(logarithms, axis=-1)
    return (1.0 - strength) * losses + strength * uniform


def check_smoothing(loss):
    """Refuses label smoothing of a loss that has no label distribution."""
    if not isinstance(loss, CROSS_ENTROPIES):
        raise ValueError(
            "`label_smoothing` needs SparseCategoricalCrossentropy or "
            "CategoricalCrossentropy as loss. "
            f"Received: loss={type(loss).__name__}"
        )


def _from_logits(loss):
    return loss.get_config()["from_logits"]


def draw_shares(strength, size, seed, replica=0, replicas=1):
    """Returns the partner's share for this replica's images, shape `(n,)`.

    Drawn from Beta(a, a) for the global batch, of which each replica takes
    its part.

    Args:
        strength: Scalar a.
        size: Integer, images of this replica.
        seed: int32 tensor of shape `(2,)`.
        replica, replicas: Which part of how many this one is.
    """
    strength = tf.stop_gradient(strength)
    shape, dtype = [2, replicas * size], strength.dtype
    drawn = tf.random.stateless_gamma(
        shape, seed, alpha=strength + 1.0, dtype=dtype
    )
    uniform = tf.random.stateless_uniform(
        *(shape, tf.random.experimental.stateless_fold_in(seed, 1)),
        dtype=dtype,
    )
    # Of a small strength Gamma(a) underflows; it is Gamma(a + 1) U^(1/a).
    logarithms = tf.math.log(drawn) + tf.math.log1p(-uniform) / strength
    shares = tf.sigmoid(logarithms[0] - logarithms[1])
    begin = replica * size
    return shares[begin : begin + size]


def mixup_score(shares, strength):
    """Returns d log p(lambda; a)/da, shape `(n,)`."""
    shares = tf.clip_by_value(shares, 1e-7, 1.0 - 1e-7)
    return (
        tf.math.log(shares)
        + tf.math.log1p(-shares)
        - 2.0 * tf.math.digamma(strength)
        + 2.0 * tf.math.digamma(2.0 * strength)
    )


def mixup_hypergradient(influence, shares, strength, total):
    """Returns the hypergradient of mixup's strength as a correlation.

    Args:
        influence: `(n,)`, of this replica's images.
        shares: `(n,)`, as they were drawn for them.
        strength: Scalar a.
        total: Function that sums a tensor over all replicas.
    """
    score = mixup_score(shares, strength)
    influence = tf.cast(influence, score.dtype)
    ones = tf.ones_like(score)
    products = (
        ones,
        influence,
        score,
        influence * score,
        influence**2,
        score**2,
    )
    n, r, s, rs, rr, ss = tf.unstack(
        total(tf.stack([tf.reduce_sum(x) for x in products]))
    )
    deviations = tf.sqrt(tf.maximum((n * rr - r * r) * (n * ss - s * s), 0.0))
    return -(n * rs - r * s) / (deviations + 1e-12)
