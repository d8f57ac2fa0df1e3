"""The default space: a small residual network whose branches are chosen.

Each residual block adds a chosen branch to its shortcut. Branches differ in
kernel, in width and in depth: plain 3x3 convolutions as in ResNet, a wide
one, one with a 5x5 kernel, where networks are to be small a cheap inverted
bottleneck, and, where the shape does not change, none at all. What plain, wide
and 5x5 branches have in common are the same weights.
"""

import keras
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.spaces import blocks as parts
from keras_dha.architecture.superkernel import SlicedConvolution
from keras_dha.architecture.superkernel import SuperKernel
from keras_dha.arguments import checked_count


def resnet(
    input_shape,
    num_classes,
    width=16,
    stages=3,
    blocks=1,
    stem_stride=None,
    value_range=(0, 255),
    bottlenecks=False,
):
    """Returns a residual network in which every block is a choice.

    Args:
        input_shape: Shape of one image, `(h, w)` or `(h, w, c)`.
        num_classes: Integer of at least 2.
        width: Integer, channels of the first stage; doubled at each stage.
        stages: Integer, how many resolutions; halved at each stage.
        blocks: Integer, residual blocks a stage. The first one of a stage
            always exists, further ones may be chosen away.
        stem_stride: Integer, stride of the first convolution. By default 1
            below 24 pixels, 2 below 96, and 4 from there.
        value_range: Pair of floats, the range of the pixels, which is mapped
            to [-1, 1] by the model itself.
        bottlenecks: Whether each choice has an inverted bottleneck as well,
            with an eighth to two fifths of the others' weights. `AutoModel`
            has them where it has a `target`. Where nothing limits the size of
            a network they are its least accurate branches, but learn fastest
            at first, so that a search of a few epochs keeps them.

    Returns:
        A functional `keras.Model` from images, float32 or uint8 in
        `value_range`, to class probabilities of shape `(n, num_classes)`.

    Example:

    >>> supernet = keras_dha.spaces.resnet((28, 28, 1), num_classes=10)

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016;
        He et al., "Bag of Tricks for Image Classification with Convolutional
        Neural Networks", CVPR 2019 for the pooled shortcuts (ResNet-D);
        Stamoulis et al., "Single-Path NAS", ECML-PKDD 2019 for weights that
        candidates have in common;
        Sandler et al., "MobileNetV2", CVPR 2018 for the inverted bottleneck.
    """
    inputs, x = parts.images(input_shape, num_classes, value_range)
    width = checked_count("width", width)
    stages = checked_count("stages", stages)
    blocks = checked_count("blocks", blocks)
    if stem_stride is None:
        stem_stride = usual_stem_stride(input_shape)
    x = parts.convolution(width, 3, stem_stride, "stem")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _block(
                x,
                width * 2**stage,
                stride,
                optional=block > 0,
                bottlenecks=bottlenecks,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    outputs = parts.probabilities(x, num_classes)
    return keras.Model(inputs, outputs, name="resnet")


def usual_stem_stride(input_shape):
    """Returns the stride of the stem where nothing else is said."""
    return parts.stem_stride(input_shape, 24, 96)


def _block(x, channels, stride, optional, bottlenecks, name):
    shortcut = x
    if stride > 1:
        # A pointwise convolution of this stride would leave three pixels of
        # four unseen.
        shortcut = layers.AveragePooling2D(
            stride, padding="same", name=f"{name}_shortcut_pool"
        )(x)
    if stride > 1 or x.shape[-1] != channels:
        shortcut = parts.convolution(channels, 1, 1, f"{name}_shortcut")(
            shortcut
        )
    smallest = 3, x.shape[-1]
    kernels = (
        SuperKernel(5, x.shape[-1], 2 * channels, smallest, name=f"{name}_1"),
        SuperKernel(3, 2 * channels, channels, (3, channels), name=f"{name}_2"),
    )
    candidates = [
        _branch(x, kernels, channels, stride, f"{name}_conv3", 3),
        _branch(x, kernels, channels, stride, f"{name}_conv5", 5),
        _branch(x, kernels, 2 * channels, stride, f"{name}_wide", 3),
    ]
    if bottlenecks:
        candidates.append(
            _bottleneck(x, channels, stride, f"{name}_bottleneck")
        )
    if optional:
        # A branch of zeros: the block is its shortcut.
        candidates.append(parts.nothing(f"{name}_none"))
    x = layers.Add(name=f"{name}_add")(
        [shortcut, Choice(candidates, name=name)(x)]
    )
    return layers.ReLU(name=f"{name}_relu")(x)


def _branch(x, kernels, between, stride, name, kernel_size):
    """Two convolutions, with `between` channels between them."""
    first, second = kernels
    y = inputs = keras.Input(x.shape[1:])
    y = _sliced(first, between, kernel_size, stride, f"{name}_1")(y)
    y = layers.ReLU(name=f"{name}_relu")(y)
    y = _sliced(second, second.filters, 3, 1, f"{name}_2")(y)
    return keras.Model(inputs, y, name=name)


def _sliced(whole, filters, kernel_size, stride, name):
    layer = SlicedConvolution(
        whole, filters, kernel_size, stride, name=f"{name}_conv"
    )
    return parts.normalised(layer, name)


def _bottleneck(x, channels, stride, name):
    """Pointwise widening, 5x5 depthwise, pointwise narrowing."""
    y = inputs = keras.Input(x.shape[1:])
    y = parts.convolution(2 * channels, 1, 1, f"{name}_widen")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = parts.depthwise(5, stride, f"{name}_depthwise")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = parts.convolution(channels, 1, 1, f"{name}_narrow")(y)
    return keras.Model(inputs, y, name=name)
