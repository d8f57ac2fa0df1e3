"""Costs against TensorFlow's profiler, Keras' counts, and enumeration."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from keras_dha.architecture import graph
from keras_dha.architecture import spaces
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.cost import NetworkCost
from keras_dha.architecture.cost import count
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from tests.references import central_difference

# What the profiler counts of the operations that we count.
COUNTED = {"Conv2D", "Conv3D", "DepthwiseConv2dNative", "MatMul", "BiasAdd"}


def profiled(model):
    """Operations of one example as TensorFlow's own profiler has them."""
    inputs = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    function = tf.function(lambda x: model(x, training=False))
    frozen = convert_variables_to_constants_v2(
        function.get_concrete_function(inputs)
    )
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    totals = profiler.profile(frozen.graph, cmd="op", options=options)
    return sum(
        node.total_float_ops - sum(c.total_float_ops for c in node.children)
        for node in _nodes(totals)
        if node.name in COUNTED
    )


def _nodes(node):
    yield node
    for child in node.children:
        yield from _nodes(child)


def kinds():
    x = inputs = keras.Input((12, 10, 4))
    for layer in (
        layers.Conv2D(8, 3, strides=2, padding="same"),
        layers.Conv2D(8, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D((3, 5), padding="same", depth_multiplier=2),
        layers.MaxPooling2D(2, padding="same"),
        layers.SeparableConv2D(6, 3, strides=2, padding="same"),
        layers.Flatten(),
        layers.Dense(7),
        layers.Dense(3, use_bias=False),
    ):
        x = layer(x)
    return keras.Model(inputs, x)


def plain(space, **arguments):
    model = space((16, 16, 3), 5, **arguments)
    for decision in find_decisions(model):
        decision.freeze(1)
    return derive(model)


NETWORKS = {
    "kinds": kinds,
    "resnet": lambda: plain(spaces.resnet, width=4, stages=2),
    "shufflenet": lambda: plain(
        spaces.shufflenet, repeats=(2, 1), widths=(16, 32), stem=8, head=24
    ),
    "mobile": lambda: plain(spaces.mobile, width=0.25, depth=0.3),
    "nas_bench_201": lambda: spaces.nas_bench_201(
        (16, 16, 3),
        5,
        channels=4,
        cells=1,
        architecture="|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+"
        "|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_the_profilers_and_params_are_keras(name):
    model = NETWORKS[name]()
    found = count(model)
    assert found["params"] == model.count_params()
    assert found["flops"] == profiled(model)


def one_layer(layer, shape):
    return keras.Sequential([keras.Input(shape), layer])


def test_grouped_and_transposed_convolutions():
    """The profiler does not know them; convolutions that do the same work."""
    grouped = one_layer(layers.Conv2D(6, 3, groups=3), (8, 8, 9))
    part = one_layer(layers.Conv2D(2, 3), (8, 8, 3))
    assert count(grouped)["flops"] == 3 * profiled(part)
    transposed = layers.Conv2DTranspose(
        5, 3, strides=2, padding="same", use_bias=False
    )
    back = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)
    assert count(one_layer(transposed, (6, 6, 4)))["flops"] == profiled(
        one_layer(back, (12, 12, 5))
    )


def tiny(shared=False):
    """Two resolutions, a nested choice, and maybe one decision twice."""
    decision = Decision(2, name="same") if shared else None
    x = inputs = keras.Input((8, 8, 2))
    for k in range(2):
        inner = Choice(
            [
                layers.Conv2D(2, 1, name=f"inner{k}_one"),
                layers.Identity(name=f"inner{k}_skip"),
            ],
            decision,
            name=f"inner{k}",
        )
        outer = Choice(
            [
                layers.Conv2D(2, 3, padding="same", name=f"three{k}"),
                layers.SeparableConv2D(2, 5, padding="same", name=f"five{k}"),
                keras.Sequential(
                    [inner, layers.Conv2D(2, 3, padding="same")],
                    name=f"deep{k}",
                ),
            ],
            name=f"outer{k}",
        )
        x = layers.AveragePooling2D(2)(outer(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("shared", [False, True])
def test_expected_cost_is_the_mean_over_all_architectures(shared):
    model = tiny(shared)
    cost = NetworkCost(model)
    sizes = [d.num_candidates for d in cost.decisions]
    assert len(sizes) == (3 if shared else 4)
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(k)) for k in sizes]
    mean = {"params": 0.0, "flops": 0.0}
    for indices in itertools.product(*map(range, sizes)):
        for decision, index in zip(cost.decisions, indices, strict=True):
            decision.freeze(index)
        # The derived model itself, not our own terms once more.
        derived = count(derive(model))
        assert cost.of(indices) == derived
        probability = np.prod([q[k] for q, k in zip(p, indices, strict=True)])
        for name in mean:
            mean[name] += probability * derived[name]
    found = cost.expected([tf.constant(q) for q in p])
    for name, value in mean.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12)


def test_gradient_of_the_expected_cost():
    cost = NetworkCost(tiny())
    rng = np.random.default_rng(1)
    logits = [rng.normal(size=d.num_candidates) for d in cost.decisions]

    def expected(values):
        p = [tf.nn.softmax(v) for v in values]
        return cost.expected(p)["flops"]

    variables = [tf.Variable(v) for v in logits]
    with tf.GradientTape() as tape:
        total = expected(variables)
    gradients = tape.gradient(total, variables)
    for d, k in [(0, 0), (0, 2), (1, 1), (2, 1), (3, 0)]:

        def at(value, d=d, k=k):
            moved = [v.copy() for v in logits]
            moved[d][k] = value
            return float(expected(moved))

        np.testing.assert_allclose(
            gradients[d][k],
            central_difference(at, logits[d][k]),
            rtol=1e-6,
            atol=1e-4,
        )


def test_a_layer_that_several_candidates_share_is_counted_once():
    same = layers.Conv2D(2, 3, padding="same", name="same")
    x = inputs = keras.Input((4, 4, 2))
    for k in range(2):
        x = Choice(
            [
                keras.Sequential([same, layers.ReLU()], name=f"a{k}"),
                layers.Identity(name=f"b{k}"),
            ],
            name=f"choice{k}",
        )(x)
    cost = NetworkCost(keras.Model(inputs, x))
    size = same.count_params()
    found = [cost.of(i)["params"] for i in itertools.product((0, 1), (0, 1))]
    assert found == [size, size, size, 0]
    p = [tf.constant([0.25, 0.75], "float64")] * 2
    np.testing.assert_allclose(cost.expected(p)["params"], size * (1 - 0.75**2))
    assert [
        cost.of(i)["flops"] / cost.of([0, 1])["flops"]
        for i in itertools.product((0, 1), (0, 1))
    ] == [2, 1, 1, 0]


class Tied(layers.Layer):
    """A layer that holds another one, as the head of a language model."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, inputs):
        return keras.ops.matmul(
            inputs, keras.ops.transpose(self.layer.embeddings)
        )


def test_weights_that_layers_share_are_counted_once():
    words = layers.Embedding(10, 4)
    inputs = keras.Input((3,), dtype="int32")
    hidden = layers.Dense(4)(words(inputs))
    heads = [Tied(words, name="tied"), layers.Dense(10, name="own")]
    choice = Choice(heads)
    model = keras.Model(inputs, choice(hidden))
    cost = NetworkCost(model, measures=("params",))
    for index in range(2):
        choice.decision.freeze(index)
        found = derive(model).count_params()
        assert cost.of([index]) == {"params": found}
    assert found == 10 * 4 + (4 * 4 + 4) + (4 * 10 + 10)


def attention(x):
    x = keras.ops.reshape(x, (-1, 4, 1, 3))
    return keras.ops.dot_product_attention(x, x, x)


def convolution(x):
    return keras.ops.conv(x, np.ones((3, 3, 5), "float32"))


@pytest.mark.parametrize("operation", [attention, convolution])
def test_products_outside_of_layers_are_not_known(operation):
    inputs = keras.Input((4, 3))
    with pytest.raises(ValueError, match="not known.*Received: layer"):
        count(keras.Model(inputs, operation(inputs)))


@pytest.mark.skipif(
    not hasattr(layers, "ReversibleEmbedding"), reason="Keras has none"
)
def test_an_embedding_that_is_a_product_in_reverse_is_not_known():
    words = layers.ReversibleEmbedding(10, 4)
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, words(words(inputs), reverse=True))
    with pytest.raises(ValueError, match="not known.*ReversibleEmbedding"):
        count(model)


def test_a_choice_within_a_candidate_that_shares_its_decision():
    """Of the inner one only the like-numbered candidate can ever run."""
    decision = Decision(2, name="same")
    inner = Choice(
        [layers.Conv2D(2, 5, padding="same"), layers.Conv2D(2, 1)],
        decision,
        name="inner",
    )
    outer = Choice(
        [layers.Identity(), keras.Sequential([inner, layers.ReLU()])],
        decision,
        name="outer",
    )
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, outer(inputs))
    cost = NetworkCost(model)
    p = [tf.constant([0.3, 0.7], "float64")]
    for name in ("params", "flops"):
        found = []
        for index in range(2):
            decision.freeze(index)
            found.append(count(derive(model))[name])
        assert [cost.of([k])[name] for k in range(2)] == found
        mean = 0.3 * found[0] + 0.7 * found[1]
        np.testing.assert_allclose(cost.expected(p)[name], mean)


@pytest.mark.slow
def test_published_multiply_adds_of_the_mobile_papers_networks():
    """Hu et al., table 3: 324 M found in a space; Cai et al.: 320 M."""
    found = {}
    for space in (spaces.shufflenet, spaces.mobile):
        cost = NetworkCost(space((224, 224, 3), 1000), measures=("flops",))
        sizes = [d.num_candidates for d in cost.decisions]
        by_index = [
            cost.of([min(k, n - 1) for n in sizes])["flops"] / 2e6
            for k in range(max(sizes))
        ]
        found[space.__name__] = (min(by_index), max(by_index))
    low, high = found["shufflenet"]
    assert 260 < low < 324 < high < 450
    low, high = found["mobile"]
    assert low < 320 < high


def test_walking_leaves_no_nodes_behind():
    model = tiny()
    before = model.get_layer("outer0").output
    graph.model_calls(model)
    assert model.get_layer("outer0").output is before


@pytest.mark.parametrize(
    "layer", [layers.LSTM(2), layers.EinsumDense("abc,cd->abd", (None, 2))]
)
def test_operations_that_are_not_known(layer):
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match="not known.*Received: layer"):
        count(model)
    assert NetworkCost(model, measures=("params",)).of([]) == {
        "params": layer.count_params()
    }


@pytest.mark.parametrize(
    "layer",
    [
        layers.PReLU(),
        layers.LayerNormalization(axis=[1, 2, 3]),
        layers.RMSNormalization(axis=[1, 2, 3]),
    ],
)
def test_what_acts_on_each_element_alone_is_left_out(layer):
    convolution = layers.Conv2D(4, 3)
    alone = count(one_layer(convolution, (8, 8, 2)))
    image = keras.Input((8, 8, 2))
    with_layer = count(keras.Model(image, layer(convolution(image))))
    assert with_layer["flops"] == alone["flops"]
    assert with_layer["params"] == alone["params"] + layer.count_params()


@pytest.mark.parametrize(
    "layer, shape",
    [
        (layers.Conv2D(4, 3), (None, None, 3)),
        (layers.Conv2DTranspose(4, 3), (None, 8, 3)),
        (layers.Dense(4), (None, 3)),
    ],
)
def test_examples_of_no_one_size_have_no_operations(layer, shape):
    model = one_layer(layer, shape)
    with pytest.raises(ValueError, match="one size.*Input.*Received: layer"):
        count(model)
    assert NetworkCost(model, measures=("params",)).of([]) == {
        "params": layer.count_params()
    }


def test_a_size_that_does_not_matter_may_be_open():
    image = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, layers.Dense(4, use_bias=False)(x))
    assert count(model)["flops"] == 2 * 3 * 4


def test_count_of_a_model_with_choices():
    with pytest.raises(ValueError, match="NetworkCost.*Received"):
        count(tiny())
