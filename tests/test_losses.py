"""Losses of several outputs, against NumPy and Keras."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.form import Form
from keras_dha.losses import OutputLosses

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy
N = 8


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn():
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(N, k)).astype("float32") for k in (2, 3)]
    labels = [rng.integers(0, k, N) for k in (2, 3)]
    return labels, logits


def each(labels, logits):
    """Cross-entropies of every example, in NumPy."""
    return -np.log(softmax(logits)[np.arange(N), labels])


def of_two(weights):
    return OutputLosses(2 * [CROSS_ENTROPY(from_logits=True)], weights)


def test_the_weighted_sum_equals_numpy():
    labels, logits = drawn()
    expected = 0.3 * each(labels[0], logits[0]) + 2 * each(labels[1], logits[1])
    found = of_two([0.3, 2.0]).call(tuple(labels), logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    named = of_two([0.3, 2.0]).call(
        {"b": labels[1], "a": labels[0]}, {"a": logits[0], "b": logits[1]}
    )
    np.testing.assert_allclose(named, expected, rtol=1e-5)


def test_each_output_is_smoothed():
    labels, logits = drawn()
    expected = np.zeros(N)
    for weight, truth, given in zip([0.3, 2.0], labels, logits, strict=True):
        rows = 0.9 * np.eye(given.shape[1])[truth] + 0.1 / given.shape[1]
        expected -= weight * (rows * np.log(softmax(given))).sum(axis=1)
    found = of_two([0.3, 2.0]).smoothed(labels, logits, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_of_one_output_it_is_the_loss_itself():
    labels, logits = drawn()
    loss = CROSS_ENTROPY(from_logits=True)
    found = OutputLosses.of(loss).call(labels[0], logits[0])
    np.testing.assert_array_equal(found, loss.call(labels[0], logits[0]))


@pytest.mark.parametrize("by_name", [False, True])
def test_the_mean_is_what_keras_computes(by_name):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(2, name="b")(inputs)]
    outputs.append(layers.Dense(3, name="a")(inputs))
    labels, _ = drawn()
    if by_name:
        outputs = dict(zip("ba", outputs, strict=True))
        labels = dict(zip("ba", labels, strict=True))
    network = keras.Model(inputs, outputs)
    weights = [2.0, 0.3] if by_name else [0.3, 2.0]  # of a and b, or b and a
    losses = of_two(weights)
    network.compile("sgd", **losses.compile_arguments(Form.of(network).outputs))
    x = np.random.default_rng(1).normal(size=(N, 4)).astype("float32")
    predictions = network(x)
    expected = network.compute_loss(x, labels, predictions)
    found = np.mean(losses.call(labels, predictions))
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_guessing_costs_the_weighted_logarithms_of_the_classes():
    found = of_two([0.3, 2.0]).of_guessing([2, 3])
    assert found == pytest.approx(0.3 * math.log(2) + 2.0 * math.log(3))
    other = OutputLosses([CROSS_ENTROPY(), keras.losses.CategoricalHinge()])
    assert other.of_guessing([2, 3]) == math.inf
    with pytest.raises(ValueError, match="label_smoothing"):
        other.check_smoothing()


def test_a_round_trip_through_a_configuration():
    config = keras.saving.serialize_keras_object(of_two([0.3, 2.0]))
    found = keras.saving.deserialize_keras_object(config)
    assert found.weights == [0.3, 2.0]
    labels, logits = drawn()
    np.testing.assert_array_equal(
        found.call(labels, logits), of_two([0.3, 2.0]).call(labels, logits)
    )


def test_as_many_weights_as_losses():
    with pytest.raises(ValueError, match="one for each loss"):
        OutputLosses([CROSS_ENTROPY()], [1.0, 2.0])
