"""When a report is written, and what becomes of one that cannot be."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest

import keras_dha
from keras_dha import report
from keras_dha.result import SearchResult
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.test_report import RESULT
from tests.test_report import Page


def test_a_vector_model_without_anything_to_search(tmp_path):
    network = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(3, activation="softmax")]
    )
    model = quick_auto_model(network)
    fit(model, X.reshape(len(X), 64) / 255, epochs=1)
    path = tmp_path / "page.html"
    model.report(path)
    text = Page(path.read_text()).text
    assert "nothing to choose" in text and "Augmentation None." in text
    assert keras.__version__ in text


@pytest.mark.parametrize("write", [report.write, None])
def test_the_suffix_and_the_folder(write, tmp_path):
    for path in ("page.txt", "page"):
        with pytest.raises(ValueError, match="end in '.html'.*Received"):
            if write:
                write(RESULT, tmp_path / path)
            else:
                keras_dha.SearchReport(tmp_path / path)
    made = report.write(RESULT, str(tmp_path / "a" / "b.html"))
    assert made == tmp_path / "a" / "b.html" and made.exists()


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_how_often_it_is_written_is_a_count(every):
    with pytest.raises(ValueError, match="`every` must be an integer.*every="):
        keras_dha.SearchReport("page.html", every=every)


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_said_before_training(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == missing else find(name),
    )
    for use in (
        lambda: report.write(RESULT, "page.html"),
        lambda: keras_dha.SearchReport("page.html"),
    ):
        with pytest.raises(ImportError) as raised:
            use()
        assert f"needs {missing}, which" in str(raised.value)
        assert 'pip install "keras_dha[report]"' in str(raised.value)
    assert not pathlib.Path("page.html").exists()


class Watching(keras.callbacks.Callback):
    """Reads the page and the result as they are after each epoch."""

    def __init__(self, path):
        super().__init__()
        self.path, self.seen = path, []

    def on_epoch_end(self, epoch, logs=None):
        exists = self.path.exists()
        page = Page(self.path.read_text()) if exists else None
        self.seen.append((page, self.model.result))


def test_the_page_follows_a_run(tmp_path):
    path = tmp_path / "page.html"
    model, watching = joint_auto_model(), Watching(path)
    fit(model, callbacks=[keras_dha.SearchReport(path), watching])
    for epoch, (found, result) in enumerate(watching.seen):
        assert f"{epoch + 1} epochs" in found.text
        assert len(result.history["loss"]) == epoch + 1
        assert len(result.history["decisions"]) == epoch + 1
        assert SearchResult.from_json(result.to_json()) == result
    assert "train, epochs" not in watching.seen[0][0].text
    assert "train, epochs" in Page(path.read_text()).text
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    # What a callback saw last is what the run found.
    last = watching.seen[-1][1]
    assert last.genotype == model.result.genotype
    assert last.history == model.result.history
    for name, found in model.result.hyperparameters.items():
        assert found["learned"] == ("bounds" in found)
        assert last.hyperparameters[name] == found
    phases = model.result.history["phase"]
    assert len(phases) == 3 and phases[-1] == "train"
    for decision in model.result.history["decisions"]:
        for options in decision.values():
            assert sum(options.values()) == pytest.approx(1, abs=1e-4)
            assert len(options) == 2


def test_it_is_written_now_and_then_and_in_the_end(tmp_path):
    path = tmp_path / "page.html"
    model = quick_auto_model(strategy=None)
    watching = Watching(path)
    callbacks = [keras_dha.SearchReport(path, every=2), watching]
    fit(model, epochs=3, callbacks=callbacks)
    first, second, third = (found for found, _ in watching.seen)
    assert first is None
    assert "2 epochs" in second.text and second.source == third.source
    assert "3 epochs" in Page(path.read_text()).text


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    tmp_path, monkeypatch
):
    path = report.write(RESULT, tmp_path / "page.html")
    before = path.read_text()

    def full(*_, **__):
        raise OSError("No space left on device")

    model = quick_auto_model(strategy=None)
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "write_text", full)
        with pytest.warns(UserWarning, match="not written: No space left"):
            history = fit(
                model, epochs=2, callbacks=[keras_dha.SearchReport(path)]
            )
    assert len(history.history["loss"]) == 2  # the run went on
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    np.testing.assert_allclose(model.predict(X).sum(1), 1, rtol=1e-5)
