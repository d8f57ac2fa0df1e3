"""The mobile space: inverted bottlenecks of any kernel, width and depth.

Each block widens its channels, convolves each of them by itself, and narrows
them again. Chosen are the kernel (3, 5, 7) and the expansion (3, 6), and,
where input and output are alike, whether there is a block at all. The macro
architecture is that of ProxylessNAS.
"""

import keras
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.spaces import blocks

# Channels, blocks and stride of each stage.
_STAGES = (
    (24, 4, 2),
    (40, 4, 2),
    (80, 4, 2),
    (96, 4, 1),
    (192, 4, 2),
    (320, 1, 1),
)
_STEM, _FIRST, _HEAD = 32, 16, 1280
# Below this many pixels a stage does not halve the resolution any more.
_SMALLEST = 5


def mobile(
    input_shape,
    num_classes,
    width=1.0,
    depth=1.0,
    kernels=(3, 5, 7),
    expansions=(3, 6),
    stem_stride=None,
    value_range=(0, 255),
):
    """Returns a network of inverted bottlenecks, each of which is a choice.

    The first block of a stage has no shortcut, as published. Where it is the
    only one, as in the last stage and below a `depth` of 0.375 in all, its
    output goes straight into a convolution with batch normalisation, so that
    `DSNAS` and `GDAS`, which credit by <dL/dy, y>, cannot tell its candidates
    apart.

    Args:
        input_shape: Shape of one image, `(h, w)` or `(h, w, c)`.
        num_classes: Integer of at least 2.
        width: Float, factor of all numbers of channels, which are rounded to
            multiples of 4.
        depth: Float, factor of the numbers of blocks of all stages, which
            are rounded, to at least 1.
        kernels: Odd integers, sizes of the depthwise convolution.
        expansions: Integers, by how much a block widens its channels.
        stem_stride: Integer, stride of the first convolution. By default 1
            below 64 pixels and 2 from there.
        value_range: Pair of floats, the range of the pixels, which is mapped
            to [-1, 1] by the model itself.

    Returns:
        A functional `keras.Model` from images, float32 or uint8 in
        `value_range`, to class probabilities of shape `(n, num_classes)`.

    Example:

    >>> supernet = keras_dha.spaces.mobile(
    ...     (32, 32, 3), 10, width=0.5, depth=0.5
    ... )

    Reference:
        Cai et al., "ProxylessNAS: Direct Neural Architecture Search on
        Target Task and Hardware", ICLR 2019; Sandler et al.,
        "MobileNetV2", CVPR 2018 for the block.
    """
    if width <= 0 or depth <= 0:
        raise ValueError(
            "`width` and `depth` must be positive. "
            f"Received: width={width}, depth={depth}"
        )
    if len(kernels) * len(expansions) < 2:
        raise ValueError(
            "There must be at least two blocks to choose from. "
            f"Received: kernels={kernels}, expansions={expansions}"
        )
    inputs, x = blocks.images(input_shape, num_classes, value_range)
    if stem_stride is None:
        stem_stride = blocks.stem_stride(input_shape, 64, float("inf"))
    x = blocks.convolution(_rounded(width * _STEM), 3, stem_stride, "stem")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    first = _rounded(width * _FIRST)
    x = _bottleneck(x, first, 1, 3, 1, "first")(x)
    for stage, (channels, repeat, stride) in enumerate(_STAGES, start=1):
        channels = _rounded(width * channels)
        for block in range(1, max(1, round(depth * repeat)) + 1):
            is_small = min(x.shape[1:3]) < _SMALLEST
            x = _block(
                x,
                channels,
                1 if block > 1 or is_small else stride,
                kernels,
                expansions,
                f"stage{stage}_block{block}",
            )
    x = blocks.convolution(_rounded(width * _HEAD), 1, 1, "head")(x)
    x = layers.ReLU(6.0, name="head_relu")(x)
    outputs = blocks.probabilities(x, num_classes)
    return keras.Model(inputs, outputs, name="mobile")


def _rounded(channels):
    return max(4, 4 * round(channels / 4))


def _block(x, channels, stride, kernels, expansions, name):
    candidates = [
        _bottleneck(x, channels, stride, k, e, f"{name}_k{k}_e{e}")
        for k in kernels
        for e in expansions
    ]
    if stride > 1 or x.shape[-1] != channels:
        return Choice(candidates, name=name)(x)
    # A branch of zeros: the block is its shortcut.
    candidates.append(blocks.nothing(f"{name}_skip"))
    branch = Choice(candidates, name=name)(x)
    return layers.Add(name=f"{name}_add")([x, branch])


def _bottleneck(x, channels, stride, kernel, expansion, name):
    parts = [keras.Input(x.shape[1:])]
    if expansion > 1:
        widened = expansion * x.shape[-1]
        parts += [
            blocks.convolution(widened, 1, 1, f"{name}_widen"),
            layers.ReLU(6.0, name=f"{name}_relu1"),
        ]
    parts += [
        blocks.depthwise(kernel, stride, f"{name}_spatial"),
        layers.ReLU(6.0, name=f"{name}_relu2"),
        blocks.convolution(channels, 1, 1, f"{name}_narrow"),
    ]
    return keras.Sequential(parts, name=name)
