"""The user's own model: forms of models and of choices, for every strategy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.architecture import strategies
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.auto_model import AutoModel
from keras_dha.joint_model import JointModel
from keras_dha.nested_layers import find_layers

ALL = [
    strategies.DARTS,
    strategies.DSNAS,
    strategies.GDAS,
    strategies.ISTA,
    strategies.Reinforce,
]


def tabular():
    """Width, depth, and two branches of which one is kept."""
    width = Choice(
        [
            keras.Sequential(
                [layers.Dense(w, "relu"), layers.Dense(8)], name=f"width{w}"
            )
            for w in (4, 16)
        ],
        name="width",
    )
    depth = Choice(
        [
            layers.Identity(name="shallow"),
            keras.Sequential(
                [layers.Dense(8, "relu"), layers.Dense(8)], name="deep"
            ),
        ],
        name="depth",
    )
    inputs = keras.Input((5,))
    x = depth(width(inputs))
    x = NodeChoice(
        [
            [
                layers.Dense(6, name=f"d{e}"),
                layers.Dense(6, "tanh", name=f"t{e}"),
            ]
            for e in range(2)
        ],
        keep=1,
        name="node",
    )([inputs, x])
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("kind", ALL)
def test_a_tabular_network_is_searched_in_one_fit(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 5)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)
    model = AutoModel(
        lambda *_: tabular(), method="dsnas", strategy=kind(until=0.7), seed=0
    )
    model.fit(x, y, epochs=3, batch_size=16, verbose=0)
    plain = model.export_model()
    assert find_layers(plain, SearchableLayer) == []
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x), atol=1e-6
    )
    assert set(model.result.genotype) == {"width", "depth", "node"}
    assert len(model.result.genotype["node"]["choice"]) == 1
    assert "node " in model.result.summary()


def test_several_inputs_and_outputs_are_derived():
    keras.utils.set_random_seed(0)
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = NodeChoice(
        [
            [layers.Dense(3, name=f"d{e}"), layers.Dense(3, name=f"e{e}")]
            for e in range(2)
        ],
        name="node",
    )([first, second])
    y = Choice([layers.Dense(2, name="p"), layers.Dense(2, name="q")])(x)
    model = keras.Model({"a": first, "b": second}, {"x": x, "y": y})
    rng = np.random.default_rng(0)
    for decision in find_decisions(model):
        decision.logits.assign(rng.normal(size=decision.num_candidates))
    given = {k: rng.normal(size=(2, 4)).astype("float32") for k in "ab"}
    expected = model(given, training=False)
    derived = derive(model)
    found = derived(given)
    assert find_layers(derived, SearchableLayer) == []
    for name in ("x", "y"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_clone_and_summary(capsys):
    model = tabular()
    for decision in find_decisions(model):
        decision.freeze()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5)
    assert {id(v) for v in copy.variables}.isdisjoint(
        id(v) for v in model.variables
    )
    model.summary()
    shown = capsys.readouterr().out
    assert "NodeChoice" in shown and "width" in shown


@pytest.mark.parametrize("kind", ALL)
def test_a_search_that_was_saved_goes_on_as_it_would_have(kind, tmp_path):
    rng = np.random.default_rng(0)
    batches = [
        (
            tf.constant(rng.normal(size=(8, 5)).astype("float32")),
            tf.constant(rng.integers(0, 3, 8)),
        )
        for _ in range(2)
    ]

    def steps(joint, count):
        step = tf.function(joint.train_step, autograph=False)
        search = batches[1] if joint.needs_search_data else None
        return [
            float(step(batches[0], tf.constant(1.0), search))
            for _ in range(count)
        ]

    joint = JointModel(
        tabular(),
        keras.losses.SparseCategoricalCrossentropy(),
        strategy=kind(),
        seed=2,
    )
    joint.architecture.start()
    joint.architecture.advance_to(0.5)
    steps(joint, 3)
    joint.save(tmp_path / "joint.keras")
    copy = keras.saving.load_model(tmp_path / "joint.keras")
    assert steps(copy, 3) == steps(joint, 3)
    for ours, theirs in zip(joint.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_decisions_of_a_node_may_be_shared_between_nested_models():
    decision = Decision(4, edges=2, keep=1, name="shared")

    def node(name):
        return NodeChoice(
            [
                [layers.Rescaling(f, name=f"{name}{e}{f}") for f in (2, 3)]
                for e in range(2)
            ],
            keep=1,
            decision=decision,
            name=name,
        )

    inside = keras.Input((1,))
    inner = keras.Model(inside, node("inner")([inside, inside]), name="in")
    image = keras.Input((1,))
    model = keras.Model(image, node("outer")([inner(image), image]))
    decision.freeze(1)
    derived = derive(model)
    np.testing.assert_array_equal(derived(np.ones((1, 1))), [[9.0]])
