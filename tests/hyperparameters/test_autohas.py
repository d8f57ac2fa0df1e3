"""The sampled engine: its basis, its values, and how its logits move."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dha
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.autohas import SampledHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.update_rules import SGD

SIZES, PATHS = [2, 3], ["stem/conv/kernel", "head/kernel"]
VALUES = {
    "learning_rate": Range(1e-4, 1.0),
    "weight_decay": 1e-3,
    "momentum": Range(0.5, 0.9, "linear"),
}
LOGITS = np.array([[0.5, -1.0, 2.0, 0.0, 0.3], [1.0, 0.0, -0.5, 0.2, -2.0]])


def engine(values=VALUES, **kwargs):
    made = SampledHyperparameters(values, **kwargs)
    made.allocate(SGD(), SIZES, PATHS)
    return made


def probabilities(logits=LOGITS):
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)


def draws(rng):
    return lambda shape: tf.constant(rng.uniform(1e-6, 1, shape), "float32")


def test_the_basis_stands_evenly_on_its_scale():
    made = engine()
    np.testing.assert_allclose(
        made.described("learning_rate")["basis"],
        [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        made.described("momentum")["basis"], [0.5, 0.6, 0.7, 0.8, 0.9]
    )
    assert made.described("weight_decay") == {}
    np.testing.assert_allclose(
        made.described("momentum")["probabilities"], 0.2, rtol=1e-5
    )


def test_the_expected_value_is_that_of_the_scale():
    made = engine()
    made.logits.assign(LOGITS)
    p = probabilities()
    # A geometric mean on a log scale, an arithmetic one on a linear scale.
    geometric = np.prod(np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0]) ** p[0])
    arithmetic = p[1] @ [0.5, 0.6, 0.7, 0.8, 0.9]
    assert float(made.current("learning_rate")) == pytest.approx(geometric)
    assert float(made.current("momentum")) == pytest.approx(arithmetic)
    assert float(made.current("weight_decay")) == pytest.approx(1e-3)


def test_a_step_has_a_basis_element_or_the_expected_value():
    made, rng = engine(), np.random.default_rng(0)
    made.logits.assign(LOGITS)
    counts = np.zeros((2, 5))
    for _ in range(400):
        uniform = rng.uniform(1e-6, 1, (2, 5)).astype("float32")
        made.sample(lambda shape, u=uniform: tf.constant(u), True)
        picked = np.argmax(LOGITS - np.log(-np.log(uniform)), axis=1)
        np.testing.assert_array_equal(made.combination, np.eye(5)[picked])
        rate, momentum = float(made.value("learning_rate")), made.value
        assert rate == pytest.approx(10.0 ** (picked[0] - 4), rel=1e-4)
        assert float(momentum("momentum")) == pytest.approx(
            0.5 + 0.1 * picked[1]
        )
        counts[range(2), picked] += 1
    error = np.sqrt(probabilities() * (1 - probabilities()) / 400)
    assert np.all(np.abs(counts / 400 - probabilities()) < 4 * error)
    made.sample(draws(rng), False)
    for key in ("learning_rate", "momentum"):
        assert float(made.value(key)) == pytest.approx(float(made.current(key)))


def test_the_logits_follow_the_reward():
    """Adam's first step goes `learning_rate` along (r - b)(C - P)."""
    made = engine(learning_rate=0.2)
    made.logits.assign(LOGITS)
    made.combination.assign(np.eye(5)[[1, 4]])
    made.follow_reward(tf.constant(-0.3))
    sign = -np.sign(np.eye(5)[[1, 4]] - probabilities())
    np.testing.assert_allclose(made.logits - LOGITS, 0.2 * sign, rtol=1e-4)
    np.testing.assert_allclose(
        made.first, 0.03 * (np.eye(5)[[1, 4]] - probabilities()), rtol=1e-4
    )
    # The hundredth step is shorter by the square root of two.
    made.count.assign(100.0)
    made.first.assign(np.zeros((2, 5)))
    made.second.assign(np.zeros((2, 5)))
    before = made.logits.numpy()
    made.follow_reward(tf.constant(1.0))
    moved = np.abs(made.logits.numpy() - before)
    bias = np.sqrt((1 - 0.999**101) / 0.001) * 0.1 / (1 - 0.9**101)
    np.testing.assert_allclose(moved, 0.2 * bias / np.sqrt(2), rtol=1e-3)


@pytest.mark.parametrize("start", [2e-4, 0.01, 0.3])
def test_the_start_is_the_expected_value(start):
    made = engine({"learning_rate": Range(1e-4, 1.0, start=start)})
    assert float(made.current("learning_rate")) == pytest.approx(start, 1e-3)
    assert float(made.value("learning_rate")) == pytest.approx(start, 1e-3)
    # As wide as can be: an exponential distribution over the elements.
    second = np.diff(made.logits.numpy()[0], 2)
    np.testing.assert_allclose(second, 0, atol=1e-4)


def test_the_start_of_two_elements_in_closed_form():
    made = engine({"momentum": Range(0.0, 0.8, "linear", start=0.6)}, basis=2)
    p = made.described("momentum")["probabilities"]
    np.testing.assert_allclose(p, [0.25, 0.75], rtol=1e-5)


def test_at_a_bound_something_else_is_still_tried():
    made = engine({"learning_rate": Range(1e-4, 1.0, start=1.0)})
    p = made.described("learning_rate")["probabilities"]
    assert 0.88 < p[-1] < 0.93
    assert float(made.current("learning_rate")) == pytest.approx(10**-0.1, 1e-3)


def test_a_new_upper_bound_moves_the_basis():
    made = engine()
    made.set_value("learning_rate", 0.02, high=0.1)
    assert float(made.current("learning_rate")) == pytest.approx(0.02, 1e-3)
    basis = made.described("learning_rate")["basis"]
    np.testing.assert_allclose(basis, np.geomspace(1e-4, 0.1, 5), rtol=1e-4)
    assert made.bounds("learning_rate") == pytest.approx((1e-4, 0.1))
    assert float(made.current("momentum")) == pytest.approx(0.7)


def test_updates_at_a_bound_are_counted():
    made = engine()
    made.logits.assign([[0, 0, 0, 0, 9.0], [9.0, 0, 0, 0, 0]])
    made.follow_reward(tf.constant(0.0))
    np.testing.assert_array_equal(made.at_bounds, [[0, 1], [1, 0]])
    made.logits.assign(np.zeros((2, 5)))
    made.follow_reward(tf.constant(0.0))
    np.testing.assert_array_equal(made.at_bounds, [[0, 1], [1, 0]])


def test_entropies_are_logged():
    made = engine()
    made.logits.assign([[0.0] * 5, [50.0, 0, 0, 0, 0]])
    logs = made.logs()
    assert logs["learning_rate/entropy"] == pytest.approx(1.0)
    assert logs["momentum/entropy"] == pytest.approx(0.0, abs=1e-6)


def test_groups_have_values_of_their_own():
    made = engine(
        {"learning_rate": {"head": Range(0.1, 10.0), "*": Range(1e-3, 1e-1)}},
        basis=3,
    )
    made.combination.assign(np.eye(3)[[2, 0]])
    np.testing.assert_allclose(
        made.value("learning_rate"), [1e-3] * 2 + [10.0] * 3, rtol=1e-5
    )


def test_without_ranges_there_is_nothing_to_sample():
    made = engine({})
    made.sample(draws(np.random.default_rng(0)), True)
    made.follow_reward(tf.constant(1.0))
    assert float(made.value("learning_rate")) == pytest.approx(0.1)
    assert made.by_reward == [] and float(made.count) == 0


def test_configurations_come_back():
    given = AutoHAS(VALUES, basis=7, learning_rate=0.2, reward="loss")
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(given)
    )
    assert copy.get_config() == given.get_config()
    assert copy.values == VALUES
    made = copy.engine(copy.values)
    again = type(made).from_config(made.get_config())
    assert again.get_config() == made.get_config()
    assert (again.basis, again.learning_rate, again.reward) == (7, 0.2, "loss")
    assert keras_dha.AutoHAS is AutoHAS


@pytest.mark.parametrize(
    "arguments",
    [
        {"values": 3},
        {"values": {"lr": 0.1}},
        {"basis": 1},
        {"basis": 2.5},
        {"learning_rate": 0.0},
        {"reward": "f1"},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="Received"):
        AutoHAS(**arguments)


def test_an_upper_bound_may_fall_to_the_lower_one():
    """A range test may find less than what was asked for."""
    made = engine({"learning_rate": Range(0.5, 2.0)})
    made.set_value("learning_rate", 0.1, high=0.3)
    assert made.bounds("learning_rate") == pytest.approx((0.5, 0.5))
    assert float(made.current("learning_rate")) == pytest.approx(0.5)
    np.testing.assert_allclose(made.probabilities(), [[0.2] * 5], rtol=1e-5)
