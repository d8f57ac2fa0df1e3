"""The command line, with training replaced except in one slow run."""

import dataclasses
import inspect
import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dha
from keras_dha import cli
from keras_dha import commands
from keras_dha import datasets
from keras_dha import export

pytest.importorskip("sklearn")


class QuickModel:
    """Stands in for `keras_dha.AutoModel`: a linear net, no search."""

    calls = []

    def __init__(self, **arguments):
        if arguments["method"] == "nonsense":
            raise ValueError("`method` must be sane. Received: method=nonsense")
        self.calls.append(arguments)

    def fit(self, x, y, **arguments):
        self.calls.append({"shape": x.shape, **arguments})
        self.net = keras.Sequential(
            [
                keras.Input(x.shape[1:], name="image"),
                keras.layers.Rescaling(1 / 16),
                keras.layers.Flatten(),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        self.net.compile("adam", "sparse_categorical_crossentropy")
        self.net.optimizer.learning_rate = 0.03
        self.net.fit(x, y, epochs=3, verbose=0)

    def export_model(self):
        return self.net

    @property
    def result(self):
        return keras_dha.SearchResult(
            genotype={},
            policy=None,
            hyperparameters={},
            history={"loss": [1.0]},
            cost={"seconds": 1.0, "phases": {}, "parameters": 650},
        )


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(keras_dha, "AutoModel", QuickModel, raising=False)
    monkeypatch.setattr(QuickModel, "calls", [])
    return QuickModel


def run(*arguments):
    out = io.StringIO()
    code = cli.main([str(a) for a in arguments], out)
    return code, out.getvalue()


@pytest.fixture
def fitted(quick, tmp_path):
    folder = tmp_path / "out"
    code, out = run("fit", "--dataset=digits", f"--output={folder}")
    assert code == 0
    return folder, out


def test_fit_leaves_all_files_and_a_summary(fitted):
    folder, out = fitted
    left = {str(p.relative_to(folder)) for p in folder.rglob("*.*")}
    assert {
        "digits.keras",
        "digits/1/saved_model.pb",
        "digits.tflite",
        "result.json",
    } <= left
    assert not [name for name in left if name.startswith(".")]
    result = keras_dha.SearchResult.from_json(
        (folder / "result.json").read_text()
    )
    assert result.summary() in out
    assert result.class_names == [str(digit) for digit in range(10)]
    for name in ("digits.keras", "digits/1", "digits.tflite", "result.json"):
        assert str(folder / name) in out
    model = keras.saving.load_model(folder / "digits.keras")
    data = datasets.load("digits")
    predicted = model.predict(data.x_test, verbose=0).argmax(-1)
    accuracy = (predicted == data.y_test).mean()
    assert accuracy > 0.8
    assert f"Test accuracy  {accuracy:.2%} of 359 images" in out


def test_fit_names_the_classes_that_the_model_has(quick, tmp_path, monkeypatch):
    """A dataset may have more names than classes with images."""
    load = datasets.load

    def with_more_names(*arguments, **named):
        data = load(*arguments, **named)
        names = (*data.class_names, "never seen")
        return dataclasses.replace(data, class_names=names)

    monkeypatch.setattr(datasets, "load", with_more_names)
    code, _ = run("fit", "--dataset=digits", f"--output={tmp_path / 'out'}")
    assert code == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["class_names"] == [str(digit) for digit in range(10)]


def test_fit_hands_its_flags_on(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _ = run(
        *("fit", "--dataset", "digits", "--epochs", "7", "--batch_size=32"),
        *("--limit=100", "--seed=5", "--architecture=none", "--verbose=2"),
        *("--augmentation=none", "--image_size=6", "--directory=runs"),
    )
    assert code == 0
    made, fit = quick.calls
    assert made == {
        "search_space": "auto",
        "method": "auto",
        "strategy": None,
        "augmentation": None,
        "hyperparameters": "auto",
        "seed": 5,
        "directory": "runs",
    }
    assert fit == {
        "shape": (100, 6, 6, 1),
        "batch_size": 32,
        "epochs": 7,
        "time_limit": None,
        "verbose": 2,
    }
    assert (tmp_path / "digits" / "digits.keras").exists()
    # The stand-in takes anything; the real one must know what is passed.
    real = keras_dha.auto_model.AutoModel(**made)
    known = inspect.signature(real.fit).parameters
    assert fit.keys() - {"shape"} <= known.keys()


def test_what_was_found_is_there_before_it_is_measured(
    quick, tmp_path, monkeypatch, capsys
):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_dha.commands._accuracy", interrupted)
    code, out = run("fit", "--dataset=digits", f"--output={tmp_path}")
    assert code != 0 and "Architecture" in out
    assert (tmp_path / "digits.keras").exists()
    assert (tmp_path / "result.json").exists()


def test_the_home_folder_in_flags(fitted, monkeypatch):
    monkeypatch.setenv("HOME", str(fitted[0]))
    monkeypatch.setenv("USERPROFILE", str(fitted[0]))
    code, out = run(
        "export",
        "--model=~/digits.keras",
        "--output=~/again.tflite",
        "--format=litert",
    )
    assert (code, out.strip()) == (0, str(fitted[0] / "again.tflite"))
    assert (fitted[0] / "again.tflite").exists()


def test_a_used_folder_is_refused_before_training(quick, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    arguments = ["fit", "--dataset=digits", f"--output={tmp_path}"]
    assert run(*arguments)[0] == 1
    assert "not empty" in capsys.readouterr().err
    assert quick.calls == []
    assert run(*arguments, "--overwrite")[0] == 0
    assert run(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_unwritable_folder_is_refused_before_training(
    quick, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    code, _ = run(
        "fit", "--dataset=digits", f"--output={tmp_path / 'file' / 'x'}"
    )
    assert code == 1
    assert "Cannot write here" in capsys.readouterr().err
    assert not [call for call in quick.calls if "shape" in call]


def test_the_dataset_is_not_its_own_output(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets" / "cats").mkdir(parents=True)
    code, _ = run("fit", "--dataset=pets", "--image_size=8", "--overwrite")
    assert code == 2
    assert quick.calls == []


@pytest.mark.slow
def test_estimate_says_what_a_run_would_take(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out = run(
        *("estimate", "--dataset=digits", "--limit=200", "--epochs=2"),
        *("--augmentation=none", "--hyperparameters=none"),
    )
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["architectures"] == "27"
    assert list(tmp_path.iterdir()) == []


def test_evaluate_says_what_fit_said(fitted):
    folder, out = fitted
    model = folder / "digits.keras"
    code, again = run("evaluate", f"--model={model}", "--dataset=digits")
    assert code == 0
    assert again.startswith("Test accuracy") and again in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format=tf_saved_model"],
        ["--format=litert"],
        ["--format=litert", "--quantize=float16"],
        ["--format=litert", "--quantize=int8", "--dataset=digits"],
        ["--format=onnx"],
    ],
)
def test_export(fitted, tmp_path, arguments):
    files = {"litert": "small.tflite", "onnx": "small.onnx"}
    name = files.get(arguments[0].removeprefix("--format="))
    target = tmp_path / (name or "served/2")
    code, out = run(
        "export",
        f"--model={fitted[0] / 'digits.keras'}",
        f"--output={target}",
        *arguments,
    )
    assert code == 0
    assert out.strip() == str(target)
    assert target.is_file() if name else (target / "saved_model.pb").exists()


def test_a_model_that_does_not_fit_the_data_is_refused(tmp_path, capsys):
    path = tmp_path / "m.keras"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(
        path
    )
    assert run("evaluate", f"--model={path}", "--dataset=digits")[0] == 1
    assert "(8, 8, 3), images (8, 8, 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "'train' is no command"),
        (["fit"], 2, "--dataset is needed"),
        (["fit", "--dataset=digits", "--epochs=0"], 2, "--epochs=0"),
        (["fit", "--dataset=digits", "--epochs=x"], 2, "--epochs=x"),
        (["fit", "--dataset=digits", "--seed=-1"], 2, "--seed=-1"),
        (["fit", "--dataset=digits", f"--seed={2**31}"], 2, "--seed=2147"),
        (
            ["fit", "--dataset=digits", "--epochs=3", "--time_limit=9"],
            2,
            "--epochs or --time_limit",
        ),
        (["fit", "--max_trials=3"], 2, "max_trials"),
        (["fit", "--dataset=digits", "--augmentation=x"], 2, "auto|none"),
        (["fit", "--dataset=digits", "extra"], 2, "'extra'"),
        (["fit", "--dataset=digits", "--method=nonsense"], 2, "sane"),
        (["fit", "--dataset=no/such"], 1, "name_or_path='no/such'"),
        (["evaluate", "--model=a.keras", "--dataset=digits"], 1, "a.keras"),
        (["export", "--model=a.keras"], 2, "--output is needed"),
        (
            ["export", "--model=a", "--output=b", "--quantize=int8"],
            2,
            "needs --dataset",
        ),
        (
            ["export", "--model=a", "--output=b", "--quantize=float16"],
            2,
            "litert only",
        ),
        (
            ["export", "--model=a", "--output=b", "--dataset=digits"],
            2,
            "int8 only",
        ),
    ],
)
def test_errors_are_one_line(
    quick, tmp_path, monkeypatch, capsys, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == (code, "")
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_came_from(quick):
    with pytest.raises(ValueError, match="name_or_path"):
        run("fit", "--dataset=no/such", "--debug")


def test_an_interrupted_run_says_so(quick, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(QuickModel, "fit", interrupted)
    arguments = ["fit", "--dataset=digits", f"--output={tmp_path / 'out'}"]
    assert run(*arguments)[0] == 130
    assert capsys.readouterr().err == "keras-dha: interrupted\n"


def test_help_is_for_people():
    code, overview = run("--help")
    assert code == 0
    assert set(cli.COMMANDS) == {
        *("fit", "estimate", "evaluate", "export", "report")
    }
    for name in cli.COMMANDS:
        assert f"  {name} " in overview
        code, text = run(name, "--help")
        assert code == 0
        assert text.startswith(f"usage: keras-dha {name}")
        assert max(map(len, text.splitlines())) <= 80
        # Nothing of absl's own, which every absl program would list.
        assert "logtostderr" not in text and "flagfile" not in text
        assert len(text.splitlines()) < 60
    assert "by default 30" in run("fit", "--help")[1]
    assert run()[0] == 2


def in_a_process(*arguments):
    """Runs a command in an interpreter that has loaded nothing yet."""
    done = subprocess.run(
        [sys.executable, "-m", "keras_dha", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MUFFLED = """
import logging, os, sys, warnings
from keras_dha import commands

usual = sys.stderr
with commands.muffled():
    os.write(2, b"of C++ inside\\n")
    warnings.warn("a warning")
    sys.stderr.write("a line\\n")
    # As absl's is made when TensorFlow is imported.
    logging.getLogger("other").addHandler(logging.StreamHandler())
    print("half a line, \\u00e9", end="", file=sys.stderr)
assert sys.stderr is usual
os.write(2, b" and of C++ behind\\n")
logging.getLogger("other").warning("a logger")
try:
    with commands.muffled():
        raise KeyError("gone wrong")
except KeyError:
    assert sys.stderr is usual
    sys.stderr.write("in the end\\n")
"""


def test_what_python_says_is_not_muffled():
    done = subprocess.run(
        [sys.executable, "-c", MUFFLED],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    first, *lines = done.stderr.splitlines()
    assert "UserWarning: a warning" in first
    if "warnings.warn" in lines[0]:
        # Python 3.13 knows the source of `-c`.
        del lines[0]
    assert lines == [
        "a line",
        "half a line, \u00e9 and of C++ behind",
        "a logger",
        "in the end",
    ]


def test_a_stream_that_is_no_file_stays_in_place(capsys):
    usual = sys.stderr
    with commands.muffled():
        assert sys.stderr is usual
        sys.stderr.write("a line")
    assert capsys.readouterr().err == "a line"


@pytest.mark.slow
def test_a_whole_run_is_evaluated_and_exported(tmp_path):
    data = datasets.load("digits", limit=200)
    model = keras_dha.AutoModel(strategy=None, seed=0)
    model.fit(data.x_train, data.y_train, epochs=1, verbose=0)
    path = tmp_path / "run.keras"
    model.save(path)
    said = in_a_process("evaluate", f"--model={path}", "--dataset=digits")
    accuracy = model.evaluate(data.x_test, data.y_test)[1]
    assert f"{accuracy:.2%}" in said
    output = tmp_path / "m" / "1"
    in_a_process("export", f"--model={path}", f"--output={output}")
    served = tf.saved_model.load(output)
    images = data.x_test[:5].astype("float32")
    np.testing.assert_allclose(
        served.serve(images), model.predict(images), atol=1e-5
    )


def test_ranges_of_int8_are_of_all_classes(fitted, tmp_path, monkeypatch):
    """Images of a folder are in the order of their classes."""
    data = datasets.load("digits")
    order = np.argsort(data.y_train, kind="stable")
    data = dataclasses.replace(data, x_train=data.x_train[order])
    monkeypatch.setattr(datasets, "load", lambda *args, **kwargs: data)
    given = []
    monkeypatch.setattr(
        export, "export_model", lambda *args, **kwargs: given.append(kwargs)
    )
    code, _ = run(
        *("export", f"--model={fitted[0] / 'digits.keras'}"),
        *(f"--output={tmp_path / 'm.tflite'}", "--format=litert"),
        *("--quantize=int8", "--dataset=digits"),
    )
    assert code == 0
    (images,) = [each["representative_data"] for each in given]
    assert len(images) == 100
    labels = data.y_train[order]
    found = {
        int(labels[np.all(data.x_train == image, axis=(1, 2, 3))][0])
        for image in images
    }
    assert found == set(range(10))


@pytest.mark.parametrize("directory", ["out", "out/checkpoints"])
def test_checkpoints_are_not_in_the_output(quick, tmp_path, capsys, directory):
    code, _ = run(
        *("fit", "--dataset=digits", f"--output={tmp_path / 'out'}"),
        f"--directory={tmp_path / directory}",
    )
    assert code == 2
    assert "--directory is in the output folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["--output=run/out", None])
def test_the_output_is_not_among_the_checkpoints(
    quick, tmp_path, monkeypatch, capsys, output
):
    monkeypatch.chdir(tmp_path)
    # By default the output is in the folder that one is in.
    given = [output] if output else []
    directory = "run" if output else "."
    code, _ = run(
        *("fit", "--dataset=digits", f"--directory={directory}", *given)
    )
    assert code == 2
    assert "output folder is in --directory" in capsys.readouterr().err
    assert quick.calls == [] and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    code, out = run(
        *("fit", "--dataset=digits", "--epochs=2", "--limit=400"),
        *("--seed=1", f"--output={tmp_path}", "--verbose=0"),
    )
    assert code == 0
    assert sys.stdout.getvalue() == ""  # verbose=0 is obeyed
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["genotype"] and result["policy"]
    model = keras.saving.load_model(tmp_path / "digits.keras")
    stock = [
        type(layer).__module__.startswith("keras.") for layer in model.layers
    ]
    assert np.all(stock)
    assert "Test accuracy" in out


def test_report_of_what_a_run_left(fitted, tmp_path, monkeypatch):
    folder, _ = fitted
    monkeypatch.chdir(tmp_path)
    for arguments in (
        (folder / "result.json",),
        (f"--run={folder / 'result.json'}", "--output=other.html"),
    ):
        code, out = run("report", *arguments)
        assert code == 0
        page = (tmp_path / out.strip()).read_text()
        assert "650 parameters" in page
    assert (tmp_path / "report.html").read_text() == page


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], 2, "report: --run is needed"),
        (["a.json", "b"], 2, "unexpected argument 'b'"),
        (["--run=a.json", "b.json"], 2, "unexpected argument 'b.json'"),
        (["none.json"], 1, "ends in .json or .keras. Received: 'none.json'"),
        (["junk.json"], 1, "A search result must have the fields"),
        (["junk.json", "--output=x.txt"], 1, "must have the fields"),
        (["plain.keras"], 1, "holds a plain Keras model"),
    ],
)
def test_report_of_what_is_none(
    arguments, code, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.json").write_text("{}")
    if arguments == ["plain.keras"]:
        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        network.save("plain.keras")
    before = sorted(tmp_path.iterdir())
    assert run("report", *arguments) == (code, "")
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_report_without_its_extra(monkeypatch, tmp_path, capsys):
    from keras_dha import report

    monkeypatch.setattr(report, "_NEEDED", ("jinja2", "matplotlob"))
    monkeypatch.chdir(tmp_path)
    assert run("report", "result.json") == (1, "")
    assert (
        "keras-dha: A report needs matplotlob, which is not installed: run "
        '`pip install "keras_dha[report]"`.'
    ) in capsys.readouterr().err
