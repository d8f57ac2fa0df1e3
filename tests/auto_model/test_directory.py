"""A run in a directory: killed at any moment, it goes on as if it had not."""

import json

import keras
import numpy as np
import pytest

from keras_dha import AutoModel
from keras_dha import atomic
from keras_dha import run_directory
from tests.auto_model.directories import EPOCHS
from tests.auto_model.directories import SLOW
from tests.auto_model.directories import Kill
from tests.auto_model.directories import Killed
from tests.auto_model.directories import joint
from tests.auto_model.directories import killed
from tests.auto_model.directories import names
from tests.auto_model.directories import quick
from tests.auto_model.small_runs import BATCH
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.auto_model.small_runs import space
from tests.test_pace import Clock
from tests.test_pace import set_clock
from tests.test_run import Poison

pytestmark = pytest.mark.usefixtures("every_epoch")


@pytest.fixture(scope="module")
def whole():
    """A run that nobody stopped, and its history."""
    model = joint_auto_model(hyperparameters=SLOW)
    return model, fit(model, epochs=EPOCHS).history


@pytest.mark.slow
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


@pytest.mark.filterwarnings("ignore:`learning_rate` spent")
def test_it_is_known_how_often_a_run_was_undone(tmp_path):
    rate = {"learning_rate": SLOW["learning_rate"]}
    model = quick(tmp_path, space, strategy=None, hyperparameters=rate)
    with pytest.warns(UserWarning, match="diverged"), pytest.raises(Killed):
        fit(model, callbacks=[Poison(2), Kill(1)])
    model = quick(tmp_path, space, strategy=None, hyperparameters=rate)
    fit(model)
    assert model.result.cost["undone"] == 1


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
    assert returned.history == history
    assert returned.epoch == [0, 1]
    np.testing.assert_array_equal(again.predict(X), first.predict(X))
    assert again.result == first.result


def test_a_directory_may_be_moved(tmp_path):
    expected = fit(quick(None), epochs=EPOCHS).history["loss"]
    killed(quick(tmp_path / "here"), 3)
    (tmp_path / "here").rename(tmp_path / "there")
    model = quick(tmp_path / "there")
    assert fit(model, epochs=EPOCHS).history["loss"] == expected
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    again = quick(tmp_path / "elsewhere")
    fit(again, epochs=EPOCHS, callbacks=[Kill(0)])
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_a_run_that_has_ended_may_be_where_nothing_can_be_written(
    tmp_path, monkeypatch
):
    first = quick(tmp_path)
    fit(first, epochs=2)
    before = names(tmp_path)

    def refused(*args, **kwargs):
        raise OSError("Read-only file system")

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refused)
    again = quick(tmp_path)
    fit(again, epochs=2)
    np.testing.assert_array_equal(again.predict(X), first.predict(X))
    assert names(tmp_path) == before
    with pytest.raises(OSError, match="Cannot write here"):
        fit(quick(tmp_path, overwrite=True), epochs=2)


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
    refused = r"empty, missing, or that of a .*: \['photo.jpg'\]"
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=refused):
            fit(quick(tmp_path, overwrite=overwrite))
    with pytest.raises(ValueError, match=refused):
        fit(quick(tmp_path / "photo.jpg"))
    assert names(tmp_path) == ["photo.jpg"]


def half_written(path):
    """Makes what a process leaves that is killed while it writes a file."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(atomic.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed), atomic.written_beside(path) as half:
            half.write_text("half")
            raise Killed


@pytest.mark.parametrize("name", ["configuration.json", "probe"])
def test_killed_in_its_first_write_it_begins_anew(tmp_path, name):
    half_written(tmp_path / name)
    assert len(names(tmp_path)) == 1
    fit(quick(tmp_path), epochs=1)
    assert names(tmp_path) == ["configuration.json", "result.json", "run.keras"]


def test_what_was_half_written_is_swept_when_a_run_goes_on(tmp_path):
    killed(quick(tmp_path), 2)
    kept = names(tmp_path)
    written = [*kept, "checkpoint-0003.keras", "run.keras", "probe"]
    for name in written:
        half_written(tmp_path / name)
    (tmp_path / ".run.keras-mine").mkdir()
    before = names(tmp_path)
    assert len(before) == len(kept) + len(written) + 1
    # Refused, it may be that of a run that is under way.
    with pytest.raises(ValueError, match="asked for otherwise"):
        fit(quick(tmp_path, seed=2), epochs=EPOCHS)
    assert names(tmp_path) == before
    killed(quick(tmp_path), 2)
    assert names(tmp_path) == [".run.keras-mine", *kept]


def test_beside_other_files_what_was_half_written_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    half_written(tmp_path / "configuration.json")
    before = names(tmp_path)
    with pytest.raises(ValueError, match=r"other files are: \['photo.jpg'\]"):
        fit(quick(tmp_path))
    assert names(tmp_path) == before


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
    # As programs that synchronise folders leave them.
    for name in ("checkpoint-0007 (1).keras", "checkpoint-old.keras"):
        (tmp_path / name).touch()
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


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run_directory.RunDirectory("~/runs").path == tmp_path / "runs"


def test_a_lambda_is_refused_before_anything_is_learned(tmp_path):
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Lambda(lambda images: images / 255, name="scaled")(x)
    x = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x))
    model = quick_auto_model(keras.Model(inputs, x), directory=tmp_path / "run")
    with pytest.raises(ValueError, match="enable_unsafe.*Received: layer=sca"):
        fit(model)
    assert names(tmp_path / "run") == []


def test_numbers_of_numpy_are_kept(tmp_path):
    dataset = as_dataset(X, Y, BATCH)[0].repeat()
    model = quick_auto_model(strategy=None, directory=tmp_path)
    counts = {"epochs": np.int64(2), "steps_per_epoch": np.int64(3)}
    model.fit(dataset, verbose=0, **counts)
    again = quick_auto_model(strategy=None, directory=tmp_path)
    again.fit(dataset, verbose=0, epochs=2, steps_per_epoch=3)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
