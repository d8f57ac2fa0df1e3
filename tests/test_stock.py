"""The stock model: Keras' own layers in the place of ours."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha import stock
from keras_dha.nested_layers import find_layers
from tests.auto_model.small_runs import assert_plain
from tests.references import saying_units
from tests.test_joint_model import small_network


def with_ours():
    """Layers of ours, also nested and called twice, among operations."""
    inputs = keras.Input((6, 6, 2))
    norm = keras_dha.FusedBatchNormalization(momentum=0.8, name="norm")
    inner = keras.Sequential(
        [
            keras_dha.FusedBatchNormalization(scale=False),
            layers.ReLU(),
            keras_dha.Dropout(0.2),
        ]
    )
    # A model in two places, as an encoder of two inputs is.
    x = layers.Add()([inner(norm(inputs)), inner(inputs)])
    x = layers.Lambda(lambda images: 2.0 * images)(norm(x))
    x = layers.Normalization(name="adapted")(x + keras.ops.relu(x))
    x = keras.Sequential([layers.Conv2D(2, 1), layers.ReLU()], name="block")(x)
    x = keras_dha.Dropout(0.3, name="outer")(x)
    return keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(x))


def drawn_weights(model):
    generator = np.random.default_rng(0)
    model.get_layer("adapted").adapt(generator.normal(3.0, 2.0, (5, 6, 6, 2)))
    for weight in model.trainable_variables:
        weight.assign(generator.uniform(0.5, 2.0, weight.shape))
    for layer in find_layers(model, keras_dha.FusedBatchNormalization):
        layer.moving_mean.assign(generator.uniform(-1.0, 1.0, 2))
        layer.moving_variance.assign(generator.uniform(0.5, 2.0, 2))
    return model, generator.normal(size=(4, 6, 6, 2)).astype("float32")


def test_it_gives_the_same_with_keras_layers_alone():
    model, x = drawn_weights(with_ours())
    made = stock.stock(model, 0.44)
    assert_plain(made)
    rates = [layer.rate for layer in find_layers(made, layers.Dropout)]
    assert rates == [0.44, 0.44]
    assert made.get_layer("norm").momentum == 0.8
    assert len(made.weights) == len(model.weights)
    np.testing.assert_array_equal(made(x), model(x))


def test_it_has_weights_of_its_own():
    model, x = drawn_weights(with_ours())
    made = stock.stock(model)
    assert not {id(v) for v in made.variables} & {
        id(v) for v in model.variables
    }
    before = model(x).numpy()
    for weight in made.trainable_variables:
        weight.assign(tf.zeros_like(weight))
    made.trainable = False
    np.testing.assert_array_equal(model(x), before)
    assert len(model.trainable_variables) == 7


def test_each_dropout_keeps_its_rate_where_none_was_found():
    made = stock.stock(with_ours())
    rates = [layer.rate for layer in find_layers(made, layers.Dropout)]
    assert sorted(rates) == [0.2, 0.3]


def test_a_model_without_our_layers_is_left_as_it_is():
    untouched = small_network()
    assert stock.stock(untouched, 0.4) is untouched


class Bare(layers.Layer):
    """A layer that cannot be made from what it says of itself."""

    def __init__(self, units):
        super().__init__()
        self.units = units

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(self.units,), initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def test_a_layer_that_cannot_be_made_anew_is_kept():
    inputs, bare = keras.Input((4, 4, 2)), Bare(2)
    x = bare(keras_dha.FusedBatchNormalization()(inputs))
    model = keras.Model(inputs, layers.Flatten()(x))
    model.layers[1].moving_mean.assign([1.0, -2.0])
    made = stock.stock(model)
    assert made.get_layer(bare.name) is bare
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    np.testing.assert_array_equal(made(x), model(x))


class Net(keras.Model):
    """A subclassed model, which shows no graph, nor what it was made with."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units)
        self.norm = keras_dha.FusedBatchNormalization()

    def call(self, inputs, training=None):
        return self.norm(self.dense(inputs), training=training)


Said = saying_units(Net)


@pytest.mark.parametrize("is_said", [True, False])
def test_a_subclassed_model_is_copied_if_it_says_what_it_is(is_said):
    inputs = keras.Input((4, 4, 2))
    net = Said(3) if is_said else Net(3)
    x = keras_dha.FusedBatchNormalization()(net(inputs))
    model = keras.Model(inputs, keras_dha.Dropout(0.3)(x))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(generator.uniform(0.5, 2.0, weight.shape))
    made = stock.stock(model)
    assert (made.get_layer(net.name) is net) != is_said
    # Which makes its layers itself; the rest is Keras' own.
    assert len(find_layers(made, keras_dha.FusedBatchNormalization)) == 1
    assert not find_layers(made, keras_dha.Dropout)
    x = generator.normal(size=(3, 4, 4, 2))
    np.testing.assert_array_equal(made(x), model(x))


class Doubling(keras.Model):
    """A functional model with a call of its own."""

    def __init__(self):
        inputs = keras.Input((4, 4, 2))
        super().__init__(inputs, keras_dha.FusedBatchNormalization()(inputs))

    def call(self, inputs, training=None):
        return 2.0 * super().call(inputs, training=training)


def test_a_call_of_a_model_of_its_own_is_not_lost():
    inputs = keras.Input((4, 4, 2))
    nested = keras.Model(inputs, keras_dha.Dropout(0.3)(Doubling()(inputs)))
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2))
    for model in (nested, Doubling()):
        np.testing.assert_array_equal(stock.stock(model)(x), model(x))


def test_layers_within_wrappers_are_replaced():
    inputs = keras.Input((3, 4, 4, 2))
    part = keras.Sequential(
        [layers.Conv2D(2, 1), keras_dha.FusedBatchNormalization(momentum=0.7)]
    )
    x = layers.TimeDistributed(part)(inputs)
    x = layers.TimeDistributed(keras_dha.Dropout(0.2))(x)
    model = keras.Model(inputs, x)
    part.layers[-1].moving_mean.assign([1.0, -2.0])
    made = stock.stock(model, 0.44)
    assert_plain(made)
    (drop,) = find_layers(made, layers.Dropout)
    (norm,) = find_layers(made, layers.BatchNormalization)
    assert (drop.rate, norm.momentum) == (0.44, 0.7)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2))
    np.testing.assert_array_equal(made(x), model(x))


class Tied(layers.Layer):
    """A layer that holds another one, as the head of a language model."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, inputs):
        return inputs @ keras.ops.transpose(self.layer.embeddings)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


def test_layers_that_share_variables_go_on_to():
    inputs = keras.Input((3,), dtype="int32")
    words = layers.Embedding(10, 4)
    x = keras.Sequential([words, layers.Dense(4), keras_dha.Dropout(0.3)])
    model = keras.Model(inputs, Tied(words)(x(inputs)))
    made = stock.stock(model)
    assert not find_layers(made, keras_dha.Dropout)
    assert made.count_params() == model.count_params()
    x = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(made(x), model(x))
