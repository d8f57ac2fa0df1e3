"""Losses of several outputs, against NumPy and Keras."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from keras_dha.form import Form
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.joint_model import JointModel
from keras_dha.joint_step import search_gradient
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


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_an_example_counts_as_often_as_its_class(form):
    labels, logits = drawn()
    labels, logits = labels[1], logits[1]
    expected = np.array([0.5, 1.0, 4.0])[labels] * each(labels, logits)
    loss = CROSS_ENTROPY(from_logits=True)
    if form == "column":
        labels = labels[:, None]
    if form == "one-hot":
        labels = np.eye(3, dtype="float32")[labels]
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    losses = OutputLosses([loss], class_weight=[0.5, 1.0, 4.0])
    found = losses.call(labels, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert losses.of_guessing([3]) == pytest.approx(4.0 * math.log(3))
    config = keras.saving.serialize_keras_object(losses)
    again = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(again.call(labels, logits), found)


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


class Squares(keras.losses.Loss):
    """Squared errors of a network whose labels are numbers, of some shape."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape

    def call(self, y_true, y_pred):
        truth = ops.expand_dims(ops.cast(y_true, y_pred.dtype), 1)
        errors = ops.square(y_pred - truth)
        if self.shape == "rows":
            return errors
        if self.shape == "column":
            return ops.mean(errors, axis=1, keepdims=True)
        return ops.mean(errors)


@pytest.mark.parametrize("shape", ["rows", "column"])
def test_further_axes_are_averaged(shape):
    labels, logits = drawn()
    expected = 0.0
    for weight, truth, given in zip([0.3, 2.0], labels, logits, strict=True):
        expected += weight * ((given - truth[:, None]) ** 2).mean(axis=1)
    found = OutputLosses(2 * [Squares(shape)], [0.3, 2.0]).call(labels, logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", ["rows", "column"])
def test_a_step_of_a_loss_with_further_axes_is_that_of_keras(shape):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = [layers.Dense(2, name="b")(inputs)]
    outputs.append(layers.Dense(3, name="a")(inputs))
    theirs = keras.Model(inputs, outputs)
    ours = keras.models.clone_model(theirs)
    ours.set_weights(theirs.get_weights())
    losses = OutputLosses(2 * [Squares(shape)], [0.3, 2.0])
    values = {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0}
    joint = JointModel(
        ours, losses, hyperparameters=LearnedHyperparameters(values)
    )
    x = np.random.default_rng(1).normal(size=(N, 4)).astype("float32")
    labels = [tf.constant(part) for part in drawn()[0]]
    batch = (tf.constant(x), labels)
    start = joint.weight_vector.read()
    judged = search_gradient(joint, batch, start)
    theirs.compile(
        keras.optimizers.SGD(0.1),
        jit_compile=False,
        **losses.compile_arguments(Form.of(theirs).outputs),
    )
    expected = theirs.train_on_batch(x, [part.numpy() for part in labels])
    loss = joint.train_step(batch, 1.0)
    assert float(loss) == pytest.approx(np.ravel(expected)[0], rel=1e-5)
    for found, wanted in zip(
        ours.get_weights(), theirs.get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    # What judges is the same loss.
    np.testing.assert_allclose(
        judged, (start - joint.weight_vector.read()) / 0.1, atol=1e-5
    )


class Products(keras.losses.Loss):
    """A cross-entropy that takes its arguments as they are."""

    def call(self, y_true, y_pred):
        return -ops.sum(y_true * ops.log_softmax(y_pred), axis=-1)


@pytest.mark.parametrize("dtype", ["float64", "int64", "bool", "float32"])
def test_labels_come_in_the_dtype_of_the_loss(dtype):
    labels, logits = drawn()
    rows = np.eye(3)[labels[1]].astype(dtype)
    losses = OutputLosses.of(Products())
    expected = each(labels[1], logits[1])
    for found in (
        losses.call(rows, logits[1]),
        losses.smoothed(tf.constant(rows), tf.constant(logits[1]), None),
    ):
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_computed_in_float64_stays_there(dtype):
    labels, logits = drawn()
    rows = np.eye(3, dtype=dtype)[labels[1]]
    given = logits[1].astype("float64")
    found = OutputLosses.of(Products()).call(rows, given)
    np.testing.assert_allclose(found, each(labels[1], given), rtol=1e-13)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.CategoricalFocalCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
    ids=["focal", "sparse"],
)
def test_of_bfloat16_outputs_losses_are_those_of_keras(loss):
    labels, logits = drawn()
    truth, outputs = labels[1], tf.cast(logits[1], "bfloat16")
    if isinstance(loss, keras.losses.CategoricalFocalCrossentropy):
        truth = np.eye(3)[truth]
    found = OutputLosses.of(loss).call(truth, outputs)
    assert found.dtype == "float32"
    assert np.mean(found) == pytest.approx(
        float(loss(truth, outputs)), rel=1e-5
    )


def test_class_numbers_stay_integers():
    """In float16, which a loss may have, there is no 2049."""
    loss = CROSS_ENTROPY(from_logits=True, dtype="float16")
    outputs = np.zeros((2, 2050), "float32")
    outputs[:, 2049] = 4.0
    found = OutputLosses.of(loss).call(np.array([2049, 2048]), outputs)
    assert float(found[1] - found[0]) == pytest.approx(4.0, rel=1e-2)


def test_a_loss_without_examples_is_refused_by_name():
    labels, logits = drawn()
    losses = OutputLosses(2 * [Squares("scalar")])
    with pytest.raises(ValueError, match=r"each example.*\(\) from Squares"):
        losses.call(labels, logits)
    whole = OutputLosses.of(keras.losses.Dice())
    with pytest.raises(ValueError, match=r"\(\) from Dice"):
        whole.smoothed(np.eye(2, dtype="float32"), np.ones((2, 2), "f"), None)


def test_a_loss_that_leaves_a_class_out_is_refused():
    """`evaluate` takes the mean of the other examples."""
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    with pytest.raises(ValueError, match="examples out.*ignore_class=0"):
        OutputLosses([loss])


@pytest.mark.parametrize("reduction", ["sum", "none", None])
def test_a_loss_that_is_no_mean_is_refused(reduction):
    with pytest.raises(ValueError, match="loss_weights.*CategoricalHinge with"):
        OutputLosses([keras.losses.CategoricalHinge(reduction=reduction)])
    for mean in ("mean", "mean_with_sample_weight"):
        OutputLosses([keras.losses.CategoricalHinge(reduction=mean)])
