"""Callbacks, validation and output during `fit`."""

import contextlib
import csv
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorboard.compat.proto import event_pb2

from keras_dha import saving
from keras_dha import trust
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.ranges import Range
from keras_dha.nested_layers import find_layers
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import quick_auto_model


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.events = []
        self.logs = []

    def on_train_begin(self, logs=None):
        self.events.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))

    def on_train_batch_end(self, batch, logs=None):
        self.events.append(f"batch {batch}")

    def on_train_end(self, logs=None):
        self.events.append("end")


class Validation(keras.callbacks.Callback):
    """What a callback is told of validation, and by which model."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_test_begin(self, logs=None):
        self.seen.append(type(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.seen.append(batch)

    def on_test_end(self, logs=None):
        self.seen.append(logs)


def test_callbacks_see_validation_as_in_keras():
    seen = Validation()
    history = fit(
        quick_auto_model(),
        epochs=2,
        callbacks=[seen],
        validation_data=as_dataset(X_NEW, Y_NEW, 16)[0],
    ).history
    told = [
        {name: history[f"val_{name}"][epoch] for name in ("loss", "accuracy")}
        for epoch in range(2)
    ]
    batches = [0, 1, 2]
    assert seen.seen == [
        *(AutoModel, *batches, told[0]),
        *(AutoModel, *batches, told[1]),
    ]


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """One run with callbacks of several kinds and validation data."""
    folder = tmp_path_factory.mktemp("run")
    model, recorder = quick_auto_model(strategy=DSNAS(until=0.5)), Recorder()
    history = fit(
        model,
        callbacks=[
            recorder,
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ],
        validation_data=(X_NEW, Y_NEW),
    )
    return model, history, recorder, folder


def test_callbacks_see_every_epoch_and_batch_once(observed):
    model, history, recorder, _ = observed
    epochs = [[k, *(f"batch {b}" for b in range(6))] for k in range(3)]
    assert recorder.events == ["begin", *itertools.chain(*epochs), "end"]
    assert recorder.model is model
    assert history.epoch == [0, 1, 2]


def test_history_is_what_callbacks_saw(observed):
    _, history, recorder, _ = observed
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert history.history[name] == [logs[name] for logs in recorder.logs]
        assert all(type(v) is float for v in history.history[name])


def test_validation_is_what_evaluate_says(observed):
    model, history, _, _ = observed
    found = model.evaluate(X_NEW, Y_NEW, return_dict=True)
    assert set(found) == {"loss", "accuracy"}
    for name, value in found.items():
        last = history.history[f"val_{name}"][-1]
        assert last == pytest.approx(value, rel=1e-5)


def test_result_holds_the_history(observed):
    model, history, _, _ = observed
    found = model.result.history
    assert set(found) == {*history.history, "phase", "decisions"}
    for name, values in history.history.items():
        assert found[name] == values
    assert found["phase"][0] == "search" and found["phase"][-1] == "train"
    steps = [phase["steps"] for phase in model.result.cost["phases"].values()]
    assert sum(steps) == 18
    parameters = model.export_model().count_params()
    assert model.result.cost["parameters"] == parameters


def test_csv_log(observed):
    _, history, _, folder = observed
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for row, loss in zip(rows, history.history["loss"], strict=True):
        assert float(row["loss"]) == pytest.approx(loss)


def test_the_last_checkpoint_is_the_trained_model(observed):
    model, _, _, folder = observed
    loaded = AutoModel.load(folder / "3.keras")
    np.testing.assert_allclose(
        loaded.predict(X_NEW), model.predict(X_NEW), rtol=1e-5
    )


def test_a_checkpoint_of_the_search_goes_on_searching(observed):
    *_, folder = observed
    loaded = AutoModel.load(folder / "1.keras")
    assert len(find_layers(loaded.joint.network, Choice)) == 2
    assert loaded.predict(X_NEW).shape == (len(X_NEW), CLASSES)
    fit(loaded, epochs=2)
    assert_plain(loaded.joint.network)
    assert set(loaded.result.genotype) == {"choice0", "choice1"}


def test_a_checkpoint_of_the_derived_network_knows_what_was_found(observed):
    model, *_, folder = observed
    loaded = AutoModel.load(folder / "2.keras")
    assert_plain(loaded.joint.network)
    assert loaded.genotype == model.result.genotype
    fit(loaded, epochs=1)
    assert loaded.result.genotype == model.result.genotype
    assert type(loaded.result.genotype) is dict


def test_a_checkpoint_has_no_result_yet(observed):
    folder = observed[-1]
    with pytest.raises(ValueError, match="before `fit` had ended.*1.keras"):
        saving.read_result(folder / "1.keras")
    loaded = AutoModel.load(folder / "1.keras")
    with pytest.raises(ValueError, match="saved in the middle.*to go on"):
        loaded.report(folder / "report.html")


def test_early_stopping_leaves_a_plain_trained_model():
    model = quick_auto_model(strategy=DSNAS(until=0.9))
    stop = keras.callbacks.EarlyStopping("loss", min_delta=99.0, patience=1)
    told = "still searched.* for 90% .*`start_from_epoch`.*after 2 epochs"
    with pytest.warns(UserWarning, match=told):
        history = fit(model, epochs=50, callbacks=stop)  # one needs no list
    assert history.epoch == [0, 1]
    assert_plain(model.export_model())
    assert set(model.result.genotype) == {"choice0", "choice1"}
    # The flag is the callback's word for that fit only.
    assert fit(model, epochs=3).epoch == [0, 1, 2]


@pytest.mark.parametrize("monitor", ["val_accuracy", "accuracy"])
def test_callbacks_know_that_more_accuracy_is_better(monitor, tmp_path):
    model = quick_auto_model()
    assert model.metrics == []
    stop = keras.callbacks.EarlyStopping(monitor, patience=9)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.keras", monitor, save_best_only=True
    )
    history = fit(
        model, callbacks=[stop, best], validation_data=(X_NEW, Y_NEW)
    ).history
    assert stop.best == best.best == max(history[monitor])
    assert model.metrics[0].name == "loss"


class Stopping(keras.callbacks.Callback):
    """Ends the run after a batch, and is ended itself before it if asked."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def on_train_begin(self, logs=None):
        if self.error:
            raise self.error

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 1


def test_stopping_after_a_batch():
    model, recorder = quick_auto_model(), Recorder()
    with pytest.warns(UserWarning, match="architecture was still searched"):
        history = fit(model, callbacks=[Stopping(), recorder])
    assert recorder.events == ["begin", 0, "batch 0", "batch 1", "end"]
    assert history.epoch == [0]
    assert_plain(model.export_model())


@pytest.mark.parametrize("epochs, is_told", [(1, True), (4, False)])
def test_stopping_before_augmentation_fades_out(epochs, is_told):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch + 1 == epochs

    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    model = AutoModel(keras.Model(inputs, outputs), hyperparameters=None)
    told = contextlib.nullcontext()
    if is_told:
        told = pytest.warns(UserWarning, match="as ever.* for 6.% .* at 20% of")
    with told:
        history = fit(model, epochs=5, callbacks=[Stop()])
    assert history.epoch == list(range(epochs))


@pytest.mark.parametrize("steps", [3, 10])
def test_interrupted_after_the_network_was_derived(steps, tmp_path):
    """In the epoch in which it was; what goes on is the plain network."""

    class Interrupting(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 40:
                raise KeyboardInterrupt

    model = quick_auto_model(strategy=DSNAS(until=0.5))
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=1, steps_per_epoch=60, callbacks=Interrupting())
    assert not model.joint.architecture.is_searched
    assert int(model.joint.step) == 41
    found = model.genotype
    assert set(found) == {"choice0", "choice1"}
    with pytest.raises(ValueError, match="ended.* was interrupted.* to go on"):
        _ = model.result
    model.save(tmp_path / "run.keras")
    for each in (model, AutoModel.load(tmp_path / "run.keras")):
        fit(each, epochs=1, steps_per_epoch=steps)
        assert int(each.joint.step) == 41 + steps
        assert set(each.result.cost["phases"]) <= {"train", "tracing"}
        assert each.result.genotype == each.genotype == found


def test_a_first_fit_that_took_no_step_was_none():
    expected = quick_auto_model()
    fit(expected, epochs=1)
    model = quick_auto_model()
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=1, callbacks=[Stopping(KeyboardInterrupt())])
    model.compile(metrics=["accuracy"])
    fit(model, epochs=1)
    np.testing.assert_array_equal(model.predict(X_NEW), expected.predict(X_NEW))


class Interrupting(keras.callbacks.Callback):
    """Interrupts a run after its second step."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


def test_a_further_fit_that_is_interrupted_has_no_result(tmp_path):
    model = quick_auto_model(strategy=None)
    fit(model, epochs=1)
    first = model.result
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=1, callbacks=[Stopping(KeyboardInterrupt())])
    # There was no step: it is what it was.
    assert model.result == first
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=2, callbacks=[Interrupting()])
    model.save(tmp_path / "run.keras")
    for each in (model, AutoModel.load(tmp_path / "run.keras")):
        with pytest.raises(ValueError, match="was interrupted.* to go on"):
            _ = each.result
    fit(model, epochs=2)
    assert len(model.result.history["loss"]) == 2


def test_a_checkpoint_of_a_further_fit_has_no_result_yet(tmp_path):
    model = quick_auto_model(strategy=None)
    fit(model, epochs=1)
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, epochs=2, callbacks=[keep])
    with pytest.raises(ValueError, match="before `fit` had ended.*1.keras"):
        saving.read_result(tmp_path / "1.keras")
    assert len(model.result.history["loss"]) == 2


class Adding(keras.callbacks.Callback):
    """Adds to the logs what JSON does not know."""

    def on_epoch_end(self, epoch, logs=None):
        logs["array"] = np.float32(epoch)
        logs["tensor"] = keras.ops.convert_to_tensor(epoch + 0.5)
        logs["words"], logs["nothing"] = "fair", None
        logs["object"] = {1, 2}


def test_what_callbacks_add_to_the_logs_is_kept(tmp_path):
    model = quick_auto_model(strategy=None, directory=tmp_path)
    history = fit(model, epochs=2, callbacks=[Adding()]).history
    assert history["object"] == [{1, 2}] * 2
    found = saving.read_result(tmp_path / "run.keras").history
    assert found["array"] == [0.0, 1.0]
    assert found["tensor"] == [0.5, 1.5]
    assert found["words"] == ["fair"] * 2
    assert found["nothing"] == [None] * 2
    assert found["object"] == ["{1, 2}"] * 2


def test_tensorboard_gets_the_logs(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path, update_freq="batch")
    fit(
        quick_auto_model(strategy=None),
        epochs=2,
        callbacks=board,
        validation_data=(X_NEW, Y_NEW),
    )
    (written,) = (tmp_path / "train").glob("events*")
    names = set()
    for record in tf.data.TFRecordDataset(str(written)):
        event = event_pb2.Event.FromString(record.numpy())
        names |= {value.tag for value in event.summary.value}
    assert {"epoch_loss", "epoch_accuracy", "batch_loss"} <= names


def restoring_callback(patience=9):
    """Goes back to the epoch of the highest loss, which is the first."""
    return keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=patience, restore_best_weights=True
    )


def test_early_stopping_restores_the_weights_of_an_epoch():
    model, seen = quick_auto_model(strategy=None), []

    class Weights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())

    restore = restoring_callback()
    fit(model, callbacks=[Weights(), restore])
    assert restore.best_epoch == 0
    for ours, theirs in zip(model.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("patience, epochs", [(9, 3), (1, 2)])
def test_a_network_without_choices_delivers_the_weights_of_an_epoch(
    patience, epochs
):
    """With the strategy that is there by default, and stopped early or not."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs))
    x = layers.Flatten()(layers.ReLU()(layers.BatchNormalization()(x)))
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    model = quick_auto_model(keras.Model(inputs, outputs))
    seen = []

    class Predictions(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.predict(X_NEW))

    restore = restoring_callback(patience)
    fit(model, callbacks=[Predictions(), restore])
    assert restore.best_epoch == 0 and len(seen) == epochs
    assert not np.allclose(seen[0], seen[-1], atol=1e-3)
    for delivered in (model, model.export_model()):
        np.testing.assert_allclose(
            delivered.predict(X_NEW, verbose=0), seen[0], rtol=1e-5
        )


def test_tensorboard_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: {"tensorboard": None}[name]
    )
    with pytest.raises(ValueError, match="pip install tensorboard"):
        fit(
            quick_auto_model(strategy=None),
            callbacks=keras.callbacks.TensorBoard(tmp_path),
        )


def test_callbacks_begin_before_the_range_test(tmp_path, monkeypatch):
    begun, test_range = [], trust.test_range

    class Beginning(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append(self.model.result.hyperparameters["learning_rate"])

    def look(*arguments):
        assert len(begun) == 1
        return test_range(*arguments)

    monkeypatch.setattr(trust, "test_range", look)
    model = quick_auto_model(
        strategy=None, hyperparameters={"learning_rate": Range(1e-3, 0.2)}
    )
    written = keras.callbacks.CSVLogger(tmp_path / "nowhere" / "log.csv")
    with pytest.raises(FileNotFoundError):
        fit(model, epochs=1, callbacks=[Beginning(), written])
    assert model.joint is None
    begun.clear()
    fit(model, epochs=1, callbacks=[Beginning()])
    (before,) = begun
    # The record is of where the range test has put it.
    found = model.result.hyperparameters["learning_rate"]
    assert before["value"] == before["start"] != found["start"]


# Its package is not needed to refuse it, and Keras has not always had it.
ORBAX = getattr(
    keras.callbacks, "OrbaxCheckpoint", keras.callbacks.BackupAndRestore
)


@pytest.mark.parametrize(
    "callback, message",
    [
        (
            restoring_callback(),
            "do not fit.*restore_best_weights=False.*strategy=None",
        ),
        (keras.callbacks.ReduceLROnPlateau(), "learning rate is learned"),
        (
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate),
            "learning rate is learned.*LearningRateScheduler",
        ),
        (keras.callbacks.BackupAndRestore("there"), "directory="),
        (ORBAX.__new__(ORBAX), "directory="),
        (keras.callbacks.ProgbarLogger(), "bar of its own.*ProgbarLogger"),
        (keras.callbacks.SwapEMAWeights(), "averages weights"),
        (keras.callbacks.TerminateOnNaN(), "sets a divergence back"),
        (
            keras.callbacks.ModelCheckpoint(
                "1.weights.h5", save_weights_only=True
            ),
            "saved whole.*ModelCheckpoint",
        ),
        (
            keras.callbacks.ModelCheckpoint("best.h5"),
            "ends in '.keras'.*ModelCheckpoint",
        ),
        *(
            (keras.callbacks.TensorBoard(**{name: 1}), "leave out.*TensorBoard")
            for name in (
                "histogram_freq",
                "embeddings_freq",
                "write_steps_per_second",
            )
        ),
        ("early stopping", "must be Keras callbacks.*str"),
    ],
)
def test_callbacks_that_a_run_could_not_honour(callback, message):
    model = quick_auto_model()
    with pytest.raises(ValueError, match=message):
        fit(model, callbacks=[callback])


@pytest.mark.parametrize("verbose", [0, 2])
def test_verbose(verbose, capsys):
    model = quick_auto_model(strategy=DSNAS(until=0.5))
    fit(model, epochs=2, verbose=verbose)
    captured = capsys.readouterr()
    if verbose == 0:
        assert (captured.out, captured.err) == ("", "")
        return
    assert "Epoch 1/2" in captured.out
    assert "Epoch 2/2" in captured.out
    assert captured.out.count("accuracy: ") == 2
    for gene in model.result.genotype.values():
        assert gene["choice"] in captured.out
