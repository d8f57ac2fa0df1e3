"""Evaluating, predicting and exporting, recomputed with NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import cross_entropy
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import quick_auto_model


def test_predictions_are_not_augmented(fitted):
    first = fitted.predict(X_NEW)
    np.testing.assert_array_equal(fitted.predict(X_NEW), first)
    plain = fitted.export_model()
    # Another graph, and other sizes of batch, may round otherwise.
    for other in (
        plain.predict(X_NEW, verbose=0),
        fitted.predict(X_NEW, batch_size=7),
    ):
        np.testing.assert_allclose(other, first, rtol=1e-5)
    assert first.dtype == np.float32


def test_predictions_for_datasets(fitted):
    expected = fitted.predict(X_NEW)
    for dataset in (
        as_dataset(X_NEW, Y_NEW, 8)[0],
        tf.data.Dataset.from_tensor_slices(X_NEW).batch(8),
        tf.data.Dataset.from_tensor_slices(X_NEW),
        as_dataset(X_NEW, Y_NEW)[0],
    ):
        np.testing.assert_allclose(fitted.predict(dataset), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "x, hint",
    [
        (X_NEW[0], r"x\[None\]"),
        (X_NEW[:, :3], r"\(None, 8, 8, 1"),
        (tf.data.Dataset.from_tensor_slices(X_NEW[:, :3]), r"\(None, 8, 8, 1"),
    ],
)
def test_what_cannot_be_predicted_for_is_refused(fitted, x, hint):
    with pytest.raises(ValueError, match=f"Expected examples.*{hint}"):
        fitted.predict(x)


def test_what_does_not_end_is_refused(fitted):
    endless = as_dataset(X_NEW, Y_NEW, 8)[0].repeat()
    for use in (fitted.evaluate, fitted.predict):
        with pytest.raises(ValueError, match=r"must end.*take\(n\)"):
            use(endless)


def test_evaluation_is_that_of_the_predictions(fitted):
    predicted = fitted.predict(X_NEW)
    loss, accuracy = fitted.evaluate(X_NEW, Y_NEW)
    assert loss == pytest.approx(cross_entropy(predicted, Y_NEW), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(predicted.argmax(1) == Y_NEW))
    assert fitted.evaluate(X_NEW, Y_NEW) == [loss, accuracy]


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_nobody_waits_for_an_autotuner(fitted, monkeypatch, form):
    seen = []
    network = fitted.joint.network

    def kept(function):
        def called(x, *args, **kwargs):
            seen.append(x)
            return function(x, *args, **kwargs)

        return called

    for name in ("predict", "evaluate"):
        monkeypatch.setattr(network, name, kept(getattr(network, name)))
    given = (X_NEW, Y_NEW)
    if form == "dataset":
        given = as_dataset(X_NEW, Y_NEW, 7)
    fitted.predict(given[0])
    fitted.evaluate(*given)
    assert [x.options().autotune.enabled for x in seen] == [False, False]


def test_arrays_stay_in_the_memory_of_the_host(fitted, monkeypatch):
    """The second logical processor stands in for a GPU."""
    sliced, devices = tf.data.Dataset.from_tensor_slices, []

    def noted(arrays):
        devices.append(tf.constant(0.0).device)
        return sliced(arrays)

    expected = fitted.predict(X_NEW)
    monkeypatch.setattr(tf.data.Dataset, "from_tensor_slices", noted)
    with tf.device("CPU:1"):
        np.testing.assert_allclose(fitted.predict(X_NEW), expected, rtol=1e-5)
    assert [device[-5:] for device in devices] == ["CPU:0"]


def test_datasets_come_in_batches_of_the_size_that_is_asked_for(fitted):
    sizes = []

    class Sizes(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            sizes.append(len(logs["outputs"]))

    given = as_dataset(X_NEW, Y_NEW)[0]
    found = fitted.predict(given, batch_size=16, callbacks=[Sizes()])
    assert sizes == [16, 16, 8]
    np.testing.assert_allclose(found, fitted.predict(X_NEW), rtol=1e-5)
    batched, _ = as_dataset(X_NEW, Y_NEW, 7)
    for call in (fitted.predict, fitted.evaluate):
        with pytest.raises(ValueError, match="batches of its own.*=16"):
            call(batched, batch_size=16)


@pytest.mark.parametrize("form", ["arrays", "endless"])
def test_so_many_steps_are_taken(fitted, form):
    class Count(keras.callbacks.Callback):
        batches = 0

        def on_test_batch_end(self, batch, logs=None):
            self.batches += 1

    given, size, count = (X_NEW, Y_NEW), 8, Count()
    if form == "endless":
        endless, nothing = as_dataset(X_NEW, Y_NEW, 8)
        given, size = (endless.repeat(), nothing), None
    found = fitted.evaluate(*given, size, steps=2, callbacks=[count])
    assert count.batches == 2
    expected = fitted.evaluate(X_NEW[:16], Y_NEW[:16])
    assert found == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        fitted.predict(given[0], size, steps=2),
        fitted.predict(X_NEW[:16]),
        rtol=1e-5,
    )


def test_saved_model_agrees_with_predict(fitted, tmp_path):
    fitted.export(tmp_path / "model" / "1")
    served = tf.saved_model.load(str(tmp_path / "model" / "1"))
    np.testing.assert_allclose(
        served.serve(X_NEW), fitted.predict(X_NEW), atol=1e-5
    )


def test_litert_agrees_with_predict(fitted, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    fitted.export(tmp_path / "model.tflite", format="litert")
    net = interpreter.Interpreter(model_path=str(tmp_path / "model.tflite"))
    run = net.get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    served = [
        next(iter(run(**{name: image[None]}).values()))[0]
        for image in X_NEW[:8]
    ]
    np.testing.assert_allclose(served, fitted.predict(X_NEW[:8]), atol=1e-5)


def test_summary_shows_the_network(fitted, capsys):
    fitted.summary()
    out = capsys.readouterr().out
    for gene in fitted.result.genotype.values():
        assert gene["choice"] in out


class Interrupted(keras.callbacks.Callback):
    """Ends a run in its search."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("target", [None, {"params": 1e5}])
def test_a_search_that_has_not_ended_is_not_exported_in_silence(target):
    model = quick_auto_model(target=target)
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=1, callbacks=[Interrupted()])
    if target:
        with pytest.raises(ValueError, match="may not be within.*params"):
            model.export_model()
        return
    with pytest.warns(UserWarning, match="has not ended"):
        assert_plain(model.export_model())
