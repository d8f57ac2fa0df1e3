"""Mixing an image with another one, labels included: mixup and CutMix.

The partner of an image is its neighbour (`keras_dha.pairing`); the last one of
an odd number stays as it is.

A mixer has a strength m in 0..1, as operations have: the partner's share is
m / 2, so 0 changes nothing, and at 1 both count alike.

References:
    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers
    with Localizable Features, 2019.
"""

import typing

import tensorflow as tf

from keras_dha import pairing

# The partner's share at strength 1.
LARGEST_SHARE = 0.5


class Mix(typing.NamedTuple):
    """How each image is mixed with its partner.

    Attributes:
        mixup: float32 tensor of shape `[n]`, share of the partner in a blend
            of both.
        rows: bool tensor of shape `[n, h]`, rows of the rectangle that is
            taken from the partner.
        columns: bool tensor of shape `[n, w]`, its columns.
    """

    mixup: tf.Tensor
    rows: tf.Tensor
    columns: tf.Tensor

    @property
    def share(self):
        """The partner's share of the label, float32 `[n]`."""
        return self.mixup + _mean(self.rows) * _mean(self.columns)


def plan(mixers, mixer, strength, position, height, width):
    """Returns the `Mix` that was chosen.

    CutMix' rectangle has the images' proportions and lies inside of them; its
    pixels are whole, and the label's share is what they cover.

    Args:
        mixers: Sequence of names, "mixup" or "cutmix".
        mixer: int32 tensor of shape `[n]`: 0 for not at all, else 1 + the
            index of the mixer.
        strength: float32 tensor of shape `[n]` in 0..1.
        position: float32 tensor of shape `[n, 2]` in 0..1, where the
            rectangle lies (x, y), from one border to the other.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """
    count = tf.shape(mixer)[0]
    strength = tf.where(
        pairing.partners(count) == tf.range(count),
        0.0,
        LARGEST_SHARE * strength,
    )

    def share(name):
        if name not in mixers:
            return tf.zeros([count])
        return tf.where(mixer == mixers.index(name) + 1, strength, 0.0)

    side = tf.sqrt(share("cutmix"))

    def inside(size, where):
        size = tf.cast(size, tf.float32)
        extent = tf.round(side * size)
        begin = tf.round(where * (size - extent))[:, None]
        pixel = tf.range(size)
        return (pixel >= begin) & (pixel < begin + extent[:, None])

    rows, columns = (
        inside(height, position[:, 1]),
        inside(width, position[:, 0]),
    )
    return Mix(share("mixup"), rows, columns)


def mix_images(images, mix):
    """Mixes each image with its partner, as both were before.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`.
        mix: `Mix`.

    Returns:
        float32 tensor of the shape of `images`.
    """
    partner = pairing.partners(tf.shape(images)[0])
    blended = tf.where(mix.mixup > 0.0)
    own = tf.gather_nd(images, blended)
    other = tf.gather(images, tf.gather_nd(partner, blended))
    share = tf.gather_nd(mix.mixup, blended)[:, None, None, None]
    mixed = tf.tensor_scatter_nd_update(
        images, blended, own + share * (other - own)
    )
    pasted = tf.where(tf.reduce_any(mix.rows, axis=1))
    rows, columns = (
        tf.gather_nd(mask, pasted) for mask in (mix.rows, mix.columns)
    )
    return tf.tensor_scatter_nd_update(
        mixed,
        pasted,
        tf.where(
            rows[:, :, None, None] & columns[:, None, :, None],
            tf.gather(images, tf.gather_nd(partner, pasted)),
            tf.gather_nd(images, pasted),
        ),
    )


def mix_labels(labels, share):
    """Returns soft labels.

    Args:
        labels: Floating-point tensor of shape `[n, classes]`.
        share: float32 tensor of shape `[n]`, `Mix.share`.

    Returns:
        Tensor of the shape and dtype of `labels`.

    Raises:
        ValueError: If the labels are not one-hot.
    """
    if not labels.dtype.is_floating or labels.shape.rank != 2:
        raise ValueError(
            "Images can be mixed if their labels are floating-point and "
            "one-hot, of shape (n, classes). Received: labels of shape "
            f"{labels.shape} and dtype {labels.dtype.name}"
        )
    others = tf.gather(labels, pairing.partners(tf.shape(labels)[0]))
    return labels + tf.cast(share, labels.dtype)[:, None] * (others - labels)


def _mean(values):
    return tf.reduce_mean(tf.cast(values, tf.float32), axis=1)
