"""Edges that share a traced function against the same edges on their own."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import second_derivatives
from keras_dha.architecture import shared_graph
from keras_dha.architecture import strategies
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.joint_model import JointModel
from keras_dha.nested_layers import find_layers


def edge(name):
    inputs = keras.Input((5, 5, 2), name=f"{name}_in")
    x = layers.BatchNormalization(name=f"{name}_n")(inputs)
    x = layers.Add(name=f"{name}_a")([x, inputs])
    return [
        keras.Model(inputs, x, name=f"{name}_graph"),
        keras.Sequential(
            [layers.Conv2D(2, 3, padding="same"), layers.Dropout(0.5)],
            name=f"{name}_conv",
        ),
        layers.Identity(name=f"{name}_skip"),
    ]


def cells():
    keras.utils.set_random_seed(0)
    image = keras.Input((5, 5, 2))
    states = [image, image]
    decision = Decision(6, edges=2, keep=1, name="shared")
    for k in range(3):
        node = NodeChoice(
            [edge(f"cell{k}_from{e}") for e in range(2)],
            keep=1,
            decision=decision,
            name=f"cell{k}",
        )
        states = [states[1], node(states)]
    x = layers.GlobalAveragePooling2D()(states[1])
    return keras.Model(image, layers.Dense(3)(x))


BATCH = (
    tf.constant(np.random.default_rng(0).normal(size=(4, 5, 5, 2)), "float32"),
    tf.constant([0, 1, 2, 0]),
)


def trained(kind, counted=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    joint = JointModel(cells(), loss, strategy=kind(), seed=1)
    joint.architecture.start()
    joint.architecture.advance_to(0.5)
    step = tf.function(joint.train_step, autograph=False)
    search = BATCH if joint.needs_search_data else None
    for _ in range(4):
        step(BATCH, tf.constant(1.0), search)
    return joint


@pytest.mark.parametrize(
    "kind", [strategies.DSNAS, strategies.DARTS, strategies.ISTA]
)
def test_shared_and_separate_graphs_do_the_same(kind, monkeypatch):
    calls = []
    original = shared_graph._stateless_edge
    monkeypatch.setattr(
        shared_graph,
        "_stateless_edge",
        lambda *a: calls.append(a) or original(*a),
    )
    shared = trained(kind)
    assert len(calls) == 1  # one function for six edges, and both passes
    monkeypatch.setattr(shared_graph, "_described", lambda layer: None)
    separate = trained(kind)
    assert len(calls) == 1
    for ours, theirs in zip(shared.variables, separate.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=ours.path)
    (decision,) = find_decisions(shared.network)
    assert np.any(decision.parameter.numpy() != 0)
    statistics = find_layers(shared.network, layers.BatchNormalization)
    assert any(np.any(n.moving_mean.numpy() != 0) for n in statistics)


def describe(layer):
    keras.Sequential([keras.Input((5, 5, 2)), layer])
    return shared_graph._description(layer)


def test_equal_but_for_names():
    one, two = (layers.Conv2D(2, 3, name=n) for n in "ab")
    assert describe(one) == describe(two) is not None
    for first, second in zip(edge("a"), edge("b"), strict=True):
        assert describe(first) == describe(second) is not None


@pytest.mark.parametrize(
    "other",
    [
        layers.Conv2D(2, 5),
        layers.Conv2D(2, 3, strides=2),
        layers.Conv2D(2, 3, activation="relu"),
        layers.Conv2D(2, 3, kernel_initializer="zeros"),
        layers.Conv2D(2, 3, trainable=False),
    ],
)
def test_other_layers_are_told_apart(other):
    assert describe(layers.Conv2D(2, 3)) != describe(other)


class Mine(layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs


def times(factor):
    def scaled(x):
        return factor * x

    return scaled


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Activation(times(2.0)),
        lambda: keras.Sequential([layers.Dense(2, activation=times(2.0))]),
        lambda: layers.Dense(2, activation=functools.partial(tf.nn.elu)),
        lambda: Mine(2.0),
        lambda: keras.Sequential([Mine(2.0)]),
        lambda: layers.Lambda(lambda x: x),
        lambda: layers.Normalization(),
        lambda: layers.BatchNormalization(synchronized=True),
    ],
)
def test_what_cannot_be_known_is_not_shared(make):
    """Two layers of one class may differ in what no configuration says."""
    assert describe(make()) is None


@pytest.mark.parametrize("alike, shares", [(2, False), (3, True)])
def test_edges_share_where_there_are_several_alike(alike, shares):
    """A function of its own costs as much as tracing two edges."""
    inputs = x = keras.Input((5, 5, 2))
    choices = []
    for k in range(alike):
        choices.append(Choice(edge(f"choice{k}"), name=f"choice{k}"))
        x = choices[-1](x)
    other = Choice([layers.ReLU(), layers.Conv2D(2, 1)], name="other")
    keras.Model(inputs, other(x))
    shared_graph.mark([*choices, other])
    assert [bool(c.shared_edges) for c in choices] == [shares] * alike
    assert not other.shared_edges


def test_activations_of_one_name_are_each_their_own():
    inputs = x = keras.Input((3,))
    choices = []
    for k, factor in enumerate((1.0, 2.0, 3.0)):
        act = layers.Activation(times(factor), name=f"act{k}")
        choices.append(Choice([act, layers.Identity()], name=f"choice{k}"))
        x = choices[-1](x)
    model = keras.Model(inputs, x)
    shared_graph.mark(choices)
    run = tf.function(lambda x: model(x, training=True))
    np.testing.assert_array_equal(run(np.ones((1, 3), "float32")), [[6.0] * 3])


def test_what_layers_were_adapted_to_is_each_their_own():
    rng = np.random.default_rng(0)
    inputs = x = keras.Input((3,))
    choices = []
    for k in range(3):
        adapted = layers.Normalization(name=f"adapted{k}")
        adapted.adapt(rng.normal(k, 1 + k, (50, 3)))
        choices.append(Choice([adapted, layers.Identity()], name=f"choice{k}"))
        x = choices[-1](x)
    model = keras.Model(inputs, x)
    shared_graph.mark(choices)
    given = rng.normal(size=(2, 3)).astype("float32")
    expected = given
    for choice in choices:
        expected = choice.candidates[0](expected)
    run = tf.function(lambda x: model(x, training=True))
    np.testing.assert_allclose(run(given), expected, rtol=1e-5)


def dense(name):
    parts = [layers.Dense(3, name="first"), layers.Dense(3, name="second")]
    return keras.Sequential(parts, name=name)


@pytest.mark.parametrize("freeze", ["one", "parts"])
def test_layers_may_be_frozen_between_two_networks_of_them(freeze):
    """As after an estimate. Frozen models may have layers that are not."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((3,))
    choices = [
        Choice([dense(f"dense{k}"), layers.Identity()], name=f"choice{k}")
        for k in range(4)
    ]
    for choice in choices:
        x = choice(x)
    model = keras.Model(inputs, x)
    shared_graph.mark(choices)
    for choice in choices[: 1 if freeze == "one" else 4]:
        choice.candidates[0].trainable = False
        choice.candidates[0].layers[1].trainable = freeze == "parts"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    joint = JointModel(model, loss, strategy=strategies.DSNAS())
    assert any(choice.shared_edges for choice in choices)
    before = [v.numpy() for v in model.variables]
    batch = tf.constant(np.eye(3), "float32"), tf.constant([0, 1, 2])
    tf.function(joint.train_step, autograph=False)(batch, tf.constant(1.0))
    runs = [int(choice.decision.sampled.numpy()) == 0 for choice in choices]
    assert any(runs)
    for old, variable in zip(before, model.variables, strict=True):
        is_kernel = variable.name == "kernel"
        number = [k for k in range(4) if f"dense{k}" in variable.path]
        if is_kernel:
            moved = variable.trainable and runs[number[0]]
            assert np.any(old != variable.numpy()) == moved, variable.path


def normalised(count=3):
    """Choices whose candidates begin with one stem, statistics and all."""
    inputs = x = keras.Input((3,))
    stems, choices = [], []
    for k in range(count):
        stems.append(layers.BatchNormalization(momentum=0.5, name=f"stem{k}"))
        candidates = [
            keras.Sequential([stems[-1], layers.ReLU()], name=f"relu{k}"),
            keras.Sequential([stems[-1], layers.Dense(3)], name=f"dense{k}"),
        ]
        choices.append(Choice(candidates, name=f"choice{k}"))
        x = choices[-1](x)
    return keras.Model(inputs, x), stems, choices


def test_statistics_that_candidates_share_are_kept():
    model, stems, choices = normalised()
    shared_graph.mark(choices)
    x = tf.constant([[1.0, 2.0, 3.0], [3.0, 2.0, 5.0]])
    tf.function(lambda: model(x, training=True))()
    np.testing.assert_allclose(stems[0].moving_mean, [1.0, 1.0, 2.0])
    for stem in stems:
        assert np.any(stem.moving_variance.numpy() != 1.0)


@pytest.mark.parametrize("shared", [True, False])
def test_rules_of_derivatives_hold_where_they_are_said(shared):
    """Of a pass that is recorded after one that is not, in one graph."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((3,))
    choices = []
    for k in range(3):
        candidates = [
            keras.Sequential(
                [layers.BatchNormalization(), layers.Activation("tanh")],
                name=f"norm{k}",
            ),
            layers.Dense(3, name=f"dense{k}"),
        ]
        choices.append(Choice(candidates, name=f"choice{k}"))
        choices[-1].decision.freeze(0)
        x = choices[-1](x)
    model = keras.Model(inputs, x)
    if shared:
        shared_graph.mark(choices)
    assert bool(choices[0].shared_edges) == shared
    rng = np.random.default_rng(0)
    given, factors, direction = rng.normal(size=(3, 5, 3)).astype("float32")

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(factors * tf.sin(model(x, training=True)))
        return tape.gradient(loss, x)

    @tf.function
    def second(x):
        plain = gradient(x)
        with second_derivatives.exact_statistics(), tf.GradientTape() as tape:
            tape.watch(x)
            along = tf.reduce_sum(direction * gradient(x))
        return plain, tape.gradient(along, x)

    step = 1e-2
    ahead, behind = (
        tf.function(gradient)(tf.constant(given + sign * step * direction))
        for sign in (1.0, -1.0)
    )
    expected = (ahead - behind) / (2 * step)
    _, found = second(tf.constant(given))
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.max(np.abs(expected)) > 0.5


def test_nothing_is_like_what_the_candidates_give():
    """In the dtype of the last layer, which is not that of the whole."""
    inputs = keras.Input((3,))
    nodes = []
    x = inputs
    for k in range(3):
        edges = [
            [
                keras.Sequential(
                    [layers.Dense(3, dtype="bfloat16")], name=f"n{k}e{e}o{o}"
                )
                for o in range(2)
            ]
            for e in range(2)
        ]
        nodes.append(NodeChoice(edges, keep=1, name=f"node{k}"))
        x = layers.Activation("linear", name=f"act{k}")(nodes[-1]([x, x]))
    model = keras.Model(inputs, x)
    shared_graph.mark(nodes)
    assert all(node.shared_edges for node in nodes)
    run = tf.function(lambda x: model(x, training=True))
    assert run(np.ones((2, 3), "float32")).shape == (2, 3)
