"""What the spaces are built of: the frame around them, and convolutions.

A space is a model from images in `value_range` to class probabilities. The
frame, rescaled pixels at one end and a softmax at the other, and the
convolution with normalisation are the same everywhere, so they stand here.
"""

import keras
from keras import layers

from keras_dha.fused_normalization import FusedBatchNormalization

# Ten steps of memory: a run of a few epochs must not end with statistics
# from its beginning.
_STATISTICS_MOMENTUM = 0.9


def images(input_shape, num_classes, value_range):
    """Returns a model's (input, image of rank 4 with pixels in [-1, 1]).

    Args:
        input_shape: Shape of one image, `(h, w)` or `(h, w, c)`.
        num_classes: Integer of at least 2; checked here, used at the end.
        value_range: Pair of floats, the range of the pixels.
    """
    if len(input_shape) not in (2, 3) or None in input_shape:
        raise ValueError(
            "`input_shape` must be (height, width) or (height, width, "
            f"channels). Received: input_shape={input_shape}"
        )
    if num_classes < 2:
        raise ValueError(
            "There must be at least two classes. "
            f"Received: num_classes={num_classes}"
        )
    low, high = value_range
    scale = 2.0 / (high - low)
    inputs = x = keras.Input(tuple(input_shape), name="image")
    if len(input_shape) == 2:
        x = layers.Reshape((*input_shape, 1), name="channel")(x)
    offset = -1.0 - low * scale
    return inputs, layers.Rescaling(scale, offset=offset, name="scale")(x)


def probabilities(x, num_classes):
    """Returns class probabilities of a feature map."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(num_classes, name="logits")(x)
    # Of bfloat16 they would have three digits, and so would the loss.
    return layers.Softmax(name="probabilities", dtype=keras.config.floatx())(x)


def stem_stride(input_shape, halves_from, quarters_from):
    """Returns 1, 2 or 4 by the shorter side of the image."""
    size = min(input_shape[:2])
    return 1 if size < halves_from else 2 if size < quarters_from else 4


def convolution(channels, kernel, stride, name, affine=True):
    """Returns a convolution without bias and its normalisation."""
    layer = layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )
    return normalised(layer, name, affine)


def depthwise(kernel, stride, name):
    """Returns a depthwise convolution without bias and its normalisation."""
    layer = layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        name=f"{name}_depthwise",
    )
    return normalised(layer, name)


def normalised(layer, name, affine=True):
    """Returns a convolution without bias and its normalisation, in a row."""
    return keras.Sequential([layer, normalisation(name, affine)], name=name)


def normalisation(name=None, affine=True):
    """Returns the batch normalisation that all spaces use.

    Args:
        name: Name of what is normalised, or `None`.
        affine: Whether it has a scale and an offset.
    """
    return FusedBatchNormalization(
        momentum=_STATISTICS_MOMENTUM,
        center=affine,
        scale=affine,
        name=name and f"{name}_norm",
    )


def nothing(name):
    """Returns a layer that gives zeros: as a branch, none at all."""
    return layers.Rescaling(0.0, name=name)
