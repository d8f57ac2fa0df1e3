"""DSNAS against closed forms; its gradient is tested in test_joint_model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.strategies import DSNAS
from keras_dha.joint_model import JointModel
from tests.test_joint_model import float64  # noqa: F401


def decided(*probabilities):
    made = Decision(len(probabilities))
    made.logits.assign(np.log(probabilities))
    return made


def test_decisions_harden_when_the_lead_reaches_the_margin():
    behind = decided(0.5, 0.3, 0.2)  # leads by 0.2
    ahead = decided(0.2, 0.2, 0.6)  # leads by 0.4
    assert DSNAS(margin=0.3).harden([behind, ahead]) == [ahead]
    assert not behind.is_frozen
    assert int(ahead.chosen) == 2
    assert DSNAS(margin=0.15).harden([behind, ahead]) == [behind]
    assert int(behind.chosen) == 0


def test_the_margin_is_to_the_second_not_to_the_mean():
    close = decided(0.49, 0.47, 0.02, 0.02)
    assert DSNAS(margin=0.05).harden([close]) == []


def assert_runs(decision, strategy, expected, draws=3000):
    """Asserts how often each operation runs, on each edge; last: nothing."""
    expected = np.reshape(expected, (decision.edges, -1))
    rng = np.random.default_rng(0)
    shape = (draws, decision.num_candidates)
    uniforms = rng.uniform(1e-6, 1.0, shape).astype("float32")
    sample = tf.function(lambda u: strategy.sample(decision, u))
    ran = np.array([sample(tf.constant(u)) for u in uniforms])
    counts = [np.bincount(r, minlength=expected.shape[1]) for r in ran.T]
    deviation = np.sqrt(draws * expected * (1 - expected))
    assert np.all(np.abs(counts - draws * expected) <= 4 * deviation)


def test_samples_follow_the_probabilities():
    p = np.array([0.1, 0.6, 0.3])
    assert_runs(decided(*p), DSNAS().bound(tf.Variable(0.5)), [*p, 0.0])


def test_what_leads_runs_where_nothing_is_drawn():
    strategy = DSNAS(exploration=0.25)
    searching = strategy.bound(tf.Variable(0.5))
    expected = [0.075, 0.125 + 0.75, 0.05, 0.0]
    assert_runs(decided(0.3, 0.5, 0.2), searching, expected)
    # All paths are trained alike before the logits move.
    warming = strategy.bound(tf.Variable(0.0))
    assert_runs(decided(0.3, 0.5, 0.2), warming, [0.3, 0.5, 0.2, 0.0])


def test_nothing_runs_on_an_edge_that_is_not_kept_unless_drawn():
    decision = Decision(6, edges=3, keep=2)
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    decision.logits.assign(np.log(p).ravel())
    leading = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    expected = 0.25 * np.pad(p, ((0, 0), (0, 1))) + 0.75 * leading
    strategy = DSNAS(exploration=0.25).bound(tf.Variable(0.5))
    assert_runs(decision, strategy, expected)


def test_something_runs_at_the_largest_draw():
    # Of these the float32 shares sum to less than it.
    largest = np.nextafter(1, 0, dtype="f4")
    rng = np.random.default_rng(0)
    for _ in range(60):
        decision = decided(*rng.dirichlet(np.ones(7)))
        uniform = tf.fill([7], tf.constant(largest, "float32"))
        assert int(DSNAS().sample(decision, uniform)[0]) < 7


def test_it_explores_whatever_the_network_computes_in(
    float64,  # noqa: F811
):
    strategy = DSNAS(exploration=0.25).bound(tf.Variable(0.5))
    expected = 0.25 * np.array([0.3, 0.5, 0.2]) + [0, 0.75, 0]
    assert_runs(decided(0.3, 0.5, 0.2), strategy, [*expected, 0])


@pytest.mark.parametrize("exploration", [1.0, 0.25])
def test_credits_are_weighted_by_how_often_what_ran_runs(exploration):
    p = np.array([0.3, 0.5, 0.2])
    decision = decided(*p)
    strategy = DSNAS(exploration=exploration).bound(tf.Variable(0.5))
    q = exploration * p + [0, 1 - exploration, 0]
    mean = 0
    for index in range(3):
        decision.take([index])
        with tf.GradientTape() as tape:
            factor = strategy.factors(decision)[0]
        assert float(factor) == 1.0
        gradient = tape.gradient(factor, decision.logits.value)
        score = np.eye(3)[index] - p
        np.testing.assert_allclose(
            gradient, p[index] / q[index] * score, rtol=1e-5
        )
        mean += q[index] * gradient
    np.testing.assert_allclose(mean, 0, atol=1e-6)


def test_the_credit_of_a_frozen_node_is_finite():
    # Nothing runs on one of its edges, and is never drawn.
    decision = Decision(6, edges=3, keep=2)
    decision.strategy = DSNAS(exploration=1.0).bound(tf.Variable(0.5))
    decision.freeze([0, 3])
    with tf.GradientTape() as tape:
        factors = decision.factors(training=True)
        total = tf.reduce_sum(factors)
    np.testing.assert_array_equal(factors, 1.0)
    gradient = tape.gradient(total, decision.logits.value)
    np.testing.assert_array_equal(gradient, np.zeros(6))


def test_frozen_decisions_do_not_move_and_free_ones_do():
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((4, 4, 2))
    for k in range(2):
        branch = Choice(
            [
                layers.Conv2D(2, 3, padding="same", name=f"three{k}"),
                layers.Conv2D(2, 1, name=f"one{k}"),
            ],
            name=f"choice{k}",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, layers.Dense(2)(x))
    frozen, free = find_decisions(network)
    joint = JointModel(
        network,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=DSNAS(),
    )
    rng = np.random.default_rng(0)
    step = tf.function(joint.train_step, autograph=False)

    def steps(count):
        for _ in range(count):
            images = rng.normal(size=(8, 4, 4, 2)).astype("float32")
            labels = rng.integers(0, 2, 8)
            step((tf.constant(images), tf.constant(labels)), tf.constant(1.0))

    steps(3)  # the rate is zero until the search begins
    np.testing.assert_array_equal(free.logits, [0.0, 0.0])
    joint.architecture.rate.assign(0.1)
    steps(3)  # both have Adam moments now, which alone would move them on
    assert np.all(np.abs(frozen.logits) > 1e-3)
    frozen.freeze(0)
    before, moving = frozen.logits.numpy(), free.logits.numpy()
    steps(3)
    np.testing.assert_array_equal(frozen.logits, before)
    assert np.all(free.logits.numpy() != moving)
    assert int(frozen.sampled) == 0
