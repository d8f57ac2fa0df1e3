"""The stock model: Keras' own layers in the place of ours."""

import keras
import numpy as np
from keras import layers

import keras_dha
from keras_dha import stock
from keras_dha.nested_layers import find_layers
from tests.auto_model.small_runs import assert_plain
from tests.test_joint_model import small_network


def with_ours():
    """A model with layers of ours, also nested and called twice."""
    inputs = keras.Input((6, 6, 2))
    norm = keras_dha.FusedBatchNormalization(momentum=0.8, name="norm")
    inner = keras.Sequential(
        [
            keras_dha.FusedBatchNormalization(scale=False),
            layers.ReLU(),
            keras_dha.Dropout(0.2),
        ]
    )
    x = keras_dha.Dropout(0.3, name="outer")(norm(inner(norm(inputs))))
    return keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(x))


def test_it_gives_the_same_with_keras_layers_alone():
    model, generator = with_ours(), np.random.default_rng(0)
    model.set_weights(
        [generator.uniform(0.5, 2.0, w.shape) for w in model.get_weights()]
    )
    made = stock.stock(model, 0.44)
    assert_plain(made)
    rates = [layer.rate for layer in find_layers(made, layers.Dropout)]
    assert rates == [0.44, 0.44]
    assert made.get_layer("conv") is model.get_layer("conv")
    assert made.get_layer("norm").momentum == 0.8
    assert len(made.weights) == len(model.weights)
    x = generator.normal(size=(4, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(made(x), model(x))


def test_each_dropout_keeps_its_rate_where_none_was_found():
    made = stock.stock(with_ours())
    rates = [layer.rate for layer in find_layers(made, layers.Dropout)]
    assert sorted(rates) == [0.2, 0.3]


def test_a_model_without_our_layers_is_left_as_it_is():
    untouched = small_network()
    assert stock.stock(untouched, 0.4) is untouched
