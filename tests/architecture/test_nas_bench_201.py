"""NAS-Bench-201 against its published table and the paper's formulas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.genotype import genotype
from keras_dha.architecture.spaces import nas_bench_201
from keras_dha.architecture.spaces import nas_bench_201_string
from keras_dha.nested_layers import find_layers

# Cells and their parameters, as the benchmark's own table has them.
PUBLISHED = {
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|": 1073466,
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
    "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": 129306,
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+"
    "|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": 1531546,
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+"
    "|skip_connect~0|skip_connect~1|skip_connect~2|": 73306,
    "|none~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+"
    "|nor_conv_3x3~0|nor_conv_3x3~1|skip_connect~2|": 830426,
}
MIXED = (
    "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+"
    "|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
)


def small(**arguments):
    return nas_bench_201((8, 8, 3), 4, channels=2, cells=1, **arguments)


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_parameters_are_the_published_ones(architecture):
    model = nas_bench_201((32, 32, 3), 10, architecture=architecture)
    found = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert found == PUBLISHED[architecture]
    assert nas_bench_201_string(model) == architecture


def test_resolutions_and_channels_of_the_stages():
    model = nas_bench_201((32, 32, 3), 10, cells=1, architecture=MIXED)
    found = [
        model.get_layer(f"stage{k}_cell1_node3").output.shape[1:]
        for k in (1, 2, 3)
    ]
    assert found == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]


def test_six_decisions_are_shared_by_all_cells():
    model = nas_bench_201((8, 8), 3, channels=2, cells=2)
    assert len(find_layers(model, Choice)) == 6 * 6
    decisions = find_decisions(model)
    assert [d.num_candidates for d in decisions] == [5] * 6
    decisions[0].freeze(3)
    genes = genotype(model)
    changed = [n for n, g in genes.items() if g["choice"].endswith("conv_3x3")]
    assert changed == [
        f"stage{s}_cell{c}_edge1_0" for s in (1, 2, 3) for c in (1, 2)
    ]


def test_string_of_supernet_genotype_and_derived_model():
    model = small()
    index = {"none": 0, "skip": 1, "conv1": 2, "conv3": 3, "pool": 4}
    wanted = ["conv3", "none", "pool", "skip", "conv1", "conv3"]
    for decision, name in zip(find_decisions(model), wanted, strict=True):
        decision.freeze(index[name])
    assert nas_bench_201_string(model) == MIXED
    assert nas_bench_201_string(genotype(model)) == MIXED
    assert nas_bench_201_string(derive(model)) == MIXED


def test_a_cell_computes_what_the_paper_says():
    """Node = sum of its edges, written out with the cell's own layers."""
    keras.utils.set_random_seed(0)
    model = small(architecture=MIXED)
    nodes = keras.Model(
        model.input,
        [
            model.get_layer("stem").output,
            model.get_layer("stage1_cell1_node3").output,
        ],
    )
    x, found = nodes(np.random.default_rng(0).random((2, 8, 8, 3)) * 255)
    edge = {
        k: model.get_layer(f"stage1_cell1_edge{k}")
        for k in ("1_0_nor_conv_3x3", "3_1_nor_conv_1x1", "3_2_nor_conv_3x3")
    }
    one = edge["1_0_nor_conv_3x3"](x)
    padded = np.pad(one, ((0, 0), (1, 1), (1, 1), (0, 0)))
    inside = np.pad(np.ones((8, 8, 1)), ((1, 1), (1, 1), (0, 0)))
    windows = [(i, j) for i in range(3) for j in range(3)]
    # The mean over what is inside the image, as the benchmark pools.
    two = sum(padded[:, i : i + 8, j : j + 8] for i, j in windows) / sum(
        inside[i : i + 8, j : j + 8] for i, j in windows
    )
    three = x + edge["3_1_nor_conv_1x1"](one) + edge["3_2_nor_conv_3x3"](two)
    np.testing.assert_allclose(found, three, rtol=1e-4, atol=1e-5)


def test_credits_of_the_edges_of_a_node_sum_to_zero():
    """Why strategies that follow this gradient prune all edges but one."""
    keras.utils.set_random_seed(0)
    model = small(architecture=MIXED.replace("none~0", "nor_conv_3x3~0"))
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (64, 8, 8, 3)).astype("float32")
    operations = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3")
    edges = keras.Model(
        model.input,
        [
            model.get_layer(f"stage3_cell1_edge3_{k}_{operation}").output
            for k, operation in enumerate(operations)
        ],
    )(images, training=True)
    with tf.GradientTape() as tape:
        tape.watch(edges)
        x = model.get_layer("last_norm")(tf.add_n(edges), training=True)
        for name in ("last_relu", "pool", "logits", "probabilities"):
            x = model.get_layer(name)(x)
        loss = keras.losses.sparse_categorical_crossentropy(
            tf.constant(rng.integers(0, 4, 64)), x
        )
    gradients = tape.gradient(loss, edges)
    credits = [
        float(tf.reduce_sum(g * y))
        for g, y in zip(gradients, edges, strict=True)
    ]
    assert min(credits) < 0 < max(credits)
    # Not to the last digit: normalisation adds a little to the variance.
    assert abs(sum(credits)) < 0.05 * max(map(abs, credits))


@pytest.mark.parametrize(
    "architecture",
    [
        "",
        "none",
        "|none~0|+|none~0|none~1|",
        MIXED.replace("~2", "~1"),
        MIXED.replace("skip_connect", "max_pool_3x3"),
    ],
)
def test_what_is_no_cell_is_refused(architecture):
    with pytest.raises(ValueError, match="`architecture`.*Received"):
        small(architecture=architecture)


def test_fewer_operations():
    model = small(operations=["nor_conv_3x3", "skip_connect"])
    decisions = find_decisions(model)
    assert [d.num_candidates for d in decisions] == [2] * 6
    for decision in decisions:
        decision.freeze(1)
    assert "skip" not in nas_bench_201_string(model)


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 0},
        {"cells": 1.5},
        {"operations": ["none"]},
        {"operations": ["none", "max_pool_3x3"]},
    ],
)
def test_counts_that_are_none(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`.*Received"):
        nas_bench_201((8, 8), 3, **arguments)


def test_string_of_another_network():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="`found`.*Received"):
        nas_bench_201_string(model)
