"""A run in a directory: killed at any moment, it goes on as if it had not."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import layers
from keras import optimizers

from keras_dha import AutoModel
from keras_dha import Range
from keras_dha import run_directory
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.augmentation.layer import DifferentiableAugmentation
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import space
from tests.test_pace import Clock
from tests.test_pace import set_clock

EPOCHS = 8
# What does not diverge in so many epochs, though it spends them at its bound.
SLOW = {
    "learning_rate": Range(1e-3, 0.05, start=0.02),
    "weight_decay": Range(1e-5, 1e-2),
}


class Killed(BaseException):
    """What no code of a run expects."""


class Kill(keras.callbacks.Callback):
    """Ends a run in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            raise Killed


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """Checkpoints after every epoch, whatever they cost."""
    monkeypatch.setattr(run_directory, "_SHARE", 1e9)


def plain(shape=(8, 8, 1), units=CLASSES):
    """A network that is quick to train, made anew each time."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(units, activation="softmax"),
        ]
    )


def quick(directory, network=None, optimizer=None, **kwargs):
    arguments = {
        "augmentation": None,
        "hyperparameters": {"learning_rate": 0.01},
        "seed": 1,
        **kwargs,
    }
    model = AutoModel(network or plain, directory=directory, **arguments)
    if optimizer is not None:
        model.compile(optimizer)
    return model


def joint(directory):
    return joint_auto_model(directory=directory, hyperparameters=SLOW)


def killed(model, epoch, epochs=EPOCHS, **kwargs):
    with pytest.raises(Killed):
        fit(model, epochs=epochs, callbacks=[Kill(epoch)], **kwargs)


def names(directory):
    return sorted(path.name for path in pathlib.Path(directory).iterdir())


@pytest.fixture(scope="module")
def whole():
    """A run that nobody stopped, and its history."""
    model = joint_auto_model(hyperparameters=SLOW)
    return model, fit(model, epochs=EPOCHS).history


@pytest.mark.filterwarnings("ignore:`learning_rate` spent")
def test_it_goes_on_to_the_same_losses_in_every_phase(whole, tmp_path):
    expected, history = whole
    phases = expected.result.history["phase"]
    # In the first epoch, the search, the epoch that derives, and after it.
    for epoch in (0, 2, 3, 6):
        killed(joint(tmp_path / "run"), epoch)
    assert {"search", "train"} <= {phases[k] for k in (1, 2, 5)}
    model = joint(tmp_path / "run")
    ours = fit(model, epochs=EPOCHS).history
    assert set(ours) == set(history)
    for name, values in history.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    theirs = expected.result
    assert model.result.genotype == theirs.genotype
    assert model.result.policy == theirs.policy
    assert model.result.hyperparameters == theirs.hyperparameters
    assert model.result.history == theirs.history
    assert model.history.epoch == list(range(EPOCHS))


def test_what_a_directory_holds(tmp_path):
    path = tmp_path / "run"
    killed(quick(path), 4)
    assert names(path) == [
        "checkpoint-0003.keras",
        "checkpoint-0004.keras",
        "configuration.json",
        "result.json",
    ]
    found = json.loads((path / "result.json").read_text())
    assert len(found["history"]["loss"]) == 4
    model = quick(path)
    fit(model, epochs=EPOCHS)
    assert names(path) == ["configuration.json", "result.json", "run.keras"]
    text = (path / "result.json").read_text()
    assert json.loads(text)["history"] == model.result.history
    loaded = AutoModel.load(path / "run.keras")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_a_run_that_has_ended_is_loaded(tmp_path, capsys):
    first = quick(tmp_path)
    history = fit(first, epochs=2).history
    again = quick(tmp_path)
    returned = fit(again, epochs=2, verbose=2, callbacks=[Kill(0)])
    assert "has ended before" in capsys.readouterr().out
    assert returned.history["loss"] == history["loss"]
    assert returned.epoch == [0, 1]
    np.testing.assert_array_equal(again.predict(X), first.predict(X))
    assert again.result == first.result


def test_it_is_said_where_a_run_goes_on(tmp_path, capsys):
    killed(quick(tmp_path), 2)
    fit(quick(tmp_path), epochs=EPOCHS, verbose=2)
    shown = capsys.readouterr().out
    assert "Goes on after epoch 2" in shown
    assert "Epoch 3/8" in shown and "Epoch 2/8" not in shown


def test_what_callbacks_add_to_the_logs_goes_on(tmp_path):
    def adding():
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: logs.update(lr=np.float32(epoch))
        )

    with pytest.raises(Killed):
        fit(quick(tmp_path), epochs=EPOCHS, callbacks=[adding(), Kill(3)])
    found = json.loads((tmp_path / "result.json").read_text())["history"]
    assert found["lr"] == [0.0, 1.0, 2.0]
    model = quick(tmp_path)
    history = fit(model, epochs=EPOCHS, callbacks=[adding()]).history
    assert history["lr"] == list(range(EPOCHS))
    assert {len(values) for values in history.values()} == {EPOCHS}
    assert model.result.history["lr"] == list(range(EPOCHS))


def test_without_a_seed_that_of_the_run_goes_on(tmp_path):
    killed(quick(tmp_path, seed=None), 2)
    seed = json.loads((tmp_path / "configuration.json").read_text())["seed"]
    model = quick(tmp_path, seed=None)
    fit(model, epochs=EPOCHS)
    expected = quick(None, seed=seed)
    fit(expected, epochs=EPOCHS)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))


@pytest.mark.parametrize(
    "model, run, name",
    [
        ({}, {"epochs": 9}, "epochs: 8 there, 9 now"),
        ({"seed": 2}, {}, "seed: 1 there, 2 now"),
        ({"hyperparameters": None}, {}, "hyperparameters: "),
        ({"network": plain(units=4)}, {}, "search_space: "),
        ({"optimizer": "nesterov"}, {}, "optimizer: "),
        # Its rule is that of the default.
        (
            {"optimizer": optimizers.SGD(0.01)},
            {},
            "optimizer.momentum: null there, 0.0",
        ),
        ({}, {"batch_size": 24}, "batch_size: 16 there, 24 now"),
        ({}, {"x": X + 1.0}, "x: float32"),
        ({}, {"y": (Y + 1) % CLASSES}, "y: int64"),
        (
            {"hyperparameters": SLOW},
            {"search_data": (X, Y)},
            "search_data: None there",
        ),
    ],
)
def test_another_run_is_refused_and_nothing_is_lost(tmp_path, model, run, name):
    killed(quick(tmp_path), 2)
    before = names(tmp_path)
    with pytest.raises(ValueError, match=f"asked for otherwise.*{name}"):
        fit(quick(tmp_path, **model), **{"epochs": EPOCHS, **run})
    assert names(tmp_path) == before
    # What is alike but for the names that Keras counts goes on.
    fit(quick(tmp_path), epochs=EPOCHS)


@pytest.mark.parametrize(
    "now, name",
    [
        (optimizers.SGD(0.02), "learning_rate: 0.01 there, 0.02 now"),
        (optimizers.SGD(0.01, momentum=0.5), "momentum: 0.0 there, 0.5 now"),
        (
            optimizers.SGD(0.01, weight_decay=1e-3),
            "weight_decay: 0.0 there, 0.001 now",
        ),
        (
            optimizers.SGD(optimizers.schedules.CosineDecay(0.01, 9)),
            "base_schedule: ",
        ),
        (None, "learning_rate: 0.01 there, null now"),
    ],
)
def test_an_optimizer_is_known_by_its_numbers(tmp_path, now, name):
    def model(optimizer):
        return quick(tmp_path, hyperparameters=None, optimizer=optimizer)

    killed(model(optimizers.SGD(0.01)), 2)
    with pytest.raises(ValueError, match=f"asked for otherwise.*{name}"):
        fit(model(now), epochs=EPOCHS)
    fit(model(optimizers.SGD(0.01)), epochs=EPOCHS)
    assert names(tmp_path) == ["configuration.json", "result.json", "run.keras"]


@pytest.mark.parametrize(
    "given",
    [
        lambda: {
            "network": space((8, 8, 1), CLASSES),
            "strategy": DSNAS(until=0.5),
        },
        lambda: {
            "network": space((8, 8, 1), CLASSES),
            "strategy": ISTA(until=0.5),
        },
        lambda: {
            "augmentation": DifferentiableAugmentation(["Invert"], levels=2)
        },
    ],
    ids=["network", "network with codes", "augmentation"],
)
def test_what_was_given_once_may_be_given_again(tmp_path, given):
    """As in a cell of a notebook that is run again."""
    given = given()
    # In the search, and once the network was derived.
    for epoch in (1, 3):
        killed(quick(tmp_path, **given), epoch, epochs=4)
    history = fit(quick(tmp_path, **given), epochs=4).history
    assert len(history["loss"]) == 4
    again = fit(quick(tmp_path, **given), epochs=4, callbacks=[Kill(0)])
    assert again.history["loss"] == history["loss"]


def test_lists_are_known_by_the_arrays_that_they_make(tmp_path):
    lists = {"x": list(X), "y": Y.tolist()}
    killed(quick(tmp_path), 2, **lists)
    with pytest.raises(ValueError, match="asked for otherwise.*y: int64"):
        fit(quick(tmp_path), X, [*Y[1:].tolist(), 0], epochs=EPOCHS)
    seen = fit(quick(tmp_path), epochs=EPOCHS).history["loss"]
    assert seen == fit(quick(None), **lists, epochs=EPOCHS).history["loss"]
    assert fit(quick(tmp_path), **lists, epochs=EPOCHS).history["loss"] == seen


def test_search_data_may_be_lists(tmp_path):
    def fitted(*search_data):
        learned = {"learning_rate": 1e-4, "weight_decay": Range(1e-5, 1e-2)}
        model = quick(tmp_path, hyperparameters=learned)
        fit(model, epochs=1, search_data=search_data)

    images, labels = X.tolist(), Y.tolist()
    for _ in range(2):
        fitted(images, labels)
    labels[-1] = (labels[-1] + 1) % CLASSES
    with pytest.raises(ValueError, match="asked for otherwise.*search_data: "):
        fitted(images, labels)


def go_on(directory, dataset):
    model = quick(directory)
    fit(model, dataset, None, epochs=EPOCHS, batch_size=None)
    assert model.history.epoch == list(range(EPOCHS))
    return model


def test_what_is_measured_of_a_dataset_may_differ(tmp_path):
    """As of one that is shuffled, or changed at random, in part of it."""

    def dataset(highest):
        return as_dataset(X * (highest / 255), Y, 16)[0]

    killed(quick(tmp_path), 2, x=dataset(0.25), y=None, batch_size=None)
    model = go_on(tmp_path, dataset(0.375))
    # What goes on is the run that began with the first.
    for each in (model, AutoModel.load(tmp_path / "run.keras")):
        assert each._spec.value_range == pytest.approx((0.0, 0.25))
    with pytest.raises(ValueError, match="asked for otherwise.*x: "):
        go_on(tmp_path, dataset(0.25).map(lambda x, y: (x[:, :4], y)))


def test_a_dataset_may_show_fewer_classes_than_before(tmp_path):
    three, two = (as_dataset(X / 255, y, 16)[0] for y in (Y, Y % 2))
    killed(quick(tmp_path / "a"), 2, x=three, y=None, batch_size=None)
    assert go_on(tmp_path / "a", two).predict(X).shape[1] == CLASSES
    killed(quick(tmp_path / "b"), 2, x=two, y=None, batch_size=None)
    with pytest.raises(ValueError, match="classes 0..1.*up to 2"):
        go_on(tmp_path / "b", three)


def test_a_function_is_known_by_what_it_builds(tmp_path):
    def builds(units):
        return lambda shape, classes: keras.Sequential(
            [plain(shape, units), layers.Dense(classes, "softmax")]
        )

    killed(quick(tmp_path, builds(5)), 2)
    fit(quick(tmp_path, builds(5)), epochs=EPOCHS)
    with pytest.raises(ValueError, match="search_space"):
        fit(quick(tmp_path, builds(6)), epochs=EPOCHS)


def test_overwrite_begins_anew(tmp_path):
    killed(quick(tmp_path), 3)
    model = quick(tmp_path, seed=2, overwrite=True)
    seen = fit(model, epochs=2).history["loss"]
    assert seen == fit(quick(None, seed=2), epochs=2).history["loss"]
    assert names(tmp_path) == ["configuration.json", "result.json", "run.keras"]
    # It is that run's from now on.
    with pytest.raises(ValueError, match="asked for otherwise"):
        fit(quick(tmp_path), epochs=EPOCHS)


def test_a_run_that_fails_at_once_leaves_nothing_and_loses_nothing(tmp_path):
    def failing(shape, classes):
        raise RuntimeError("no network")

    path = tmp_path / "run"
    with pytest.raises(RuntimeError):
        fit(quick(path, failing))
    assert names(path) == []
    killed(quick(path), 2)
    before = names(path)
    killed(quick(path, seed=5, overwrite=True), 0)
    assert names(path) == before
    fit(quick(path), epochs=EPOCHS)


def test_half_a_checkpoint_is_left_for_the_one_before(tmp_path):
    expected = fit(quick(None), epochs=EPOCHS).history["loss"]
    killed(quick(tmp_path), 3)
    newest = tmp_path / "checkpoint-0003.keras"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="from checkpoint-0002.keras"):
        seen = fit(quick(tmp_path), epochs=EPOCHS).history["loss"]
    assert seen == expected


def test_where_no_checkpoint_can_be_read(tmp_path):
    killed(quick(tmp_path), 3)
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"none")
    before = names(tmp_path)
    with pytest.raises(ValueError, match="No checkpoint .* can be read"):
        fit(quick(tmp_path), epochs=EPOCHS)
    assert names(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{}", '{"asked": {}}', "[]", "\udcff"])
def test_a_configuration_that_is_none(tmp_path, text):
    path = tmp_path / "configuration.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="configuration .* cannot be read"):
        fit(quick(tmp_path))


def test_a_directory_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="empty, missing, or that of a"):
            fit(quick(tmp_path, overwrite=overwrite))
    with pytest.raises(ValueError, match="empty, missing, or that of a"):
        fit(quick(tmp_path / "photo.jpg"))
    assert names(tmp_path) == ["photo.jpg"]


def test_an_empty_path_is_the_folder_that_it_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(ValueError, match="empty, missing, or that of a"):
        fit(quick(""))


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write here"):
        fit(quick(tmp_path / "file" / "run"))


def test_a_directory_is_that_of_one_fit(tmp_path):
    model = quick(tmp_path)
    fit(model, epochs=1)
    with pytest.raises(ValueError, match="of one `fit`.*load it"):
        fit(model, epochs=1)
    fit(AutoModel.load(tmp_path / "run.keras"), epochs=1)


def test_of_many_epochs_the_last_checkpoints_are_kept(tmp_path):
    for epochs in (9998, 9999, 10_000):
        (tmp_path / f"checkpoint-{epochs:04d}.keras").touch()
    found = run_directory.RunDirectory(tmp_path, False)._checkpoints()
    assert [int(p.stem[11:]) for p in found] == [10_000, 9999, 9998]


def test_a_full_disk_is_no_reason_to_lose_the_run(tmp_path, monkeypatch):
    model = quick(tmp_path)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    def heal(epoch, logs):
        if epoch == 1:
            monkeypatch.undo()

    monkeypatch.setattr(model, "_write", full)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=heal)
    with pytest.warns(UserWarning, match="No checkpoint was written: No space"):
        fit(model, epochs=4, callbacks=[callback])
    assert "run.keras" in names(tmp_path)


def test_a_disk_that_is_full_at_the_end_loses_no_model(tmp_path, monkeypatch):
    model, path = quick(tmp_path / "run"), tmp_path / "elsewhere.keras"
    write = model._write

    def full(filepath, *args, **kwargs):
        if filepath.name == "run.keras":
            raise OSError("No space left on device")
        write(filepath, *args, **kwargs)

    monkeypatch.setattr(model, "_write", full)
    with pytest.warns(UserWarning, match="not written.*elsewhere.*No space"):
        history = fit(model, epochs=4).history
    assert len(history["loss"]) == len(model.result.history["loss"]) == 4
    assert "checkpoint-0003.keras" in names(tmp_path / "run")
    monkeypatch.undo()
    model.save(path)
    np.testing.assert_array_equal(
        AutoModel.load(path).predict(X), model.predict(X)
    )


def test_checkpoints_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "_SHARE", 0.05)
    clock = Clock()
    monkeypatch.setattr(run_directory.time, "monotonic", clock)
    directory, written = run_directory.RunDirectory(tmp_path), []

    class Found:
        def to_json(self):
            return "{}"

    def write(path):
        written.append(path.name)
        path.touch()
        clock.now += 2.0

    for epoch in range(1, 101):
        directory.keep(epoch, write, Found)
        clock.now += 1.0
    # Two seconds each, forty later the next.
    assert written[:2] == ["checkpoint-0001.keras", "checkpoint-0041.keras"]
    assert len(written) == 3
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2


def test_what_is_left_of_a_time_limit_goes_on(tmp_path, monkeypatch):
    clock = set_clock(monkeypatch, Clock(each=1.0))
    model = quick(tmp_path, space, strategy=None)
    with pytest.raises(Killed):
        fit(model, epochs=None, time_limit=200, callbacks=[Kill(3)])
    clock.now += 1e6  # the night
    model = quick(tmp_path, space, strategy=None)
    steps = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(batch)
    )
    fit(model, epochs=None, time_limit=200, callbacks=[callback])
    phases = model.result.cost["phases"]
    done = sum(p["steps"] for p in phases.values())
    # Each look at the clock is a second, and a step has two or three.
    assert 200 / 5 < done < 200
    assert 0 < len(steps) <= done - 3 * 6
