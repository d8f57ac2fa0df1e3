"""Derivatives for operations that jump: straight-through surrogates.

Solarize, Posterize and Cutout change pixels one at a time as the magnitude
grows, so their derivative by it is zero almost everywhere, and Equalize and
Posterize have none by the image. Each has a smooth stand-in here, of which
only the derivatives are used: the value stays that of the operation,

    y = f(x, m) + s(x, m) - stop_gradient(s(x, m)).

References:
    Bengio et al., Estimating or propagating gradients through stochastic
    neurons for conditional computation, 2013; Hataya et al., Faster
    AutoAugment, 2020, sets the derivative by the magnitude to 1 everywhere.
"""

import math

import tensorflow as tf

from keras_dha.augmentation import geometric
from keras_dha.augmentation import photometric

# Over how many grey levels Solarize's threshold is smoothed.
THRESHOLD_WIDTH = 8.0
# Over how many pixels the border of Cutout's square is smoothed.
BORDER_WIDTH = 0.5


def _fixed(images, magnitude):
    return tf.stop_gradient(images), magnitude[:, None, None, None]


def equalize(images, magnitude):
    """Lets derivatives by the image pass as if nothing had been equalized.

    Args:
        images: float tensor of shape `[n, h, w, c]`.
        magnitude: float tensor of shape `[n]`; its derivative is exact
            already.

    Returns:
        Tensor of the shape of `images`.
    """
    return tf.stop_gradient(magnitude)[:, None, None, None] * images


def solarize(images, magnitude):
    """Inverts by a soft threshold.

    Args:
        images: float tensor of shape `[n, h, w, c]`, values in 0..255; the
            derivative by them is exact already.
        magnitude: float tensor of shape `[n]` in 0..1.

    Returns:
        Tensor of the shape of `images`.
    """
    images, strength = _fixed(images, magnitude)
    threshold = photometric.LEVELS * (1.0 - strength)
    inverted = tf.sigmoid((images - threshold) / THRESHOLD_WIDTH)
    return (photometric.WHITE - 2.0 * images) * inverted


def posterize(images, magnitude):
    """Cuts off more of each value, the finer the steps were, the less.

    With steps of s = 2 ** (7 m) a value x becomes x - f s, f its fraction
    of a step. With f fixed the derivative by m is -7 ln 2 (f s); by x it is 1.

    Args:
        images: float tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float tensor of shape `[n]` in 0..1.

    Returns:
        Tensor of the shape of `images`.
    """
    fixed, strength = _fixed(images, magnitude)
    cut = fixed - photometric.posterize(fixed, tf.stop_gradient(magnitude))
    # Where there are 8 bits the operation passes its images on itself.
    passed = tf.where(tf.round(7.0 * strength) > 0.0, images, 0.0)
    return passed - 7.0 * math.log(2.0) * cut * strength


def cutout(images, magnitude, position):
    """Covers a square with soft borders.

    Args:
        images: float tensor of shape `[n, h, w, c]`, values in 0..255; the
            derivative by them is exact already.
        magnitude: float tensor of shape `[n]` in 0..1.
        position: float tensor of shape `[n, 2]` in 0..1.

    Returns:
        Tensor of the shape of `images`.
    """
    fixed, _ = _fixed(images, magnitude)
    height, width = geometric.image_size(images)
    half_side = geometric.cutout_half_side(fixed, magnitude)

    def covered(size, centre):
        inside = half_side - geometric.distances(size, centre)
        return tf.sigmoid(inside / BORDER_WIDTH)

    rows = covered(height, position[:, 1])[:, :, None, None]
    columns = covered(width, position[:, 0])[:, None, :, None]
    return (geometric.FILL - fixed) * rows * columns
