"""The operations of the DARTS cell space, of Keras layers.

sep_conv   twice: ReLU, depthwise k x k (the first strided), 1x1, BN
dil_conv   ReLU, depthwise k x k of dilation 2, 1x1, BN
pool       3x3; padding does not count in averages
skip       identity; strided: two 1x1 convolutions of stride 2, the second
of the image shifted by a pixel, side by side, BN
"""

import keras
from keras import layers

from keras_dha.architecture.spaces import blocks

PRIMITIVES = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


def operation(primitive, shape, channels, stride, name, searched=False):
    """Returns one operation as a layer.

    Args:
        primitive: One of `PRIMITIVES`, or `"none"`.
        shape: Shape of one input, (height, width, channels).
        channels: Integer, channels of input and output.
        stride: 1 or 2.
        name: Name of the layer.
        searched: Whether it stands among others: pooling is then normalised,
            without parameters, so that scales compare.
    """
    if primitive == "none":
        zeros = [layers.Rescaling(0.0)]
        if stride > 1:
            zeros.insert(0, layers.MaxPooling2D(1, stride, "same"))
        return keras.Sequential(zeros, name=name)
    if primitive == "skip_connect":
        if stride == 1:
            return layers.Identity(name=name)
        return factorized_reduce(shape, channels, name)
    kind, size = primitive.rsplit("_", 1)
    size = int(size[0])
    if kind == "sep_conv":
        parts = _separable(channels, size, stride)
        parts += _separable(channels, size, 1)
    elif kind == "dil_conv":
        parts = _dilated(shape, channels, size, stride)
    else:
        pool = (
            layers.MaxPooling2D
            if kind == "max_pool"
            else layers.AveragePooling2D
        )
        if not searched:
            return pool(size, stride, "same", name=name)
        parts = [pool(size, stride, "same")]
        parts.append(blocks.normalisation(affine=False))
    return keras.Sequential(parts, name=name)


def pointwise(channels, name):
    """Returns ReLU, 1x1 convolution, normalisation."""
    return keras.Sequential(
        [layers.ReLU(), _convolution(channels, 1), blocks.normalisation()],
        name=name,
    )


def factorized_reduce(shape, channels, name):
    """Returns the layer that halves the resolution and keeps every pixel.

    Args:
        shape: Shape of one input, (height, width, channels).
        channels: Integer, channels of the output.
        name: Name of the layer.
    """
    inputs = keras.Input(shape)
    x = layers.ReLU()(inputs)
    # Shifted by one pixel; the row and column that enter are zeros.
    shifted = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    shifted = layers.Cropping2D(((1, 0), (1, 0)))(shifted)
    halves = [
        _convolution(channels // 2, 1, 2)(x),
        _convolution(channels - channels // 2, 1, 2)(shifted),
    ]
    x = blocks.normalisation()(layers.Concatenate()(halves))
    return keras.Model(inputs, x, name=name)


def stem(x, channels):
    """Returns the two inputs of the first cell.

    Below 96 pixels one convolution of three times the channels, of which
    both are the output; from there on three strided ones, and the first
    input has twice the resolution of the second.

    Args:
        x: The image tensor.
        channels: Integer.

    Returns:
        (first, second, whether the first has twice the resolution).
    """
    if min(x.shape[1:3]) < 96:
        x = _convolution(3 * channels, 3, name="stem_conv")(x)
        x = blocks.normalisation("stem")(x)
        return x, x, False
    first = keras.Sequential(
        [
            _convolution(channels // 2, 3, 2),
            blocks.normalisation(),
            layers.ReLU(),
            _convolution(channels, 3, 2),
            blocks.normalisation(),
        ],
        name="stem0",
    )(x)
    second = keras.Sequential(
        [layers.ReLU(), _convolution(channels, 3, 2), blocks.normalisation()],
        name="stem1",
    )(first)
    return first, second, True


def _separable(channels, size, stride):
    return [
        layers.ReLU(),
        layers.SeparableConv2D(
            channels,
            size,
            strides=stride,
            padding="same",
            use_bias=False,
            depthwise_initializer="he_normal",
            pointwise_initializer="he_normal",
        ),
        blocks.normalisation(),
    ]


def _dilated(shape, channels, size, stride):
    if stride == 1:
        parts = [
            layers.SeparableConv2D(
                channels,
                size,
                padding="same",
                dilation_rate=2,
                use_bias=False,
                depthwise_initializer="he_normal",
                pointwise_initializer="he_normal",
            )
        ]
    else:
        # TensorFlow has no convolution that is strided and dilated: every
        # second pixel of the one that is not strided is the same. Where a side
        # is even the others have pixels 1, 3, ... in their middle.
        cut = [(1 - side % 2, 0) for side in shape[:2]]
        parts = [
            layers.DepthwiseConv2D(
                size,
                padding="same",
                dilation_rate=2,
                use_bias=False,
                depthwise_initializer="he_normal",
            ),
            layers.Cropping2D(cut),
            layers.MaxPooling2D(1, stride, "same"),
            _convolution(channels, 1),
        ]
    return [layers.ReLU(), *parts, blocks.normalisation()]


def _convolution(channels, size, stride=1, name=None):
    return layers.Conv2D(
        channels,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )
