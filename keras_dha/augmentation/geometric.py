"""Geometric operations: where each pixel is taken from.

Shear, translation and rotation, and the base transforms flip and shift, are
all affine. An image's whole chain is therefore one 3x3 matrix, and pixels are
interpolated once however many of them were chosen. A matrix maps a position
in the *output* to the position in the *input* it is taken from, as in PIL, in
coordinates whose origin is the centre of the image, `((w - 1) / 2,
(h - 1) / 2)` in pixel indices (PIL's half-pixel convention).

Positions outside the image are mid-grey (`FILL`): with black, every
geometric operation would also darken the image.
"""

import math

import tensorflow as tf

FILL = 128.0

# What each operation is at magnitude 1, as (shear_x, shear_y, translate_x,
# translate_y, angle). Shears are slopes, translations fractions of the size,
# angles radians.
SHEAR_X = (0.3, 0.0, 0.0, 0.0, 0.0)
SHEAR_Y = (0.0, 0.3, 0.0, 0.0, 0.0)
TRANSLATE_X = (0.0, 0.0, 0.45, 0.0, 0.0)
TRANSLATE_Y = (0.0, 0.0, 0.0, 0.45, 0.0)
ROTATE = (0.0, 0.0, 0.0, 0.0, math.radians(30.0))

# The side of Cutout's square at magnitude 1, as a fraction of the shorter
# side of the image.
CUTOUT_SIDE = 0.5


def image_size(images):
    """Returns `(height, width)` as integers if known, else as tensors.

    Args:
        images: Tensor of shape `[n, h, w, c]`.

    Returns:
        A pair, each an `int` or an int32 scalar tensor.
    """
    dynamic = tf.shape(images)
    return tuple(
        dynamic[axis] if images.shape[axis] is None else images.shape[axis]
        for axis in (1, 2)
    )


def affine_matrix(parameters, height, width):
    """Returns the matrices of shears, translations and rotations.

    At most one of an image's five parameters may differ from zero: the
    formula is not meant to compose them (multiply matrices for that).

    Args:
        parameters: float32 tensor of shape `[n, 5]`: shear_x and shear_y
            (slopes), translate_x and translate_y (fractions of the size),
            angle (radians, counter-clockwise).
        height: Height of the images in pixels.
        width: Width of the images in pixels.

    Returns:
        float32 tensor of shape `[n, 3, 3]`, output to input, origin in the
        centre of the image.
    """
    shear_x, shear_y, translate_x, translate_y, angle = tf.unstack(
        parameters, num=5, axis=1
    )
    cosine, sine = tf.cos(angle), tf.sin(angle)
    zeros, ones = tf.zeros_like(angle), tf.ones_like(angle)
    entries = [
        *(cosine, shear_x - sine, translate_x * tf.cast(width, tf.float32)),
        *(shear_y + sine, cosine, translate_y * tf.cast(height, tf.float32)),
        *(zeros, zeros, ones),
    ]
    return tf.reshape(tf.stack(entries, axis=1), [-1, 3, 3])


def flip_and_shift_matrix(flip, shift_x, shift_y):
    """Returns the matrices of a horizontal flip followed by a shift.

    Args:
        flip: bool tensor of shape `[n]`.
        shift_x: float32 tensor of shape `[n]`, pixels to the right.
        shift_y: float32 tensor of shape `[n]`, pixels downwards.

    Returns:
        float32 tensor of shape `[n, 3, 3]`, output to input, origin in the
        centre of the image.
    """
    mirror = tf.where(flip, -1.0, 1.0)
    zeros, ones = tf.zeros_like(mirror), tf.ones_like(mirror)
    entries = [
        *(mirror, zeros, -mirror * shift_x),
        *(zeros, ones, -shift_y),
        *(zeros, zeros, ones),
    ]
    return tf.reshape(tf.stack(entries, axis=1), [-1, 3, 3])


def warp(images, matrices):
    """Resamples each image bilinearly through its own affine matrix.

    Neighbours outside the image count as `FILL`. Differentiable in the
    images, not in the matrices.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        matrices: float32 tensor of shape `[n, 3, 3]`, output to input, origin
            in the centre of the image; the last row must be (0, 0, 1).

    Returns:
        float32 tensor of the shape of `images`.
    """
    height, width = image_size(images)
    size = tf.cast(tf.stack([width, height]), tf.float32)
    centre = (size - 1.0) / 2.0
    linear = matrices[:, :2, :2]
    offset = matrices[:, :2, 2] + centre - tf.linalg.matvec(linear, centre)
    affine = tf.concat([linear, offset[:, :, None]], axis=2)
    transforms = tf.pad(tf.reshape(affine, [-1, 6]), [[0, 0], [0, 2]])
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.stack([height, width]),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=FILL,
    )
    return tf.ensure_shape(warped, images.shape)


def _warp_by(images, magnitude, sign, limits):
    height, width = image_size(images)
    parameters = (sign * magnitude)[:, None] * tf.constant([limits])
    return warp(images, affine_matrix(parameters, height, width))


def shear_x(images, magnitude, sign):
    """Shears horizontally about the centre, by a slope of up to 0.3.

    AutoAugment's ShearX (Cubuk et al., 2019), which shears about the upper
    left corner and so also moves the content sideways; here the centre stays.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        sign: float32 tensor of shape `[n]`, each -1 or 1.

    Returns:
        float32 tensor of the shape of `images`.

    Example:
    >>> images = tf.random.uniform([2, 8, 8, 3], maxval=255.0)
    >>> shear_x(images, tf.constant([0.0, 1.0]), tf.ones(2)).shape
    TensorShape([2, 8, 8, 3])
    """
    return _warp_by(images, magnitude, sign, SHEAR_X)


def shear_y(images, magnitude, sign):
    """Shears vertically about the centre, by a slope of up to 0.3.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        sign: float32 tensor of shape `[n]`, each -1 or 1.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return _warp_by(images, magnitude, sign, SHEAR_Y)


def translate_x(images, magnitude, sign):
    """Moves the image sideways by up to 0.45 of its width.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        sign: float32 tensor of shape `[n]`; 1 moves to the left, -1 to the
            right.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return _warp_by(images, magnitude, sign, TRANSLATE_X)


def translate_y(images, magnitude, sign):
    """Moves the image up or down by up to 0.45 of its height.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        sign: float32 tensor of shape `[n]`; 1 moves up, -1 down.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return _warp_by(images, magnitude, sign, TRANSLATE_Y)


def rotate(images, magnitude, sign):
    """Rotates about the centre by up to 30 degrees.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        sign: float32 tensor of shape `[n]`; 1 is counter-clockwise.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return _warp_by(images, magnitude, sign, ROTATE)


def cutout(images, magnitude, position):
    """Covers a square of up to half the shorter side with mid-grey.

    The square's centre may be anywhere in the image, and what sticks out is
    cut off (DeVries & Taylor, 2017). A pixel is covered if its centre is.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        position: float32 tensor of shape `[n, 2]` in 0..1: the centre as
            (x / width, y / height).

    Returns:
        float32 tensor of the shape of `images`.
    """
    height, width = image_size(images)
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    half_side = 0.5 * CUTOUT_SIDE * magnitude[:, None] * shorter

    def covered(size, centre):
        pixels = tf.range(tf.cast(size, tf.float32)) + 0.5
        distance = pixels - centre[:, None] * tf.cast(size, tf.float32)
        return tf.abs(distance) < half_side

    columns = covered(width, position[:, 0])[:, None, :, None]
    rows = covered(height, position[:, 1])[:, :, None, None]
    return tf.where(tf.logical_and(rows, columns), FILL, images)
