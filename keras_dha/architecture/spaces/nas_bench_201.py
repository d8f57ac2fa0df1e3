"""NAS-Bench-201: one small cell, whose six edges are chosen, many times.

A cell has four nodes. Each node is the sum of one edge from every node before
it, an edge is one of five operations, and all cells of the network are alike:
six decisions in all. The accuracies of all 5^6 cells on CIFAR-10 are
published, so a search in this space can be judged without training anything.
"""

import re

import keras
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.genotype import genotype
from keras_dha.architecture.spaces import blocks
from keras_dha.architecture.wiring import Place
from keras_dha.arguments import checked_count

OPERATIONS = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)
# (to, from), in the order of the string.
EDGES = tuple((node, past) for node in (1, 2, 3) for past in range(node))
_EDGE_OF_CELL = re.compile(r"stage\d+_cell\d+_edge(\d)_(\d)_(\w+)")


def nas_bench_201(
    input_shape,
    num_classes,
    channels=16,
    cells=5,
    stem_stride=None,
    architecture=None,
    operations=OPERATIONS,
    affine=True,
    value_range=(0, 255),
):
    """Returns the network of NAS-Bench-201, to be searched or of one cell.

    Three stages of equal cells, with a residual block that halves the
    resolution and doubles the channels between them. Each edge of the cell is
    one `keras_dha.Decision` that the choices of all cells share.

    A node's sum is normalised further on, so its scale changes no loss, and
    the credits <dL/dy, y> of the edges that end in it sum to zero. Strategies
    that credit by this gradient, such as DSNAS, therefore set the edges of a
    node against each other: those that help less than the best one are
    credited for shrinking, and end as `"none"`. `DARTS` with a `beta_decay`,
    which keeps the mixture even, does not.

    Args:
        input_shape: Shape of one image, `(h, w)` or `(h, w, c)`.
        num_classes: Integer of at least 2.
        channels: Integer, channels of the first stage. The benchmark's
            default is 16.
        cells: Integer, cells a stage. The benchmark's default is 5.
        stem_stride: Integer, stride of the first convolution. By default 1
            up to 32 pixels, as in the benchmark, 2 below 96, and 4 from
            there.
        architecture: `None` for a network with choices, or the string of a
            cell, as `"|nor_conv_3x3~0|+|none~0|skip_connect~1|+|..."`, for
            the plain network of that cell.
        operations: At least two of the benchmark's operations to choose
            from, by default all five.
        affine: Whether the normalisation of the edges has a scale and an
            offset, as the benchmark trains cells. It searches without: a
            scale that is learned takes over what the logits are to say.
        value_range: Pair of floats, the range of the pixels, which is mapped
            to [-1, 1] by the model itself.

    Returns:
        A functional `keras.Model` from images, float32 or uint8 in
        `value_range`, to class probabilities of shape `(n, num_classes)`.
        With the defaults, on `(32, 32, 3)` and 10 classes, the number of its
        trainable weights is the published number of parameters.

    Raises:
        ValueError: `architecture` is not the string of a cell, or
            `operations` are not the benchmark's.

    Example:

    >>> supernet = keras_dha.spaces.nas_bench_201((32, 32, 3), 10)
    >>> keras_dha.spaces.nas_bench_201_string(supernet)
    '|none~0|+|none~0|none~1|+|none~0|none~1|none~2|'

    Reference:
        Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible
        Neural Architecture Search", ICLR 2020, section 2.
    """
    channels = checked_count("channels", channels)
    cells = checked_count("cells", cells)
    if len(set(operations)) < 2 or not set(operations) <= set(OPERATIONS):
        raise ValueError(
            f"`operations` must be at least two of {list(OPERATIONS)}. "
            f"Received: operations={operations!r}"
        )
    operations = tuple(o for o in OPERATIONS if o in operations)
    edges = {
        (node, past): Decision(
            len(operations),
            place=Place("cell", [past], node, joined=False),
            name=f"edge{node}_{past}",
        )
        for node, past in EDGES
    }
    if architecture is not None:
        edges = _operations(architecture)
    inputs, x = blocks.images(input_shape, num_classes, value_range)
    if stem_stride is None:
        stem_stride = blocks.stem_stride(input_shape, 33, 96)
    x = blocks.convolution(channels, 3, stem_stride, "stem")(x)
    for stage in (1, 2, 3):
        if stage > 1:
            x = _reduction(x, channels * 2 ** (stage - 1), f"reduction{stage}")
        for cell in range(1, cells + 1):
            name = f"stage{stage}_cell{cell}"
            x = _cell(x, edges, operations, affine, name)
    x = blocks.normalisation("last")(x)
    x = layers.ReLU(name="last_relu")(x)
    outputs = blocks.probabilities(x, num_classes)
    return keras.Model(inputs, outputs, name="nas_bench_201")


def nas_bench_201_string(found):
    """Returns the cell that was found as the benchmark writes it.

    Args:
        found: A model of this space, searched, derived or plain, or the
            `genotype` of a `keras_dha.SearchResult`.

    Raises:
        ValueError: It does not have the six edges of this space, or its
            cells differ.

    Example:

    >>> keras_dha.spaces.nas_bench_201_string(model.result.genotype)
    '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|...'
    """
    if isinstance(found, keras.Model):
        chosen = [gene["choice"] for gene in genotype(found).values()]
        names = chosen or [layer.name for layer in found.layers]
    else:
        names = [gene["choice"] for gene in found.values()]
    operations = {edge: set() for edge in EDGES}
    for name in names:
        match = _EDGE_OF_CELL.fullmatch(name)
        if match:
            node, past, operation = match.groups()
            operations[int(node), int(past)].add(operation)
    if any(len(o) != 1 for o in operations.values()):
        raise ValueError(
            "`found` must be a network of `keras_dha.spaces.nas_bench_201`, "
            f"or its genotype. Received: operations of its edges {operations}"
        )
    return "+".join(
        "".join(
            f"|{operations[node, past].copy().pop()}~{past}"
            for past in range(node)
        )
        + "|"
        for node in (1, 2, 3)
    )


def _operations(architecture):
    """Returns the operation of each edge of a cell's string."""
    nodes = [
        [edge.split("~") for edge in node.strip("|").split("|")]
        for node in architecture.split("+")
    ]
    pasts = [[edge[-1] for edge in node] for node in nodes]
    named = [edge[0] for node in nodes for edge in node]
    if pasts != [["0"], ["0", "1"], ["0", "1", "2"]] or not (
        set(named) <= set(OPERATIONS)
    ):
        raise ValueError(
            "`architecture` must name an operation for each edge, as "
            "'|a~0|+|b~0|c~1|+|d~0|e~1|f~2|', out of "
            f"{list(OPERATIONS)}. Received: architecture={architecture!r}"
        )
    return dict(zip(EDGES, named, strict=True))


def _cell(x, edges, operations, affine, name):
    nodes = [x]
    for node in (1, 2, 3):
        arriving = []
        for past in range(node):
            edge, decided = f"{name}_edge{node}_{past}", edges[node, past]
            if isinstance(decided, Decision):
                candidates = [
                    _operation(o, x.shape[1:], affine, f"{edge}_{o}")
                    for o in operations
                ]
                layer = Choice(candidates, decided, name=edge)
            else:
                layer = _operation(
                    decided, x.shape[1:], affine, f"{edge}_{decided}"
                )
            arriving.append(layer(nodes[past]))
        if node > 1:
            arriving = [layers.Add(name=f"{name}_node{node}")(arriving)]
        nodes += arriving
    return nodes[-1]


def _operation(operation, shape, affine, name):
    if operation == "none":
        return blocks.nothing(name)
    if operation == "skip_connect":
        return layers.Identity(name=name)
    if operation == "avg_pool_3x3":
        return layers.AveragePooling2D(3, 1, padding="same", name=name)
    kernel = 1 if operation == "nor_conv_1x1" else 3
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.ReLU(name=f"{name}_relu"),
            *blocks.convolution(shape[-1], kernel, 1, name, affine).layers,
        ],
        name=name,
    )


def _reduction(x, channels, name):
    """A residual block: two convolutions beside a pooled shortcut."""
    y = layers.ReLU(name=f"{name}_relu1")(x)
    y = blocks.convolution(channels, 3, 2, f"{name}_1")(y)
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = blocks.convolution(channels, 3, 1, f"{name}_2")(y)
    shortcut = layers.AveragePooling2D(
        2, padding="same", name=f"{name}_shortcut_pool"
    )(x)
    # Without normalisation, as published.
    shortcut = layers.Conv2D(
        channels,
        1,
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_shortcut",
    )(shortcut)
    return layers.Add(name=f"{name}_add")([y, shortcut])
