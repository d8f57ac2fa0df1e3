"""DARTS: the mixture, and the derivative of the search loss by logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import second_derivatives
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import DARTS
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.joint_model import JointModel
from tests.references import NORMALISATIONS
from tests.references import central_difference

CLASSES, BATCH = 3, 6
FIXED = {"learning_rate": 0.3, "weight_decay": 0.02, "momentum": 0.8}


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def batch(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return (
        tf.constant(rng.normal(size=(BATCH, 6, 6, 2)).astype(dtype)),
        tf.constant(rng.integers(0, CLASSES, BATCH)),
    )


def candidates(name, channels, normalisation):
    return [
        keras.Sequential(
            [
                layers.Conv2D(channels, 3, padding="same", activation="tanh"),
                normalisation(),
            ],
            name=f"{name}_three",
        ),
        layers.Conv2D(channels, 1, name=f"{name}_one"),
        layers.AveragePooling2D(3, 1, "same", name=f"{name}_pool"),
    ]


def network(normalised="batch"):
    """A choice and a node, normalisation before and behind; no kinks."""
    keras.utils.set_random_seed(0)
    normalisation = NORMALISATIONS[normalised]
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="tanh")(x)
    x = normalisation()(x)
    y = Choice(candidates("choice", 4, normalisation), name="choice")(x)
    x = NodeChoice(
        [candidates(f"edge{e}", 4, normalisation) for e in range(2)],
        keep=1,
        name="node",
    )([x, y])
    x = layers.Conv2D(4, 3, strides=2, activation="tanh")(x)
    x = normalisation()(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(CLASSES)(x))
    rng = np.random.default_rng(2)
    for decision in find_decisions(model):
        decision.logits.assign(rng.normal(size=decision.num_candidates))
    return model


def joint_model(order, normalised="batch", **kwargs):
    return JointModel(
        network(normalised),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        hyperparameters=LearnedHyperparameters(FIXED),
        strategy=DARTS(order=order),
        **kwargs,
    )


def gradient_of_a_step(joint, monkeypatch, compiled=False):
    """What the architecture is moved along in a joint step."""
    seen = {}
    monkeypatch.setattr(
        joint.architecture,
        "update",
        lambda credit: seen.update(credit=credit),
    )
    dtype = joint.weight_vector.dtype
    step = joint.train_step
    if compiled:

        def run(*arguments):
            joint_step(*arguments)
            return seen["credit"]

        joint_step = joint.train_step
        return tf.function(run, autograph=False)(
            batch(2, dtype), tf.constant(0.7), batch(3, dtype)
        ).numpy()
    step(batch(2, dtype), 0.7, batch(3, dtype))
    return seen["credit"].numpy()


def snapshot(model):
    return [v.numpy() for v in model.variables]


def restore(model, values):
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


def search_loss(joint, logits, through_step):
    """L_S(w'(a), a), or with w' fixed if it is not `through_step`."""
    saved = snapshot(joint)
    decisions = joint.architecture.decisions

    def put():
        begin = 0
        for decision in decisions:
            size = decision.num_candidates
            decision.logits.assign(logits[begin : begin + size])
            begin += size

    if through_step:
        put()
    joint.train_step(batch(2), 0.7)
    put()
    images, labels = batch(3)
    outputs = joint.network(images, training=True)
    loss = float(tf.reduce_mean(joint.loss_object.call(labels, outputs)))
    restore(joint, saved)
    return loss


@pytest.mark.parametrize(
    "order, normalised", [(1, "batch"), *((2, n) for n in NORMALISATIONS)]
)
def test_the_derivative_equals_central_differences(
    float64, monkeypatch, order, normalised
):
    joint = joint_model(order, normalised)
    for k in range(2):  # so that there is a velocity to speak of
        joint.train_step(batch(k), 1.0)
    # Logits are float32: differences are taken between representable ones.
    logits = np.concatenate(
        [d.logits.numpy() for d in joint.architecture.decisions]
    )
    expected = []
    for k in range(len(logits)):

        def loss(distance, k=k):
            moved = logits.copy()
            moved[k] += distance
            return search_loss(joint, moved, through_step=order == 2)

        # 2^-9: far above what float32 resolves.
        expected.append(central_difference(loss, 0.0, 2.0**-9))
    found = gradient_of_a_step(joint, monkeypatch)
    scale = np.max(np.abs(expected))
    assert scale > 1e-3
    np.testing.assert_allclose(found, expected, atol=2e-4 * scale)


def test_the_orders_differ_by_more_than_the_test_allows(float64, monkeypatch):
    first, second = (
        gradient_of_a_step(joint_model(order), monkeypatch) for order in (1, 2)
    )
    scale = np.max(np.abs(second))
    assert np.max(np.abs(first - second)) > 0.05 * scale


def test_compiled_equals_eager(monkeypatch):
    eager, compiled = (
        gradient_of_a_step(joint_model(2), monkeypatch, compiled)
        for compiled in (False, True)
    )
    np.testing.assert_allclose(compiled, eager, rtol=1e-3, atol=1e-5)


def test_a_plain_step_leaves_the_architecture_alone():
    joint = joint_model(1)
    joint.architecture.start()
    before = [d.logits.numpy() for d in joint.architecture.decisions]
    joint.train_step(batch(0, "float32"), 1.0)
    for decision, old in zip(joint.architecture.decisions, before, strict=True):
        np.testing.assert_array_equal(decision.logits, old)
    joint.train_step(batch(0, "float32"), 1.0, batch(1, "float32"))
    for decision, old in zip(joint.architecture.decisions, before, strict=True):
        assert np.all(decision.logits.numpy() != old)


def test_the_statistics_are_as_before_behind_the_step(monkeypatch):
    """Those that are differentiated twice are of the step alone."""
    before, moments, calls = tf.nn.moments, second_derivatives._moments, []

    def watched(*arguments, **named):
        calls.append(None)
        if len(calls) > allowed:
            raise ArithmeticError
        return moments(*arguments, **named)

    monkeypatch.setattr(second_derivatives, "_moments", watched)
    step = batch(0, "float32"), 1.0, batch(1, "float32")
    allowed = 1000
    joint_model(2).train_step(*step)
    assert calls
    assert tf.nn.moments is before
    allowed = len(calls)
    with pytest.raises(ArithmeticError):
        joint_model(2).train_step(*step)
    assert tf.nn.moments is before


def test_training_mixes_and_inference_keeps():
    choice = Choice(
        [layers.Rescaling(w, name=f"x{w:g}") for w in (2.0, 3.0, 5.0)]
    )
    choice.decision.strategy = DARTS()
    choice.decision.logits.assign(np.log([0.2, 0.5, 0.3]))
    x = tf.ones((2, 3))
    mean = 0.2 * 2 + 0.5 * 3 + 0.3 * 5
    np.testing.assert_allclose(choice(x, training=True), mean * x, rtol=1e-6)
    np.testing.assert_array_equal(choice(x, training=False), 3.0 * x)
    assert np.all(choice.decision.runs())
    choice.decision.freeze(2)
    np.testing.assert_array_equal(choice(x, training=True), 5.0 * x)
    np.testing.assert_array_equal(choice.decision.runs(), [False, False, True])


def test_a_margin_freezes_early():
    made, open_ = (Choice([layers.Dense(2), layers.Dense(2)]) for _ in "ab")
    made.decision.logits.assign(np.log([0.8, 0.2]))
    decisions = [made.decision, open_.decision]
    assert DARTS().harden(decisions) == []
    assert DARTS(margin=0.5).harden(decisions) == [made.decision]
