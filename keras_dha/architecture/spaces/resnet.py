"""The default space: a small residual network whose branches are chosen.

Each residual block adds a chosen branch to its shortcut. Branches differ in
kernel, in width and in depth: plain 3x3 convolutions as in ResNet, a wide
one, one with a 5x5 kernel, a cheap inverted bottleneck, and, where the shape
does not change, none at all.
"""

import keras
from keras import layers

from keras_dha.architecture.choice import Choice

# Ten steps of memory: a run of a few epochs must not end with statistics
# from its beginning.
_STATISTICS_MOMENTUM = 0.9


def resnet(
    input_shape,
    num_classes,
    width=16,
    stages=3,
    blocks=1,
    stem_stride=None,
    value_range=(0, 255),
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

    Returns:
        A functional `keras.Model` from images, float32 or uint8 in
        `value_range`, to class probabilities of shape `(n, num_classes)`.

    Example:

    >>> supernet = keras_dha.spaces.resnet((28, 28, 1), num_classes=10)

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016;
        Sandler et al., "MobileNetV2", CVPR 2018 for the inverted bottleneck.
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
    size = min(input_shape[:2])
    if stem_stride is None:
        stem_stride = 1 if size < 24 else 2 if size < 96 else 4
    low, high = value_range
    scale = 2.0 / (high - low)
    inputs = keras.Input(tuple(input_shape), name="image")
    x = inputs
    if len(input_shape) == 2:
        x = layers.Reshape((*input_shape, 1), name="channel")(x)
    x = layers.Rescaling(scale, offset=-1.0 - low * scale, name="scale")(x)
    x = _convolution(width, 3, stem_stride, "stem")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(stages):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _block(
                x,
                width * 2**stage,
                stride,
                optional=block > 0,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(num_classes, name="logits")(x)
    outputs = layers.Softmax(name="probabilities")(x)
    return keras.Model(inputs, outputs, name="resnet")


def _block(x, channels, stride, optional, name):
    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        shortcut = _convolution(channels, 1, stride, f"{name}_shortcut")(x)
    candidates = [
        _branch(x, channels, stride, f"{name}_conv3", kernel=3),
        _branch(x, channels, stride, f"{name}_conv5", kernel=5),
        _branch(x, channels, stride, f"{name}_wide", kernel=3, expansion=2),
        _bottleneck(x, channels, stride, f"{name}_bottleneck"),
    ]
    if optional:
        # A branch of zeros: the block is its shortcut.
        candidates.append(layers.Rescaling(0.0, name=f"{name}_none"))
    x = layers.Add(name=f"{name}_add")(
        [shortcut, Choice(candidates, name=name)(x)]
    )
    return layers.ReLU(name=f"{name}_relu")(x)


def _branch(x, channels, stride, name, kernel, expansion=1):
    """Two convolutions; `expansion` widens what is between them."""
    y = inputs = keras.Input(x.shape[1:])
    y = _convolution(expansion * channels, kernel, stride, f"{name}_1")(y)
    y = layers.ReLU(name=f"{name}_relu")(y)
    y = _convolution(channels, 3, 1, f"{name}_2")(y)
    return keras.Model(inputs, y, name=name)


def _bottleneck(x, channels, stride, name):
    """Pointwise widening, 5x5 depthwise, pointwise narrowing."""
    y = inputs = keras.Input(x.shape[1:])
    y = _convolution(2 * channels, 1, 1, f"{name}_widen")(y)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = layers.DepthwiseConv2D(
        5,
        strides=stride,
        padding="same",
        use_bias=False,
        name=f"{name}_depthwise",
    )(y)
    y = _normalisation(f"{name}_depthwise")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = _convolution(channels, 1, 1, f"{name}_narrow")(y)
    return keras.Model(inputs, y, name=name)


def _convolution(channels, kernel, stride, name):
    convolution = layers.Conv2D(
        channels,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )
    return keras.Sequential([convolution, _normalisation(name)], name=name)


def _normalisation(name):
    return layers.BatchNormalization(
        momentum=_STATISTICS_MOMENTUM, name=f"{name}_norm"
    )
