"""Statistics against NumPy's mean and variance of the very batches."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_dha
from keras_dha.batches import ArrayBatches
from keras_dha.calibration import recalibrate
from keras_dha.calibration import search_loss
from keras_dha.joint_model import JointModel


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(2.0, 3.0, (count, 8, 4, 4, 2)).astype("float32")


def normalising_network(**kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    norm = layers.BatchNormalization(name="norm", **kwargs)
    x = layers.Conv2D(3, 3, name="conv")(norm(inputs))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(x)), norm


def test_statistics_are_the_means_of_the_batch_statistics():
    network, norm = normalising_network()
    given = batches(5)
    recalibrate(network, iter(given), batches=5)
    axes = (1, 2, 3)
    np.testing.assert_allclose(
        norm.moving_mean, given.mean(axes).mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(
        norm.moving_variance, given.var(axes).mean(0), rtol=1e-5
    )


def test_only_the_given_number_of_batches_counts():
    network, norm = normalising_network()
    given = batches(5)
    recalibrate(network, iter(given), batches=2)
    expected = given[:2].mean((1, 2, 3)).mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


def test_old_statistics_are_forgotten():
    network, norm = normalising_network()
    norm.moving_mean.assign([1e3, -1e3])
    norm.moving_variance.assign([1e6, 1e6])
    given = batches(2)
    recalibrate(network, iter(given), batches=2)
    expected = given.mean((1, 2, 3)).mean(0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)


def test_nothing_else_changes():
    network, norm = normalising_network(momentum=0.7)
    statistics = {id(norm.moving_mean), id(norm.moving_variance)}
    others = [v for v in network.variables if id(v) not in statistics]
    before = [v.numpy() for v in others]
    recalibrate(network, iter(batches(2)), batches=2)
    for variable, old in zip(others, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    assert norm.momentum == 0.7


def test_layers_further_in_see_what_the_layers_before_them_give():
    inner = keras.Sequential([layers.BatchNormalization(name="second")])
    inputs = keras.Input((4, 4, 2))
    first = layers.BatchNormalization(name="first", epsilon=1e-6)
    scaled = layers.Rescaling(2.0, offset=5.0)(first(inputs))
    network = keras.Model(inputs, inner(scaled))
    recalibrate(network, iter(batches(3)), batches=3)
    # Each batch reaches the second layer with mean 0, variance 1, rescaled.
    second = inner.layers[0]
    np.testing.assert_allclose(second.moving_mean, [5.0, 5.0], rtol=1e-4)
    np.testing.assert_allclose(second.moving_variance, [4.0, 4.0], rtol=1e-4)


@pytest.mark.parametrize(
    "kind", [layers.BatchNormalization, keras_dha.FusedBatchNormalization]
)
def test_of_a_layer_that_is_called_twice_both_calls_count(kind):
    norm, inputs = kind(name="norm"), keras.Input((4, 4, 2))
    other = layers.Rescaling(2.0, offset=5.0)(inputs)
    network = keras.Model(inputs, layers.Add()([norm(inputs), norm(other)]))
    given = batches(3)
    recalibrate(network, iter(given), batches=3)
    mean, variance = (f((1, 2, 3)).mean(0) for f in (given.mean, given.var))
    np.testing.assert_allclose(
        norm.moving_mean, (mean + 2.0 * mean + 5.0) / 2, rtol=1e-4
    )
    np.testing.assert_allclose(
        norm.moving_variance, (variance + 4.0 * variance) / 2, rtol=1e-4
    )
    assert norm.momentum == 0.99
    assert "call" not in vars(norm)


def test_behind_dropout_they_are_those_of_the_rate_that_was_learned():
    inputs = keras.Input((64,))
    norm = layers.BatchNormalization(name="norm")
    x = norm(keras_dha.Dropout(0.1, seed=1)(inputs))
    network = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model = keras_dha.AutoModel(
        network,
        augmentation=None,
        hyperparameters={"learning_rate": 1e-9, "dropout_rate": 0.5},
        seed=0,
    )
    model.fit(
        np.ones((64, 64)) + np.eye(64), np.arange(64) % 2, epochs=1, verbose=0
    )
    # Of 1 / (1 - p) with the probability 1 - p, else 0: p / (1 - p).
    assert np.mean(norm.moving_variance) == pytest.approx(1.0, rel=0.15)


def test_a_frozen_layer_keeps_its_statistics():
    network, norm = normalising_network()
    norm.trainable = False
    norm.moving_mean.assign([3.0, 4.0])
    recalibrate(network, iter(batches(2)), batches=2)
    np.testing.assert_array_equal(norm.moving_mean, [3.0, 4.0])


def test_a_network_without_normalisation_needs_no_batches():
    network = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    before = network.get_weights()
    recalibrate(network, iter([]))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_all_is_as_it_was_if_the_batches_end_early():
    network, norm = normalising_network(momentum=0.7)
    norm.moving_mean.assign([3.0, 4.0])
    with pytest.raises(StopIteration):
        recalibrate(network, iter(batches(1)), batches=2)
    assert norm.momentum == 0.7
    np.testing.assert_array_equal(norm.moving_mean, [3.0, 4.0])
    np.testing.assert_array_equal(norm.moving_variance, [1.0, 1.0])


def test_the_search_loss_is_that_of_the_network_as_it_predicts():
    network, norm = normalising_network()
    # Far from those of a batch.
    norm.moving_mean.assign([3.0, -4.0])
    norm.moving_variance.assign([2.0, 30.0])
    joint = JointModel(
        network, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    images, labels = batches(3).reshape(-1, 4, 4, 2), np.arange(24) % 2
    before = [v.numpy() for v in joint.variables]
    found = search_loss(joint, ArrayBatches(images, labels, 8, seed=0))
    for variable, old in zip(joint.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)
    logits = network.predict(images, verbose=0).astype("float64")
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(24), labels]
    # Of full batches the mean over batches is that over images.
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)
