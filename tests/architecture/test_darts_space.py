"""The DARTS space: published counts, shapes, deriving, genotypes."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.architecture import spaces
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.spaces import darts_operations as operations
from keras_dha.nested_layers import find_layers
from tests.architecture.test_derive import is_plain


def parameters(model):
    """Trainable ones, as the authors count."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.slow
def test_published_parameters_of_darts_v2():
    """The authors' released networks, without auxiliary heads."""
    cifar = spaces.darts_network(spaces.DARTS_V2, (32, 32, 3), 10)
    assert parameters(cifar) == 3_349_342
    imagenet = spaces.darts_network(
        spaces.DARTS_V2, (224, 224, 3), 1000, channels=48, cells=14
    )
    assert parameters(imagenet) == 4_718_752


@pytest.mark.parametrize(
    "name, weights",
    [
        # C = 6 channels; BN has 2 C; a separable k x k has k k C + C C.
        ("max_pool_3x3", 0),
        ("avg_pool_3x3", 0),
        ("skip_connect", 0),
        ("sep_conv_3x3", 2 * (9 * 6 + 36 + 12)),
        ("sep_conv_5x5", 2 * (25 * 6 + 36 + 12)),
        ("dil_conv_3x3", 9 * 6 + 36 + 12),
        ("dil_conv_5x5", 25 * 6 + 36 + 12),
        ("none", 0),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_operations(name, weights, stride, size):
    keras.utils.set_random_seed(0)
    shape = (size, size, 6)
    layer = operations.operation(name, shape, 6, stride, "op", searched=True)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    y = np.asarray(layer(x, training=True))
    half = -(-size // stride)
    assert y.shape == (2, half, half, 6)
    if name == "skip_connect" and stride == 2:
        weights = 6 * 6 + 12  # a factorized reduction
    assert parameters(layer) == weights
    assert (np.abs(y).max() == 0) == (name == "none")


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("name", ["dil_conv_3x3", "dil_conv_5x5"])
def test_strided_operations_have_the_same_pixels_in_their_middle(name, side):
    keras.utils.set_random_seed(0)
    pairs = [
        [
            operations.operation(name, (side, side, 4), 4, stride, f"s{stride}")
            for stride in (1, 2)
        ],
        [layers.Conv2D(4, int(name[-1]), s, "same") for s in (1, 2)],
        [layers.MaxPooling2D(int(name[-1]), s, "same") for s in (1, 2)],
    ]
    shape = (2, side, side, 4)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    first = 1 - side % 2
    for one, two in pairs:
        one(x), two(x)
        two.set_weights(one.get_weights())
        expected = one(x)[:, first::2, first::2]
        np.testing.assert_allclose(two(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8])
def test_a_factorized_reduction_sees_every_pixel(size):
    layer = operations.factorized_reduce((size, size, 1), 2, "reduce")
    for kernel in layer.trainable_variables:
        kernel.assign(np.ones(kernel.shape))
    for r in range(size):
        for c in range(size):
            if (r % 2) != (c % 2):
                continue  # as in the paper: the diagonal shift skips these
            x = np.zeros((1, size, size, 1), "float32")
            zero = np.asarray(layer(x))
            x[0, r, c] = 1.0
            assert np.any(np.asarray(layer(x)) != zero), (r, c)


def small(**kwargs):
    keras.utils.set_random_seed(0)
    return spaces.darts((8, 8, 1), 3, channels=2, cells=3, **kwargs)


@pytest.fixture(scope="module")
def supernet():
    return small()


def test_cells_of_a_kind_share_their_decisions(supernet):
    decisions = find_decisions(supernet)
    assert sorted(d.name for d in decisions) == sorted(
        f"{kind}{node}" for kind in ("normal", "reduce") for node in range(4)
    )
    nodes = find_layers(supernet, NodeChoice)
    assert len(nodes) == 12
    for node in nodes:
        number = int(node.name[-1])
        assert node.decision.num_candidates == 7 * (number + 2)
        assert node.decision.keep == 2
        reduces = not node.name.startswith("cell0")
        assert (
            node.decision.name == f"{'reduce' if reduces else 'normal'}{number}"
        )


def test_a_genotype_is_derived_to_its_plain_network(supernet):
    """The searched model of a genotype is the plain one, weight for weight."""
    names = operations.PRIMITIVES
    for decision in find_decisions(supernet):
        cell = getattr(spaces.DARTS_V2, decision.name[:-1])
        decision.freeze(
            [
                edge * len(names) + names.index(name)
                for name, edge in sorted(
                    cell[int(decision.name[-1])], key=lambda pair: pair[1]
                )
            ]
        )
    x = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 1))
    x = x.astype("float32")
    expected = np.asarray(supernet(x, training=False))
    derived = derive(supernet)
    np.testing.assert_allclose(derived(x, training=False), expected, atol=1e-5)
    assert find_layers(derived, NodeChoice) == []
    for layer in find_layers(derived, layers.Layer):
        assert is_plain(layer), layer
    plain = spaces.darts_network(
        spaces.DARTS_V2, (8, 8, 1), 3, channels=2, cells=3
    )
    assert parameters(derived) == parameters(plain)
    found = spaces.darts_genotype(supernet)
    for ours, theirs in zip(found, spaces.DARTS_V2, strict=True):
        assert [set(n) for n in ours] == [set(n) for n in theirs]


def test_none_is_searched_and_never_kept():
    keras.utils.set_random_seed(0)
    model = spaces.darts((8, 8, 1), 3, channels=2, cells=1, none=True)
    for decision in find_decisions(model):
        table = np.zeros((decision.edges, 8), "float32")
        table[:, 0] = 5.0
        decision.logits.assign(table.ravel())
        assert all(k % 8 != 0 for k in decision.kept())


@pytest.mark.parametrize(
    "shape, before_head",
    [((9, 12), 3), ((32, 32, 3), 8), ((96, 96, 3), 3), ((100, 97, 3), 4)],
)
def test_plain_networks_of_other_sizes(shape, before_head):
    model = spaces.darts_network(spaces.DARTS_V2, shape, 4, channels=4, cells=3)
    assert model.output_shape == (None, 4)
    assert model.get_layer("cell2_output").output.shape[1] == before_head
    assert model(np.zeros((1, *shape), "float32")).shape == (1, 4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_shape": (8,)},
        {"input_shape": (None, None, 3)},
        {"num_classes": 1},
        {"channels": 1},
        {"cells": 0},
        {"cells": 2.5},
    ],
)
def test_bad_arguments(arguments):
    given = {"input_shape": (8, 8, 1), "num_classes": 3, **arguments}
    with pytest.raises(ValueError, match="Received"):
        spaces.darts(**given)


@pytest.mark.parametrize(
    "pair", [("conv_3x3", 0), ("skip_connect", 2), ("skip_connect", -1)]
)
def test_a_bad_genotype(pair):
    wrong = spaces.DARTS_V2._replace(
        normal=((pair, ("skip_connect", 1)), *spaces.DARTS_V2.normal[1:])
    )
    with pytest.raises(ValueError, match="earlier state.*Received"):
        spaces.darts_network(wrong, (8, 8, 1), 3)


def test_a_genotype_of_another_model():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)], name="mine")
    with pytest.raises(ValueError, match="spaces.darts.*mine"):
        spaces.darts_genotype(model)
