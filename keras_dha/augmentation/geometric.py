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
        *(cosine, shear_x - sine, translate_x * tf.cast(width, angle.dtype)),
        *(shear_y + sine, cosine, translate_y * tf.cast(height, angle.dtype)),
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
    mirror = tf.cast(tf.where(flip, -1.0, 1.0), shift_x.dtype)
    zeros, ones = tf.zeros_like(mirror), tf.ones_like(mirror)
    entries = [
        *(mirror, zeros, -mirror * shift_x),
        *(zeros, ones, -shift_y),
        *(zeros, zeros, ones),
    ]
    return tf.reshape(tf.stack(entries, axis=1), [-1, 3, 3])


def warp(images, matrices, whole_pixels=False):
    """Resamples each image through its own affine matrix, bilinearly.

    Neighbours outside the image count as `FILL`. Differentiable in the
    images, not in the matrices.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        matrices: float32 tensor of shape `[n, 3, 3]`, output to input, origin
            in the centre of the image; the last row must be (0, 0, 1).
        whole_pixels: Whether every matrix takes pixels to pixels, as flips
            and shifts do: then nothing has to be interpolated, and that
            takes a third of the time.

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
        interpolation="NEAREST" if whole_pixels else "BILINEAR",
        fill_mode="CONSTANT",
        fill_value=FILL,
    )
    return tf.ensure_shape(warped, images.shape)


def differentiable_warp(images, matrices):
    """Does what `warp` does, in operations that have all derivatives.

    `ImageProjectiveTransformV3` has none by the matrices. Here each pixel is
    gathered from its four neighbours by weights that depend on where it comes
    from; it takes about twice the time.

    Args:
        images: float tensor of shape `[n, h, w, c]`, values in 0..255.
        matrices: Tensor of the same dtype and shape `[n, 3, 3]`, as for
            `warp`.

    Returns:
        Tensor of the shape and dtype of `images`.
    """
    height, width = image_size(images)
    count, channels = tf.shape(images)[0], images.shape[-1]
    size = tf.cast(tf.stack([width, height]), images.dtype)
    centre = (size - 1.0) / 2.0
    columns = tf.range(size[0]) - centre[0]
    rows = tf.range(size[1]) - centre[1]
    grid = tf.stack(tf.meshgrid(columns, rows), axis=-1)
    grid = tf.reshape(grid, [1, -1, 2])
    source = tf.matmul(grid, matrices[:, :2, :2], transpose_b=True)
    source += matrices[:, None, :2, 2] + centre
    # A frame of one pixel stands for all that lies outside.
    source = tf.clip_by_value(source, -1.0, size)
    corner = tf.stop_gradient(tf.floor(source))
    part = source - corner
    framed = tf.pad(
        images, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=FILL
    )
    flat = tf.reshape(framed, [count, -1, channels])

    def neighbour(right, below):
        place = tf.minimum(corner + [right, below], size)
        place = tf.cast(place, tf.int32) + 1
        index = place[..., 1] * (width + 2) + place[..., 0]
        weight = (part[..., 0] if right else 1.0 - part[..., 0]) * (
            part[..., 1] if below else 1.0 - part[..., 1]
        )
        return weight[..., None] * tf.gather(flat, index, batch_dims=1)

    warped = tf.add_n([neighbour(r, b) for r in (0, 1) for b in (0, 1)])
    return tf.reshape(warped, tf.shape(images))


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
    half_side = cutout_half_side(images, magnitude)
    columns = distances(width, position[:, 0]) < half_side
    rows = distances(height, position[:, 1]) < half_side
    covered = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(covered, tf.cast(FILL, images.dtype), images)


def cutout_half_side(images, magnitude):
    """Returns half the side of Cutout's square in pixels, `[n, 1]`."""
    height, width = image_size(images)
    shorter = tf.cast(tf.minimum(height, width), images.dtype)
    return 0.5 * CUTOUT_SIDE * magnitude[:, None] * shorter


def distances(size, centre):
    """Returns how far pixels are from a centre along one axis, `[n, size]`.

    Args:
        size: Number of pixels.
        centre: float tensor of shape `[n]` in 0..1, a fraction of the axis.
    """
    size = tf.cast(size, centre.dtype)
    return tf.abs(tf.range(size) + 0.5 - centre[:, None] * size)
