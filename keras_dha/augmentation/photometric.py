"""Photometric operations: what value each pixel has.

They follow PIL's `ImageOps` and `ImageEnhance`, with two differences. First,
strength: magnitude 0 is exactly the identity and 1 the strongest form, for
every operation; those without a natural strength (AutoContrast, Equalize,
Invert) are blended in, `x + magnitude * (operation(x) - x)`, so that
magnitude 1 is PIL's operation. Second, values stay real numbers where PIL
truncates to integers after each step, so results lie within one or two grey
levels of PIL's. Solarize, Posterize and Equalize are about grey *levels* and
look at the nearest of the 256 levels.

References:
    Cubuk et al., AutoAugment, 2019; Cubuk et al., RandAugment, 2020.
"""

import tensorflow as tf

WHITE = 255.0

# Enhancement factors lie in 1 - ENHANCE .. 1 + ENHANCE.
ENHANCE = 0.9

# Rec. 601 luma, as PIL converts RGB to L.
LUMA = (0.299, 0.587, 0.114)

LEVELS = 256


def _per_image(values):
    return values[:, None, None, None]


def _clip(images):
    return tf.clip_by_value(images, 0.0, WHITE)


def _levels(images):
    # Resampled images lead a little over their range: there the outermost
    # levels are the nearest.
    return tf.round(_clip(images))


def _grey(images):
    if images.shape[-1] == 3:
        return tf.tensordot(images, tf.constant(LUMA, images.dtype), 1)[
            ..., None
        ]
    return tf.reduce_mean(images, axis=-1, keepdims=True)


def _enhance(images, difference, magnitude, sign):
    # PIL's `degenerate + factor * (x - degenerate)`, in a form that is
    # exactly `x` at magnitude 0. `difference` is `x - degenerate`.
    strength = _per_image(sign * magnitude * ENHANCE)
    return _clip(images + strength * difference)


def identity(images, magnitude):
    """Returns the images as they are, whatever the magnitude.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1, without effect.

    Returns:
        `images`.
    """
    del magnitude  # Part of the signature that all operations share.
    return images


def auto_contrast(images, magnitude):
    """Stretches each channel so that its darkest is 0, its brightest 255.

    A channel of one value stays as it is.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1, the blend.

    Returns:
        float32 tensor of the shape of `images`.

    Example:
    >>> ramp = tf.reshape(tf.range(100.0, 116.0), [1, 4, 4, 1])
    >>> tf.reduce_max(auto_contrast(ramp, tf.ones(1))).numpy().item()
    255.0
    """
    low = tf.reduce_min(images, axis=[1, 2], keepdims=True)
    high = tf.reduce_max(images, axis=[1, 2], keepdims=True)
    stretched = (images - low) * tf.math.divide_no_nan(WHITE, high - low)
    # Also where the channel is flat: there the blend must not darken.
    change = tf.where(high > low, stretched - images, 0.0)
    return _clip(images + _per_image(magnitude) * change)


def equalize(images, magnitude):
    """Flattens the histogram of each channel, with PIL's integer table.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1, the blend.

    Returns:
        float32 tensor of the shape of `images`.
    """
    planes = tf.transpose(images, [0, 3, 1, 2])
    shape = tf.shape(planes)
    levels = tf.cast(_levels(planes), tf.int32)
    levels = tf.reshape(levels, [shape[0] * shape[1], shape[2] * shape[3]])
    histogram = tf.raw_ops.DenseBincount(
        input=levels, size=LEVELS, weights=tf.constant([], tf.int32)
    )
    brightest = tf.reduce_max(levels, axis=1, keepdims=True)
    # Pixels per output level, the brightest input level not counted. It is 0
    # for an image of one level or of too few pixels: PIL leaves those alone.
    step = shape[2] * shape[3] - tf.gather(histogram, brightest, batch_dims=1)
    step = step // (LEVELS - 1)
    darker = tf.cumsum(histogram, axis=1, exclusive=True)
    table = (step // 2 + darker) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(LEVELS))
    table = tf.cast(table, images.dtype)
    flat = tf.reshape(tf.gather(table, levels, batch_dims=1), shape)
    equalized = tf.transpose(flat, [0, 2, 3, 1])
    return images + _per_image(magnitude) * (equalized - images)


def invert(images, magnitude):
    """Turns each value into its complement, 255 minus the value.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1, the blend.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return images + _per_image(magnitude) * (WHITE - 2.0 * images)


def solarize(images, magnitude):
    """Inverts the grey levels at or above a threshold.

    The threshold falls linearly from 256 (nothing) to 0 (everything).

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.

    Returns:
        float32 tensor of the shape of `images`.
    """
    threshold = _per_image(LEVELS * (1.0 - magnitude))
    return tf.where(_levels(images) >= threshold, WHITE - images, images)


def posterize(images, magnitude):
    """Keeps the most significant bits of each grey level, 8 down to 1.

    The number of bits is the integer `8 - round(7 * magnitude)`, so neighbour
    magnitudes may share it.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.

    Returns:
        float32 tensor of the shape of `images`.
    """
    step = _per_image(tf.pow(2.0, tf.round(7.0 * magnitude)))
    posterized = tf.floor(_levels(images) / step) * step
    return tf.where(step > 1.0, posterized, images)


def contrast(images, magnitude, sign):
    """Moves values away from the mean grey or towards it.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; the factor of PIL's
            `ImageEnhance.Contrast` is `1 + 0.9 * sign * magnitude`.
        sign: float32 tensor of shape `[n]`, each -1 or 1.

    Returns:
        float32 tensor of the shape of `images`.
    """
    channel_means = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
    return _enhance(images, images - _grey(channel_means), magnitude, sign)


def color(images, magnitude, sign):
    """Moves colours away from grey or towards it. Needs three channels.

    Args:
        images: float32 tensor of shape `[n, h, w, 3]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; the factor of PIL's
            `ImageEnhance.Color` is `1 + 0.9 * sign * magnitude`.
        sign: float32 tensor of shape `[n]`, each -1 or 1.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return _enhance(images, images - _grey(images), magnitude, sign)


def brightness(images, magnitude, sign):
    """Multiplies values by `1 + 0.9 * sign * magnitude`.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; 0 is the identity.
        sign: float32 tensor of shape `[n]`, each -1 or 1.

    Returns:
        float32 tensor of the shape of `images`.
    """
    return _enhance(images, images, magnitude, sign)


def sharpness(images, magnitude, sign):
    """Sharpens or smooths with PIL's 3x3 `SMOOTH` filter.

    The outermost pixels stay as they are, as in PIL.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        magnitude: float32 tensor of shape `[n]` in 0..1; the factor of PIL's
            `ImageEnhance.Sharpness` is `1 + 0.9 * sign * magnitude`.
        sign: float32 tensor of shape `[n]`, each -1 or 1.

    Returns:
        float32 tensor of the shape of `images`.
    """
    # The filter is (a 3x3 box of ones + 4 in the centre) / 13, and a box is
    # two sums of three slices: much cheaper than a convolution per channel.
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    difference = (9.0 * images[:, 1:-1, 1:-1] - box) / 13.0
    border = [[0, 0], [1, 1], [1, 1], [0, 0]]
    # An image of a single row or column is all border.
    height, width = tf.unstack(tf.shape(images)[1:3])
    difference = tf.pad(difference, border)[:, :height, :width]
    return _enhance(images, difference, magnitude, sign)
