"""Classes by their names: what `fit` leaves, and `evaluate` goes by."""

import dataclasses

import keras
import pytest

from keras_dha import datasets
from tests.test_cli import QuickModel
from tests.test_cli import run

COLOURS = {"a red": "red", "b green": "lime", "c blue": "blue"}


@pytest.fixture
def colours(tmp_path):
    """A model of three classes, which are the three channels of an image.

    Beside it is the result of its run; a function paints folders of images.
    """
    PIL_Image = pytest.importorskip("PIL.Image")

    def painted(*names):
        for name in names:
            folder = tmp_path / "images" / name
            folder.mkdir(parents=True)
            image = PIL_Image.new("RGB", (8, 8), COLOURS.get(name, "white"))
            for number in range(5):
                image.save(folder / f"{number}.png")
        return tmp_path / "images"

    keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()]
    ).save(tmp_path / "colours.keras")
    result = dataclasses.replace(
        QuickModel(method="auto").result, class_names=[*COLOURS]
    )
    (tmp_path / "result.json").write_text(result.to_json())
    return tmp_path, painted


def evaluated(folder, images):
    model = folder / "colours.keras"
    return run("evaluate", f"--model={model}", f"--dataset={images}")


@pytest.mark.parametrize(
    "names", [list(COLOURS), ["b green", "c blue"], ["a red", "c blue"]]
)
def test_classes_of_a_folder_go_by_their_names(colours, names):
    folder, painted = colours
    code, out = evaluated(folder, painted(*names))
    assert code == 0
    assert f"100.00% of {len(names)} images" in out


def test_classes_that_the_model_does_not_know_are_refused(colours, capsys):
    folder, painted = colours
    assert evaluated(folder, painted("b green", "d white")) == (1, "")
    error = capsys.readouterr().err
    assert "['a red', 'b green', 'c blue']" in error
    assert "Received: classes ['d white']" in error


def test_without_names_there_are_as_many_classes(colours, capsys):
    folder, painted = colours
    (folder / "result.json").unlink()
    images = painted("b green", "c blue")
    assert evaluated(folder, images) == (1, "")
    assert "Received: 2 classes, model with 3" in capsys.readouterr().err
    painted("a red")
    assert "100.00% of 3 images" in evaluated(folder, images)[1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{}", "result.json': A search result must have the fields"),
        (None, "Received: 2 class names, model with 3"),
    ],
)
def test_a_result_of_something_else_is_refused(
    colours, capsys, content, message
):
    folder, painted = colours
    result = dataclasses.replace(
        QuickModel(method="auto").result, class_names=["a", "b"]
    )
    (folder / "result.json").write_text(content or result.to_json())
    assert evaluated(folder, painted(*COLOURS)) == (1, "")
    assert message in capsys.readouterr().err


def test_a_dataset_may_name_classes_of_which_it_has_no_images(
    colours, monkeypatch, capsys
):
    folder, painted = colours
    data = datasets.load(painted(*COLOURS), image_size=8)
    data = dataclasses.replace(data, class_names=(*data.class_names, "d white"))
    monkeypatch.setattr(datasets, "load", lambda *_, **__: data)
    assert "100.00% of 3 images" in evaluated(folder, "named")[1]
    data = dataclasses.replace(data, y_test=data.y_test + 1)
    assert evaluated(folder, "named") == (1, "")
    assert "Received: classes ['d white']" in capsys.readouterr().err
