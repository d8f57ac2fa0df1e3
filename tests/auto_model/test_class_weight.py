"""Weights of classes, against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from keras_dha.auto_model import AutoModel
from keras_dha.joint_step import search_gradient
from keras_dha.losses import OutputLosses
from keras_dha.reward import Reward
from tests.auto_model.directories import EPOCHS
from tests.auto_model.directories import killed
from tests.auto_model.directories import plain
from tests.auto_model.directories import quick
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model

WEIGHTS = {0: 5.0, 2: 0.25}
SMALL = X / 255.0


def as_keras_would(network):
    """An `AutoModel` that does nothing but plain steps."""
    model = AutoModel(
        network,
        augmentation=None,
        hyperparameters=None,
        base_schedule="constant",
        seed=0,
    )
    model.compile(optimizers.SGD(0.5))
    return model


@pytest.mark.parametrize("form", ["integers", "one-hot"])
def test_a_run_is_what_keras_trains(form):
    y = np.eye(CLASSES, dtype="float32")[Y] if form == "one-hot" else Y
    network, expected = plain(), plain()
    expected.set_weights(network.get_weights())
    kind = "categorical_crossentropy"
    expected.compile(
        optimizers.SGD(0.5), kind if form == "one-hot" else f"sparse_{kind}"
    )
    # Batches of all images: their order says nothing.
    run = {"batch_size": len(X), "epochs": 4, "verbose": 0}
    history = expected.fit(SMALL, y, class_weight=WEIGHTS, **run).history
    model = as_keras_would(network)
    found = model.fit(SMALL, y, class_weight=WEIGHTS, **run).history
    np.testing.assert_allclose(found["loss"], history["loss"], rtol=1e-4)
    np.testing.assert_allclose(
        model.predict(SMALL), expected.predict(SMALL, verbose=0), rtol=1e-4
    )
    # Evaluation has no weights, as Keras'.
    np.testing.assert_allclose(
        model.evaluate(SMALL, y, verbose=0)[0],
        expected.evaluate(SMALL, y, verbose=0),
        rtol=1e-4,
    )


def test_each_fit_has_weights_of_its_own(tmp_path):
    model, expected = as_keras_would(plain()), as_keras_would(plain())
    run = {"x": SMALL, "batch_size": len(X), "epochs": 2}
    fit(model, class_weight=WEIGHTS, **run)
    model.save(tmp_path / "run.keras")
    model = AutoModel.load(tmp_path / "run.keras")
    fit(expected, **run)
    weights = model.joint.network.get_weights()
    expected.joint.network.set_weights(weights)
    fit(model, **run)
    fit(expected, **run)
    np.testing.assert_array_equal(model.predict(SMALL), expected.predict(SMALL))


def test_the_search_split_is_weighted_as_well():
    model = joint_auto_model()
    fit(model, epochs=1, class_weight={0: 0.0, 1: 3.0})
    joint = model.joint

    def gradient(label):
        batch = X[Y == label][:8], Y[Y == label][:8]
        return search_gradient(joint, batch).numpy()

    weighted = [gradient(label) for label in range(CLASSES)]
    joint.loss_object.class_weight = None
    alike = [gradient(label) for label in range(CLASSES)]
    assert not weighted[0].any() and alike[0].any()
    np.testing.assert_allclose(weighted[1], 3.0 * alike[1], atol=1e-4)
    np.testing.assert_array_equal(weighted[2], alike[2])


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_what_is_rewarded_is_weighted_as_well(form):
    labels = np.array([0, 1, 2, 0, 2])
    guessed = np.eye(CLASSES)[[0, 1, 2, 2, 1]]
    given = {
        "integers": labels,
        "column": labels[:, None],
        "one-hot": np.eye(CLASSES)[labels],
    }[form]
    loss = OutputLosses(
        [keras.losses.CategoricalCrossentropy()], class_weight=[2.0, 0.0, 0.5]
    )
    found = Reward().of_each(loss, tf.constant(given), tf.constant(guessed))
    np.testing.assert_array_equal(found, [2.0, 0.0, 0.5, 0.0, 0.0])


def test_a_run_that_was_killed_goes_on_with_its_weights(tmp_path, every_epoch):
    killed(quick(tmp_path), 2, class_weight=WEIGHTS)
    model, expected = quick(tmp_path), quick(None)
    for each in (model, expected):
        fit(each, epochs=EPOCHS, class_weight=WEIGHTS)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))


def test_of_several_outputs_it_is_refused():
    inputs = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(inputs)
    network = keras.Model(
        inputs, [keras.layers.Dense(CLASSES)(flat) for _ in range(2)]
    )
    model = as_keras_would(network)
    with pytest.raises(ValueError, match="one output, of which there are 2"):
        fit(model, y=(Y, Y), class_weight=WEIGHTS)
