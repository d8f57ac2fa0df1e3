"""Validation data, given or split off."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.auto_model.small_runs import BATCH
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import cross_entropy
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import quick_auto_model
from tests.auto_model.small_runs import space


@pytest.mark.parametrize("form", ["arrays", "dataset", "batched"])
def test_forms_of_validation_data(form):
    given = (X_NEW, Y_NEW)
    if form != "arrays":
        given = as_dataset(X_NEW, Y_NEW, 7 if form == "batched" else None)[0]
    model = quick_auto_model(strategy=None)
    history = fit(model, epochs=1, validation_data=given).history
    predicted = model.predict(X_NEW)
    assert history["val_accuracy"] == [
        pytest.approx(np.mean(predicted.argmax(1) == Y_NEW))
    ]
    assert history["val_loss"] == [
        pytest.approx(cross_entropy(predicted, Y_NEW), rel=1e-4)
    ]


@pytest.mark.parametrize("form", ["arrays", "dict", "list"])
def test_the_last_examples_are_split_off_for_validation(form):
    def run(x, y, **kwargs):
        if form == "dict":
            x = {"image": x}
        if form == "list":
            x, y = x.tolist(), y.tolist()
        keras.utils.set_random_seed(0)
        shape = keras.Input(X.shape[1:], name="image")
        network = keras.Model(shape, space(X.shape[1:], CLASSES)(shape))
        model = quick_auto_model(network, strategy=None)
        return fit(model, x, y, epochs=2, **kwargs).history

    found = run(X, Y, validation_split=0.3)
    rest = len(X) - len(X) * 3 // 10 - 1  # as Keras rounds, down
    assert rest == 67
    last = {"image": X[rest:]} if form == "dict" else X[rest:]
    assert found == run(X[:rest], Y[:rest], validation_data=(last, Y[rest:]))


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_validation_has_batches_of_the_size_that_was_given(form):
    """As large a batch as a device has memory for."""

    class Count(keras.callbacks.Callback):
        batches = 0

        def on_test_batch_end(self, batch, logs=None):
            self.batches += 1

    given, count = (X_NEW, Y_NEW), Count()
    if form == "dataset":
        given = as_dataset(X_NEW, Y_NEW, None)[0]
    model = quick_auto_model(strategy=None)
    fit(model, epochs=1, validation_data=given, callbacks=[count])
    assert count.batches == -(-len(X_NEW) // BATCH)


def test_what_is_wrong_in_a_dataset_is_said_before_training():
    # The last of three batches.
    wrong = as_dataset(X_NEW, np.where(np.arange(40) < 39, Y_NEW, 3), 16)[0]
    model, seen = quick_auto_model(strategy=None), []
    steps = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(batch)
    )
    with pytest.raises(ValueError, match=r"classes 0\.\.2.*up to 3"):
        fit(model, epochs=1, validation_data=wrong, callbacks=[steps])
    assert seen == [] and model.joint is None


# Keras says so of all data whose length it does not know.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("return_dict", [False, True])
def test_an_evaluation_without_batches_is_none(fitted, return_dict):
    once = iter([(X_NEW, Y_NEW)])
    given = tf.data.Dataset.from_generator(
        lambda: once,
        output_signature=(
            tf.TensorSpec((None, *X.shape[1:]), "float32"),
            tf.TensorSpec((None,), "int64"),
        ),
    )
    # Once it can be read.
    loss, _ = fitted.evaluate(given)
    assert loss == pytest.approx(fitted.evaluate(X_NEW, Y_NEW)[0], rel=1e-5)
    with pytest.raises(ValueError, match="generator each time.*no batches"):
        fitted.evaluate(given, return_dict=return_dict)
