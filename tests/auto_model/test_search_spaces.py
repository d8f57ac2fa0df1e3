"""Search spaces of the user's own: vectors, plain models, any last layer."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.auto_model import AutoModel
from keras_dha.fused_normalization import FusedBatchNormalization
from tests.architecture.test_derive import Wrapped
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import RATES
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import cross_entropy
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import quick_auto_model


def test_vectors_with_a_choice_over_dense_layers():
    def dense_space(shape, num_classes):
        inputs = keras.Input(shape)
        x = layers.Dense(8, activation="relu")(inputs)
        branch = Choice(
            [
                layers.Dense(8, activation="relu", name="one_layer"),
                keras.Sequential(
                    [layers.Dense(4, activation="relu"), layers.Dense(8)],
                    name="bottleneck",
                ),
            ],
            name="head",
        )(x)
        x = layers.Add()([x, branch])
        return keras.Model(inputs, layers.Dense(num_classes)(x))

    model = AutoModel(dense_space, hyperparameters=RATES, seed=0)
    x = X.reshape(len(X), -1) / 255
    fit(model, x, epochs=4)
    assert model.result.policy is None  # vectors are not augmented
    assert model.result.genotype["head"]["choice"] in (
        "one_layer",
        "bottleneck",
    )
    assert_plain(model.export_model())
    # The outputs are logits here, and the loss was told so.
    logits = model.predict(x)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    expected = cross_entropy(shifted / shifted.sum(1, keepdims=True), Y)
    assert model.evaluate(x, Y)[0] == pytest.approx(expected, rel=1e-4)


class Noise(layers.Layer):
    """Draws without a seed, so from a generator that all of Keras shares."""

    def call(self, x, training=False):
        drawn = keras.random.normal(keras.ops.shape(x))
        return x + drawn if training else x


def test_layers_may_draw_without_a_seed():
    x = inputs = keras.Input((64,))
    for _ in range(2):
        x = layers.Dense(8)(Noise()(x))
    network = keras.Model(inputs, layers.Dense(CLASSES)(x))
    model, x = quick_auto_model(network), X.reshape(len(X), -1) / 255
    for _ in range(2):
        # It forgets that generator.
        keras.utils.set_random_seed(0)
        assert np.isfinite(fit(model, x, epochs=1).history["loss"][0])


def dense_network():
    inputs = keras.Input((64,))
    heads = [layers.Dense(CLASSES, name=name) for name in ("one", "two")]
    return keras.Model(inputs, Choice(heads, name="head")(inputs))


def test_a_network_that_was_searched_is_not_searched_again(tmp_path):
    """It would be trained as if there were nothing to choose."""
    network, x = dense_network(), X.reshape(len(X), -1) / 255
    model = quick_auto_model(network, strategy=DSNAS(until=0.5))
    fit(model, x, epochs=1)
    again = quick_auto_model(network, strategy=DSNAS(until=0.5))
    with pytest.raises(ValueError, match="anew.*frozen.*'head_decision'"):
        fit(again, x, epochs=1)
    assert again.joint is None
    # What was searched goes on, here and where it is loaded.
    model.save(tmp_path / "run.keras")
    for each in (model, AutoModel.load(tmp_path / "run.keras")):
        fit(each, x, epochs=1)
        assert set(each.genotype) == {"head"}


def test_codes_that_a_search_has_left_are_of_that_kind_of_search():
    network, x = dense_network(), X.reshape(len(X), -1) / 255
    LearnedArchitecture(find_decisions(network), ISTA())
    with pytest.raises(ValueError, match="codes.*anew.*strategy=DSNAS"):
        fit(quick_auto_model(network, strategy=DSNAS()), x, epochs=1)
    model = quick_auto_model(network, strategy=ISTA())
    fit(model, x, epochs=1)
    assert set(model.genotype) == {"head"}


def test_a_plain_model_is_trained_itself():
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    before = plain.get_weights()
    model = AutoModel(
        plain, augmentation=None, hyperparameters=RATES, outer_every=2, seed=0
    )
    history = fit(model, X / 255)
    assert model.export_model() is plain
    assert not np.allclose(plain.get_weights()[0], before[0], rtol=1e-3)
    assert model.result.genotype == {}
    assert "decision_margin" not in history.history


def averaged():
    """Two heads, and the mean of what they say."""
    inputs = keras.Input((64,))
    heads = [
        layers.Dense(CLASSES, activation="softmax")(inputs) for _ in range(2)
    ]
    return keras.Model(inputs, layers.Average()(heads))


def softmax_heads():
    dense = functools.partial(layers.Dense, CLASSES)
    return {
        "activation": dense(activation="softmax"),
        "layer": keras.Sequential([dense(), layers.Softmax()]),
        "average": averaged(),
        "handed on": keras.Sequential(
            [dense(activation="softmax"), layers.Activation("linear")]
        ),
        "own activation": dense(activation=lambda x: keras.ops.softmax(x)),
        "nested": keras.Sequential(
            [keras.Sequential([dense(activation="softmax")])]
        ),
        "choice": Choice(
            [
                dense(activation="softmax", name="direct"),
                keras.Sequential(
                    [layers.Dense(4), dense(activation="softmax")], name="deep"
                ),
            ]
        ),
    }


@pytest.mark.parametrize("head", softmax_heads())
def test_the_loss_fits_outputs_that_are_probabilities(head):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), softmax_heads()[head]]
    )
    model = quick_auto_model(network)
    fit(model, X / 255, epochs=1)
    probabilities = model.predict(X / 255)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    assert model.evaluate(X / 255, Y)[0] == pytest.approx(
        cross_entropy(probabilities, Y), rel=1e-4
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_normalisation_describes_the_training_images_in_the_end(stopped):
    """Its moving average, with a momentum of 0.99, would be far from it."""
    model = quick_auto_model(strategy=None)
    stop = keras.callbacks.EarlyStopping("loss", min_delta=99.0, patience=1)
    fit(model, epochs=50 if stopped else 2, callbacks=[stop] if stopped else [])
    _, scale, convolution, norm, *_ = model.export_model().layers
    assert isinstance(norm, layers.BatchNormalization)
    values = np.asarray(convolution(scale(X)))
    mean, deviation = values.mean((0, 1, 2)), values.std((0, 1, 2))
    assert np.all(np.abs(norm.moving_mean - mean) < 0.1 * deviation)
    np.testing.assert_allclose(norm.moving_variance, deviation**2, rtol=0.2)


class MyLoss(keras.losses.Loss):
    """A loss of the user's own, which Keras knows nothing of."""

    def call(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def share_of_the_first(y_true, y_pred):
    del y_true
    return keras.ops.mean(y_pred[:, 0])


def test_losses_and_metrics_of_ones_own_need_no_registration():
    """They are handed on to the derived network, and to what is exported."""

    def network():
        inputs = keras.Input((8, 8, 1))
        x = FusedBatchNormalization()(inputs)
        heads = [layers.Dense(CLASSES, name=name) for name in ("one", "two")]
        x = Choice(heads, name="head")(layers.Flatten()(x))
        return keras.Model(inputs, layers.Softmax()(x))

    model = quick_auto_model(network(), strategy=DSNAS(until=0.5))
    model.compile(loss=MyLoss(), metrics=[share_of_the_first])
    fit(model, epochs=2)
    expected = np.mean(model.predict(X)[:, 0])
    plain = model.export_model()
    assert_plain(plain)
    for each in (model, plain):
        found = each.evaluate(X, Y, verbose=0, return_dict=True)
        assert found["share_of_the_first"] == pytest.approx(expected, rel=1e-5)
        assert found["loss"] == pytest.approx(
            cross_entropy(model.predict(X), Y), rel=1e-4
        )


@pytest.mark.parametrize("within_a_candidate", [False, True])
def test_a_choice_that_cannot_be_replaced_is_refused_first(within_a_candidate):
    """What a search had learned would be lost when it ends."""
    inputs = keras.Input((64,))
    heads = [layers.Dense(CLASSES, name=name) for name in ("one", "two")]
    head = Wrapped(Choice(heads, name="hidden"), name="around")
    if within_a_candidate:
        head = Choice([layers.Dense(CLASSES), head], name="outer")
    model = quick_auto_model(keras.Model(inputs, head(inputs)))
    with pytest.raises(ValueError, match="custom layer.*'hidden'.*around"):
        fit(model, X.reshape(len(X), -1) / 255, epochs=1)
    assert model.joint is None


def test_a_class_may_have_no_example_and_a_model_may_be_compiled(capsys):
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(CLASSES + 1, activation="softmax"),
        ]
    )
    network.compile("adam", "kl_divergence")
    model = quick_auto_model(network)
    # Nor is what it was compiled with dropped in silence.
    with pytest.warns(UserWarning, match="'kl_divergence'.*of the mod") as said:
        model.fit(X, Y, epochs=1, verbose=2)
    assert said[0].filename == __file__
    assert model.predict(X).shape == (len(X), CLASSES + 1)
    assert "compiled with are not taken over" in capsys.readouterr().out
