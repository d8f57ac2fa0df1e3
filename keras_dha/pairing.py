"""Pairing: which image is another one's partner, and what mixing them costs.

Images come in random order, so the partner of an image is its neighbour: 0
with 1, 2 with 3, and so on; the last one of an odd number is its own. It
needs no draw, no permutation of the batch, and no exchange between replicas.

References:
    Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.
"""

import keras
import tensorflow as tf


def partners(count):
    """Returns the index of each image's partner, int32 of shape `(n,)`."""
    index = tf.range(count)
    return tf.minimum(tf.bitwise.bitwise_xor(index, 1), count - 1)


def blended(images, share):
    """Returns images, floats, each with its partner blended in.

    Args:
        images: Tensor whose first axis has length n, or several, all of which
            are blended by the same shares.
        share: Tensor `(n,)` in 0..1, the partner's share.
    """
    return keras.tree.map_structure(lambda x: _blended(x, share), images)


def _blended(images, share):
    images = tf.cast(images, keras.config.floatx())
    others = tf.gather(images, partners(tf.shape(images)[0]))
    share = tf.reshape(
        tf.cast(share, images.dtype), [-1] + [1] * (images.shape.rank - 1)
    )
    return images + share * (others - images)


def mixed_losses(loss, labels, share):
    """Returns the losses of mixed images, whatever form their labels have.

    The cross-entropy of a soft label is the soft mean of cross-entropies,
    `(1 - s) L(y) + s L(y')`, so integer labels will do.

    Args:
        loss: Function from labels to a tensor of n losses.
        labels: Tensor whose first axis has length n, or several.
        share: Tensor `(n,)`, the partner's share; `None` if nothing is mixed.
    """
    own = loss(labels)
    if share is None:
        return own
    others = loss(
        keras.tree.map_structure(
            lambda y: tf.gather(y, partners(tf.shape(y)[0])), labels
        )
    )
    return own + tf.cast(share, own.dtype) * (others - own)
