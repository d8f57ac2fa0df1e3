"""Whatever form the data have, the numbers are those of a reference run."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha import data
from keras_dha import preparation
from keras_dha.architecture import spaces
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel
from keras_dha.batches import StreamBatches
from keras_dha.hyperparameters.ranges import Range
from keras_dha.search_space import space_builder
from tests.auto_model.small_runs import BATCH
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import cross_entropy
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import quick_auto_model


@functools.cache
def reference_losses():
    history = fit(quick_auto_model(), shuffle=False, epochs=2)
    return history.history["loss"]


FORMS = {
    "uint8": (X.astype("uint8"), Y),
    "float64": (X.astype("float64"), Y.astype("int32")),
    "rank 3": (X[..., 0], Y),
    "column of labels": (X, Y[:, None]),
    "one-hot": (X, np.eye(CLASSES, dtype="float32")[Y]),
    "dataset": as_dataset(X, Y),
    "dataset of bytes": as_dataset(X.astype("uint8"), Y.astype("uint8")),
    "dataset of rank 3": as_dataset(X[..., 0], Y),
    "batched": as_dataset(X, Y, BATCH),
    "other batches": as_dataset(X, Y, 10),
    "batched one-hot": as_dataset(X, np.eye(CLASSES)[Y], BATCH),
    "one-hot dataset": as_dataset(X, np.eye(CLASSES)[Y]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_data_gives_the_same_run(form):
    x, y = FORMS[form]
    model = quick_auto_model()
    history = fit(model, x, y, shuffle=False, epochs=2)
    np.testing.assert_allclose(
        history.history["loss"], reference_losses(), rtol=1e-4
    )
    given = X[..., 0] if "rank 3" in form else X
    predicted = model.predict(given)
    assert predicted.shape == (len(X), CLASSES)
    loss, accuracy = model.evaluate(x, y)
    assert loss == pytest.approx(cross_entropy(predicted, Y), rel=1e-4)
    assert accuracy == pytest.approx(np.mean(predicted.argmax(1) == Y))


def test_an_endless_dataset():
    endless = as_dataset(X, Y, BATCH)[0].repeat()
    model = quick_auto_model()
    history = fit(
        model, endless, None, epochs=2, steps_per_epoch=6, batch_size=None
    )
    np.testing.assert_allclose(
        history.history["loss"], reference_losses(), rtol=1e-5
    )


@pytest.mark.parametrize("has_range", [False, True])
def test_a_label_that_the_first_epoch_did_not_have(has_range):
    """In the range test, or in a step behind those that were looked at."""
    order = np.argsort(Y == 2, kind="stable")
    endless = as_dataset(X[order], np.where(Y < 2, Y, 9)[order], BATCH)[0]
    rate = Range(1e-3, 0.2) if has_range else 0.05
    model = quick_auto_model(
        strategy=None, hyperparameters={"learning_rate": rate}
    )
    told = r"classes 0\.\.1.*one-hot labels.*Received: label 9$"
    with pytest.raises(ValueError, match=told):
        fit(model, endless.repeat(), None, batch_size=None, steps_per_epoch=3)


def test_a_label_of_no_class_is_said_in_an_evaluation(fitted):
    wrong = as_dataset(X, Y + 1, BATCH)[0]
    with pytest.raises(ValueError, match=r"classes 0\.\.2.*Received: label 3$"):
        fitted.evaluate(wrong)


@pytest.mark.parametrize("batch_size", [BATCH, 300])
def test_an_epoch_of_an_endless_dataset_is_its_steps(batch_size):
    """However many of its images were looked at."""
    for endless in (as_dataset(X, Y)[0], as_dataset(X, Y, BATCH)[0]):
        spec, training, _, summary = preparation.prepare(
            *(quick_auto_model().settings, None, None, 1),
            *(endless.repeat(), None, batch_size, True, 6, None),
        )
        assert summary is None
        assert spec.count == training.count == 6 * batch_size
        assert training.steps == 6 and training.is_endless


@pytest.mark.parametrize("is_endless", [True, False])
def test_a_second_fit_does_not_read_all_of_an_endless_dataset(
    monkeypatch, is_endless
):
    begun, opened = [], StreamBatches.dataset

    def dataset(self, step=0):
        begun.append(step)
        return opened(self, step)

    monkeypatch.setattr(StreamBatches, "dataset", dataset)
    given = as_dataset(X, Y)[0]
    if is_endless:
        given = given.repeat()
    model = quick_auto_model(strategy=None)
    for _ in range(2):
        fit(model, given, None, epochs=1, steps_per_epoch=4)
    assert set(begun) == ({0} if is_endless else {0, 4})


def test_defaults_on_images_without_channels():
    small = functools.partial(spaces.resnet, width=4, stages=1)
    model = AutoModel(small, seed=0)
    history = model.fit(X[..., 0].astype("uint8"), Y, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert_plain(model.export_model())
    assert model.predict(X[:2, ..., 0]).shape == (2, CLASSES)
    assert set(model.result.policy.operations) >= {"Rotate", "Invert"}
    learned = model.result.hyperparameters
    assert learned["learning_rate"]["learned"]
    assert set(model.result.genotype) == {"stage1_block1"}
    np.testing.assert_allclose(model.predict(X[..., 0]).sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["auto", "resnet"])
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_named_space_takes_shape_classes_and_range_of_the_data(name, shape):
    x = 16.0 * np.random.default_rng(0).random((20, *shape))
    spec = data.inspect(x, np.arange(20) % 4)
    network = space_builder(name)(spec)
    assert network.input_shape == (None, *shape)
    assert network.output_shape == (None, 4)
    lowest_highest = network.get_layer("scale")(np.array([0.0, 16.0]))
    np.testing.assert_allclose(lowest_highest, [-1.0, 1.0], atol=1e-6)


def test_an_output_that_is_a_choice_is_called_by_its_name():
    """Its layer is that of the candidate, once the search has ended."""

    def chosen_head(shape, num_classes):
        inputs = keras.Input(shape)
        heads = [
            layers.Dense(num_classes["kind"], activation="softmax", name=name)
            for name in "pq"
        ]
        x = layers.Flatten()(inputs)
        return keras.Model(inputs, Choice(heads, name="kind")(x))

    model = quick_auto_model(chosen_head, strategy=DSNAS(until=0.5))
    y = {"kind": Y}
    fit(model, y=y, epochs=2, validation_data=(X_NEW, {"kind": Y_NEW}))
    assert model.evaluate(X_NEW, {"kind": Y_NEW}) == model.evaluate(
        X_NEW, Y_NEW
    )
