"""The cell space of DARTS: two kinds of cells, stacked.

A cell has two inputs, the outputs of the two cells before it, and four nodes.
A node adds up one operation on each of two earlier states; which ones is what
is searched. All normal cells are one decision for each node, all reduction
cells, which halve the resolution and double the channels, another. The output
is the concatenation of the four nodes.
"""

import functools
from typing import NamedTuple

import keras
from keras import layers

from keras_dha.architecture.decision import Decision
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.spaces import blocks
from keras_dha.architecture.spaces import darts_operations as operations
from keras_dha.architecture.wiring import Place
from keras_dha.arguments import checked_count
from keras_dha.nested_layers import find_layers

NODES = 4


class DartsGenotype(NamedTuple):
    """A cell of each kind.

    Attributes:
        normal, reduce: Tuples of four nodes; a node is a tuple of pairs
            (name of the operation, number of the state it takes). States 0
            and 1 are the cell's inputs, the nodes follow.
    """

    normal: tuple
    reduce: tuple


# The cells of the paper's second-order search on CIFAR-10, as its authors
# published them.
DARTS_V2 = DartsGenotype(
    normal=(
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    reduce=(
        (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
        (("max_pool_3x3", 0), ("skip_connect", 2)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
)


def darts(
    input_shape,
    num_classes,
    channels=16,
    cells=8,
    none=False,
    value_range=(0, 255),
):
    """Returns the cell space of DARTS as a supernet.

    Every node is a `keras_dha.NodeChoice` of two kept edges; the 8 decisions
    are named `normal0` to `normal3` and `reduce0` to `reduce3`.

    Args:
        input_shape: Tuple (height, width) or (height, width, channels).
        num_classes: Integer of at least 2.
        channels: Integer of at least 2, channels of an operation in the
            first cells.
        cells: Integer of at least 1. Those a third and two thirds into the
            network are reduction cells.
        none: Whether there is an operation that gives zeros. It is mixed in
            or sampled like the others and never kept.
        value_range: Pair of floats, the range of the pixels, which is mapped
            to [-1, 1] by the model itself.

    Returns:
        A functional `keras.Model` from images to class probabilities.

    Example:

    >>> supernet = keras_dha.spaces.darts((32, 32, 3), 10, cells=5)

    Reference:
        Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019.
    """
    primitives = operations.PRIMITIVES
    if none:
        primitives = ("none", *primitives)
    decisions = {
        (kind, node): Decision(
            (node + 2) * len(primitives),
            edges=node + 2,
            keep=2,
            none=0 if none else None,
            place=Place(kind, list(range(node + 2)), node + 2, joined=True),
            name=f"{kind}{node}",
        )
        for kind in ("normal", "reduce")
        for node in range(NODES)
    }

    def node(states, number, width, reduces, name):
        kind = "reduce" if reduces else "normal"
        candidates = [
            [
                operations.operation(
                    primitive,
                    states[source].shape[1:],
                    width,
                    2 if reduces and source < 2 else 1,
                    f"{name}_from{source}_{primitive}",
                    searched=True,
                )
                for primitive in primitives
            ]
            for source in range(len(states))
        ]
        return NodeChoice(
            candidates,
            keep=2,
            decision=decisions[kind, number],
            none=0 if none else None,
            name=name,
        )(states)

    return _network(
        input_shape, num_classes, channels, cells, value_range, node
    )


def darts_network(
    genotype,
    input_shape,
    num_classes,
    channels=36,
    cells=20,
    value_range=(0, 255),
):
    """Returns the plain network of a genotype, untrained.

    Without the auxiliary head and the drop path of the paper's training.

    Args:
        genotype: `DartsGenotype`, for instance `spaces.DARTS_V2`.
        input_shape, num_classes, channels, cells, value_range: As in
            `keras_dha.spaces.darts`; the paper evaluates at 36 channels and
            20 cells.

    Returns:
        A functional `keras.Model` of plain layers.

    Example:

    >>> model = keras_dha.spaces.darts_network(
    ...     keras_dha.spaces.DARTS_V2, (32, 32, 3), 10)
    """
    _check_genotype(genotype)

    def node(states, number, width, reduces, name):
        kept = (genotype.reduce if reduces else genotype.normal)[number]
        parts = [
            operations.operation(
                primitive,
                states[source].shape[1:],
                width,
                2 if reduces and source < 2 else 1,
                f"{name}_from{source}_{primitive}",
            )(states[source])
            for primitive, source in kept
        ]
        return layers.Add(name=name)(parts)

    return _network(
        input_shape, num_classes, channels, cells, value_range, node
    )


def darts_genotype(model):
    """Returns the `DartsGenotype` that a supernet of `darts` stands for now.

    Args:
        model: The supernet, in search or searched.
    """
    cells = {"normal": {}, "reduce": {}}
    for node in find_layers(model, NodeChoice):
        kind, number = node.decision.name[:-1], node.decision.name[-1]
        if kind in cells and number.isdigit():
            cells[kind][int(number)] = tuple(
                (layer.name.split(f"_from{edge}_")[1], edge)
                for edge, layer, _ in node.kept()
            )
    if len(cells["normal"]) != NODES:
        raise ValueError(
            "`model` must be a supernet of `keras_dha.spaces.darts`. "
            f"Received: model={model.name}"
        )
    return DartsGenotype(
        *(
            tuple(cell[k] for k in sorted(cell))
            for cell in (cells["normal"], cells["reduce"])
        )
    )


def _network(input_shape, num_classes, channels, cells, value_range, node):
    """Stem, cells and head; `node` builds one node of a cell."""
    channels = checked_count("channels", channels, least=2)
    cells = checked_count("cells", cells)
    inputs, x = blocks.images(input_shape, num_classes, value_range)
    before, last, reduced = operations.stem(x, channels)
    reductions = {cells // 3, 2 * cells // 3} if cells > 1 else set()
    for number in range(cells):
        reduces = number in reductions
        if reduces:
            channels *= 2
        cell = functools.partial(
            _cell, channels=channels, reduces=reduces, node=node
        )
        output = cell(before, last, reduced, name=f"cell{number}")
        before, last, reduced = last, output, reduces
    outputs = blocks.probabilities(last, num_classes)
    return keras.Model(inputs, outputs, name="darts")


def _cell(before, last, reduced, channels, reduces, node, name):
    """One cell; `reduced` says that `before` has twice the resolution."""
    if reduced:
        first = operations.factorized_reduce(
            before.shape[1:], channels, f"{name}_input0"
        )
    else:
        first = operations.pointwise(channels, f"{name}_input0")
    states = [
        first(before),
        operations.pointwise(channels, f"{name}_input1")(last),
    ]
    for number in range(NODES):
        states.append(
            node(
                list(states), number, channels, reduces, f"{name}_node{number}"
            )
        )
    return layers.Concatenate(name=f"{name}_output")(states[2:])


def _check_genotype(genotype):
    for cell in genotype:
        if len(cell) != NODES:
            raise ValueError(
                f"A cell must have {NODES} nodes. Received: {cell}"
            )
        for number, kept in enumerate(cell):
            for primitive, source in kept:
                if (
                    primitive not in operations.PRIMITIVES
                    or source not in range(number + 2)
                ):
                    raise ValueError(
                        "A node must have pairs of an operation of "
                        f"{operations.PRIMITIVES} and the number of an "
                        f"earlier state. Received: {(primitive, source)} in "
                        f"node {number}"
                    )
