"""The block space of DSNAS and DiffAutoML: four blocks of ShuffleNet.

A block keeps half of its channels and transforms the other half; what is
chosen is the transformation: a bottleneck around a depthwise convolution with
kernel 3, 5 or 7, or three separable convolutions in a row. A block that
begins a stage sees all channels in two branches, and both are chosen.

Split and shuffle are views, made of stock layers: a shuffle is a transposed
matrix of channels (`Reshape`, `Permute`, `Reshape`), and a split is a crop of
the last axis (`Cropping2D`, which takes channels for a side when it is told
that they come first). No layer of this library is left in a derived model.
"""

import keras
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.spaces import blocks
from keras_dha.arguments import checked_count

_KERNELS = (3, 5, 7)
# Below this many pixels a stage does not halve the resolution any more.
_SMALLEST = 5


def shufflenet(
    input_shape,
    num_classes,
    repeats=(4, 4, 8, 4),
    widths=(64, 160, 320, 640),
    stem=16,
    head=1024,
    stem_stride=None,
    value_range=(0, 255),
):
    """Returns a network of shuffle blocks, each of which is a choice of four.

    The output of a stage of one block goes straight into convolutions with
    batch normalisation, so that `DSNAS` and `GDAS`, which credit by <dL/dy, y>,
    cannot tell its candidates apart; let all `repeats` be 2 or more.

    Args:
        input_shape: Shape of one image, `(h, w)` or `(h, w, c)`.
        num_classes: Integer of at least 2.
        repeats: Integers, the blocks of each stage. Every stage halves the
            resolution while it is above 4 pixels.
        widths: Even integers, the channels of each stage, increasing.
        stem: Even integer, channels of the first convolution.
        head: Integer, channels of the last convolution.
        stem_stride: Integer, stride of the first convolution. By default 1
            below 64 pixels and 2 from there, as published for 224.
        value_range: Pair of floats, the range of the pixels, which is mapped
            to [-1, 1] by the model itself.

    Returns:
        A functional `keras.Model` from images, float32 or uint8 in
        `value_range`, to class probabilities of shape `(n, num_classes)`.

    Raises:
        ValueError: The stages do not fit together.

    Example:

    >>> supernet = keras_dha.spaces.shufflenet(
    ...     (32, 32, 3), 10, repeats=(2, 2, 2), widths=(32, 64, 128), head=256
    ... )

    Reference:
        Hu et al., "DSNAS: Direct Neural Architecture Search without
        Parameter Retraining", CVPR 2020, table 6; Guo et al., "Single Path
        One-Shot Neural Architecture Search", ECCV 2020 for the blocks.
    """
    _check_stages(repeats, widths, stem)
    head = checked_count("head", head)
    inputs, x = blocks.images(input_shape, num_classes, value_range)
    if stem_stride is None:
        stem_stride = blocks.stem_stride(input_shape, 64, float("inf"))
    x = blocks.convolution(stem, 3, stem_stride, "stem")(x)
    x = layers.ReLU(name="stem_relu")(x)
    stages = zip(repeats, widths, strict=True)
    for stage, (repeat, width) in enumerate(stages, start=1):
        for block in range(1, repeat + 1):
            name = f"stage{stage}_block{block}"
            if block == 1:
                stride = 2 if min(x.shape[1:3]) >= _SMALLEST else 1
                x = _widening(x, width, stride, name)
            else:
                x = _keeping(x, width, name)
    x = blocks.convolution(head, 1, 1, "head")(x)
    x = layers.ReLU(name="head_relu")(x)
    outputs = blocks.probabilities(x, num_classes)
    return keras.Model(inputs, outputs, name="shufflenet")


def _check_stages(repeats, widths, stem):
    if len(repeats) != len(widths) or not widths:
        raise ValueError(
            "`repeats` and `widths` must have an entry for each stage. "
            f"Received: repeats={repeats}, widths={widths}"
        )
    for repeat in repeats:
        checked_count("repeats", repeat)
    for before, width in zip((stem, *widths), widths, strict=False):
        if before < 2 or before % 2 or width % 2 or width <= before:
            raise ValueError(
                "`stem` and `widths` must be even and increase, as a stage "
                "adds channels to those it receives. "
                f"Received: stem={stem}, widths={widths}"
            )


def _keeping(x, width, name):
    """A block of equal shapes: one half passes, the other is chosen."""
    x = _shuffled(x, name)
    half = width // 2
    kept = _cropped(x, 0, half, f"{name}_kept")
    changed = _cropped(x, half, 0, f"{name}_changed")
    candidates = [
        _candidate(changed, half, width, kernel, 1, name)
        for kernel in (*_KERNELS, None)
    ]
    changed = Choice(candidates, name=name)(changed)
    return layers.Concatenate(name=f"{name}_joined")([kept, changed])


def _widening(x, width, stride, name):
    """The first block of a stage: both branches see all channels."""
    candidates = []
    for kernel in (*_KERNELS, None):
        branch = _candidate(
            x, width - x.shape[-1], width, kernel, stride, name, "_branch"
        )
        y = inputs = keras.Input(x.shape[1:])
        label = f"{name}_{_label(kernel)}"
        projected = blocks.depthwise(kernel or 3, stride, f"{label}_pool")(y)
        projected = blocks.convolution(
            x.shape[-1], 1, 1, f"{label}_projection"
        )(projected)
        projected = layers.ReLU(name=f"{label}_projection_relu")(projected)
        y = layers.Concatenate(name=f"{label}_joined")([projected, branch(y)])
        candidates.append(keras.Model(inputs, y, name=label))
    return Choice(candidates, name=name)(x)


def _label(kernel):
    return f"shuffle_k{kernel}" if kernel else "xception"


def _candidate(x, channels, width, kernel, stride, name, suffix=""):
    """Returns what transforms `x` to `channels`; no kernel is xception."""
    name = f"{name}_{_label(kernel)}{suffix}"
    middle = width // 2
    if kernel:
        parts = [
            blocks.convolution(middle, 1, 1, f"{name}_reduce"),
            layers.ReLU(name=f"{name}_relu1"),
            blocks.depthwise(kernel, stride, f"{name}_spatial"),
            blocks.convolution(channels, 1, 1, f"{name}_expand"),
            layers.ReLU(name=f"{name}_relu2"),
        ]
    else:
        parts = []
        for k, filters in enumerate((middle, middle, channels), start=1):
            parts += [
                blocks.depthwise(3, stride, f"{name}_spatial{k}"),
                blocks.convolution(filters, 1, 1, f"{name}_pointwise{k}"),
                layers.ReLU(name=f"{name}_relu{k}"),
            ]
            stride = 1
    return keras.Sequential([keras.Input(x.shape[1:]), *parts], name=name)


def _shuffled(x, name):
    """Channels 0 2 4 .. 1 3 5 ..: both branches of before in each half."""
    height, width, channels = x.shape[1:]
    x = layers.Reshape(
        (height * width, channels // 2, 2), name=f"{name}_pairs"
    )(x)
    x = layers.Permute((1, 3, 2), name=f"{name}_shuffle")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_shuffled")(x)


def _cropped(x, before, after, name):
    """Leaves out channels: to this layer the last axis is a width."""
    return layers.Cropping2D(
        ((0, 0), (before, after)), data_format="channels_first", name=name
    )(x)
