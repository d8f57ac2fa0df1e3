"""A node of several inputs: what runs, what is kept, what is derived."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import carried_over
from keras_dha.architecture import strategies
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.genotype import genotype
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.joint_model import JointModel
from keras_dha.nested_layers import find_layers
from tests.references import positions_of

# Factor of operation o on edge e; primes, so that sums tell who ran.
FACTORS = np.array([[2, 3, 5], [7, 11, 13], [17, 19, 23]], "float32")
INPUTS = np.array([1.0, 100.0, 10_000.0], "float32")
ALL = [strategies.DARTS, strategies.DSNAS, strategies.GDAS, strategies.ISTA]


def node(keep=2, edges=3, **kwargs):
    return NodeChoice(
        [
            [layers.Rescaling(f, name=f"e{e}_x{f:g}") for f in FACTORS[e]]
            for e in range(edges)
        ],
        keep=keep,
        **kwargs,
    )


def inputs(edges=3):
    return [tf.fill((2, 1), x) for x in INPUTS[:edges]]


def logits(*rows):
    return np.log(np.array(rows, "float32")).ravel()


PREFERENCES = logits([0.2, 0.7, 0.1], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8])


def test_inference_keeps_the_best_operation_of_the_best_edges():
    layer = node()
    layer.decision.logits.assign(PREFERENCES)
    expected = 3.0 * 1.0 + 23.0 * 10_000.0  # not edge 1, which is undecided
    np.testing.assert_allclose(layer(inputs(), training=False), expected)
    assert layer.decision.kept() == [1, 8]
    layer.decision.freeze([3, 7])
    np.testing.assert_allclose(
        layer(inputs(), training=False), 7.0 * 100 + 19.0 * 10_000
    )
    np.testing.assert_allclose(
        layer(inputs(), training=True), 7.0 * 100 + 19.0 * 10_000
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_sampling_runs_one_operation_on_every_edge(compiled):
    layer = node()
    call = tf.function(layer) if compiled else layer
    for sampled in ([0, 1, 2], [2, 2, 0], [3, 0, 3]):
        layer.decision.sampled.assign(sampled)
        table = np.append(FACTORS, np.zeros((3, 1)), axis=1)
        expected = np.sum(table[range(3), sampled] * INPUTS)
        np.testing.assert_allclose(call(inputs(), training=True), expected)


def test_a_mixture_has_a_softmax_on_each_edge():
    layer = node()
    layer.decision.strategy = strategies.DARTS()
    layer.decision.logits.assign(PREFERENCES)
    p = np.exp(PREFERENCES.reshape(3, 3))
    np.testing.assert_allclose(
        layer(inputs(), training=True),
        np.full((2, 1), np.sum((p * FACTORS).sum(axis=1) * INPUTS)),
        rtol=1e-6,
    )


def test_the_none_operation_is_mixed_in_and_never_kept():
    layer = node(none=0)
    layer.decision.logits.assign(
        logits([0.9, 0.06, 0.04], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3])
    )
    assert layer.decision.kept() == [5, 7]
    layer.decision.strategy = strategies.DARTS()
    assert np.all(layer.decision.runs())


def test_the_kept_edges_are_distinct():
    """Both best operations are on one edge; only one of them is kept."""
    layer = node()
    layer.decision.logits.assign(
        logits([0.49, 0.48, 0.03], [0.4, 0.3, 0.3], [0.35, 0.35, 0.3])
    )
    assert layer.decision.kept() == [0, 3]


def test_the_margin_is_the_smallest_lead():
    decision = node().decision
    decision.logits.assign(PREFERENCES)
    # Edge 0 leads its next by 0.5, edge 2 by 0.7; edge 0 leads edge 1 by 0.3.
    assert decision.margin() == pytest.approx(0.3, rel=1e-5)
    decision.logits.assign(
        logits([0.2, 0.7, 0.1], [0.1, 0.45, 0.45], [0.5, 0.45, 0.05])
    )
    assert decision.margin() == pytest.approx(0.05, rel=1e-4)


# Deriving


def candidates(name, channels=3, stride=1):
    """Ends of every kind: normalised, convolution, pooling, identity."""
    made = [
        keras.Sequential(
            [
                layers.ReLU(),
                layers.Conv2D(channels, 3, stride, "same", use_bias=False),
                layers.BatchNormalization(),
            ],
            name=f"{name}_conv",
        ),
        layers.Conv2D(channels, 1, stride, name=f"{name}_point"),
        layers.AveragePooling2D(3, stride, "same", name=f"{name}_pool"),
        layers.Identity(name=f"{name}_skip"),
    ]
    return made[: 4 if stride == 1 else 3]


def cell(shared=None):
    """Two nodes, the second with three inputs, and a choice behind."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    first = layers.Conv2D(3, 3, padding="same")(image)
    second = layers.BatchNormalization()(layers.Conv2D(3, 1)(image))
    nodes = [first, second]
    for k in range(2):
        made = NodeChoice(
            [candidates(f"node{k}_edge{e}") for e in range(len(nodes))],
            keep=2,
            name=f"node{k}",
        )(nodes)
        nodes.append(made)
    x = layers.Concatenate()(nodes[2:])
    x = Choice(
        [layers.Conv2D(4, 3, name="three"), layers.Conv2D(4, 3, name="two")],
        name="last",
    )(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3)(x))


def images():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 6, 6, 3)).astype("float32")


def searched(strategy):
    """A joint model after some steps, in the last of which what moved."""
    network = cell()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    joint = JointModel(network, loss, strategy=strategy, seed=3)
    joint.architecture.start()
    step = tf.function(joint.train_step, autograph=False)
    batch = (tf.constant(images()), tf.constant([0, 1, 2, 0, 1]))
    search = batch if joint.needs_search_data else None
    for k in range(6):
        before = joint.weight_vector.read().numpy()
        joint.architecture.advance_to((k - 1) / 5)
        step(batch, tf.constant(1.0), search)
    return joint, joint.weight_vector.read().numpy() != before


def assert_stock(model):
    assert find_layers(model, SearchableLayer) == []
    assert find_decisions(model) == []
    for layer in find_layers(model, layers.Layer):
        assert type(layer).__module__.startswith("keras."), layer


@pytest.mark.parametrize("kind", ALL)
def test_derived_equals_restricted(kind):
    joint, moved = searched(kind())
    assert_that_ran_and_only_that(joint, moved)
    network = joint.network
    expected = np.asarray(network(images(), training=False))
    derived = derive(network)
    np.testing.assert_allclose(
        derived(images(), training=False), expected, atol=1e-5
    )
    assert_stock(derived)
    ours = {id(v) for v in network.variables}
    assert {id(v) for v in derived.variables} <= ours
    # Free and frozen are the same network, and so is the final hand-over.
    for decision in joint.architecture.decisions:
        decision.freeze()
    np.testing.assert_allclose(
        network(images(), training=False), expected, atol=1e-5
    )
    final = carried_over.derived(joint).network
    np.testing.assert_allclose(
        final(images(), training=False), expected, atol=1e-5
    )
    assert_stock(final)


def assert_that_ran_and_only_that(joint, moved):
    vector = joint.weight_vector
    for layer in find_layers(joint.network, SearchableLayer):
        runs = np.asarray(layer.decision.runs())
        for ran, candidate in zip(runs, layer.options, strict=True):
            variables = candidate.trainable_variables
            if variables:
                assert np.any(moved[positions_of(vector, variables)]) == ran


def test_the_derived_graph_is_flat_and_holds_only_what_is_kept():
    model = cell()
    first, second = find_layers(model, NodeChoice)
    first.decision.freeze([1, 4])
    second.decision.freeze([0, 9])
    derived = derive(model)
    names = {layer.name for layer in derived.layers}
    kept = {
        "node0_edge0_point",
        "node0_edge1_conv",
        "node1_edge0_conv",
        "node1_edge2_point",
    }
    assert {n for n in names if "edge" in n} == kept
    assert {"node0", "node1"} <= names  # the additions, named by the nodes
    assert isinstance(derived.get_layer("node0"), layers.Add)


def test_a_node_that_keeps_one_edge_needs_no_addition():
    image = keras.Input((2,))
    model = keras.Model(image, node(keep=1, edges=2)([image, image]))
    (decision,) = find_decisions(model)
    decision.freeze(4)
    derived = derive(model)
    assert [layer.name for layer in derived.layers[1:]] == ["e1_x11"]
    np.testing.assert_allclose(derived(np.ones((1, 2))), [[11.0, 11.0]])


def test_genotype_of_a_node():
    image = keras.Input((2,))
    model = keras.Model(image, node(name="n")([image, image, image]))
    (decision,) = find_decisions(model)
    decision.logits.assign(PREFERENCES)
    found = genotype(model)["n"]
    assert found["choice"] == ["e0_x3", "e2_x23"]
    assert found["probabilities"]["e1_x7"] == pytest.approx(0.4)
    decision.freeze()
    found = genotype(model)["n"]
    assert found["choice"] == ["e0_x3", "e2_x23"]
    assert sum(found["probabilities"].values()) == 2.0


@pytest.mark.parametrize("kind", [None, strategies.ISTA])
def test_saving_keeps_decisions_shared(kind, tmp_path):
    decision = Decision(9, edges=3, keep=2, name="shared")
    image = keras.Input((1,))
    first = node(decision=decision, name="first")([image] * 3)
    second = node(decision=decision, name="second")([first] * 3)
    model = keras.Model(image, second)
    decision.logits.assign(PREFERENCES)
    if kind is not None:
        LearnedArchitecture([decision], kind(), seed=1)
        decision.code.recover()
    model.save(tmp_path / "node.keras")
    copy = keras.saving.load_model(tmp_path / "node.keras")
    one, two = find_layers(copy, NodeChoice)
    assert one.decision is two.decision
    assert one.decision.kept() == decision.kept()
    x = np.ones((2, 1), "float32")
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5)
    assert abs(float(model(x)[0, 0])) > 1e-6


# Bad input


def test_edges_of_different_sizes():
    with pytest.raises(ValueError, match=r"equally many.*\[2, 1\]"):
        NodeChoice(
            [[layers.ReLU(), layers.Identity()], [layers.Identity()]], keep=1
        )


@pytest.mark.parametrize("keep", [0, 4, 1.5])
def test_bad_keep(keep):
    with pytest.raises(ValueError, match="`keep` must be .*Received: keep="):
        node(keep=keep)


@pytest.mark.parametrize("none", [-1, 3, "none"])
def test_bad_none(none):
    with pytest.raises(ValueError, match="`none` must be.*Received"):
        node(none=none)


def test_a_decision_of_another_form():
    with pytest.raises(ValueError, match="3 edges and keep 2.*edges=1"):
        node(decision=Decision(9))
    with pytest.raises(ValueError, match="must have none=1.*none=None"):
        node(none=1, decision=Decision(9, edges=3, keep=2))


def test_edges_that_do_not_divide_the_options():
    with pytest.raises(ValueError, match="must divide.*edges=2"):
        Decision(9, edges=2)


def test_too_few_inputs():
    with pytest.raises(ValueError, match="as many tensors.*3"):
        node()([keras.Input((2,))] * 2)


def test_outputs_of_different_shapes():
    layer = NodeChoice(
        [
            [layers.Dense(k + 2, name=f"d{k}"), layers.Dense(k + 2)]
            for k in range(2)
        ]
    )
    with pytest.raises(ValueError, match="one shape.*2.*3"):
        layer([keras.Input((2,))] * 2)


@pytest.mark.parametrize("options", [[0], [0, 1], [0, 3, 6], [0, 9]])
def test_freeze_wants_distinct_edges(options):
    with pytest.raises(ValueError, match="`index` must.*Received"):
        node().decision.freeze(options)


@pytest.mark.parametrize("given", ["one tensor", "a dict"])
def test_what_is_no_list_of_tensors(given):
    x = {f"x{e}": keras.Input((1,)) for e in range(3)}
    with pytest.raises(ValueError, match="list of as many tensors.*layer=node"):
        node(name="node")(keras.Input((3,)) if given == "one tensor" else x)


def test_zeros_of_an_open_size_are_refused():
    x = [keras.Input((None, 1)) for _ in range(3)]
    with pytest.raises(ValueError, match="must know the size of its inputs"):
        node(keep=2)(x)
    assert node(keep=3)(x).shape == (None, None, 1)
