"""The command line: `keras-dha fit`, `estimate`, `evaluate` and so on.

TensorFlow is loaded after the flags are understood, and told to keep what it
says about itself to itself.
"""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from keras_dha.cli_flags import CommandFlags
from keras_dha.cli_flags import UsageError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


class Command(NamedTuple):
    """A command of the command line.

    Attributes:
        flags: Function that returns its `CommandFlags`.
        run: Function of the flags' values and an output stream.
    """

    flags: Callable
    run: Callable


def main(argv=None, out=None):
    """Runs a command; returns 0, or 1 after a failure, or 2 for bad usage.

    Args:
        argv: List of arguments, by default those of the process.
        out: Stream for the output, by default standard output.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    out = out or sys.stdout
    if not argv or argv[0] in _HELP:
        out.write(_overview())
        return 0 if argv else USAGE
    name, *arguments = argv
    if name not in COMMANDS:
        expected = ", ".join(COMMANDS)
        return _complain(f"{name!r} is no command, use {expected}", USAGE)
    flags = COMMANDS[name].flags()
    flags.switch("debug", "Show where an error came from.")
    if _HELP & set(arguments):
        out.write(flags.help())
        return 0
    return _run(COMMANDS[name], flags, arguments, out)


def _run(command, flags, arguments, out):
    debug = False
    try:
        values = flags.parse(arguments)
        debug = values.debug
        with _muffled():
            import keras_dha.auto_model  # noqa: F401
        command.run(values, out)
    except UsageError as error:
        return _complain(error, USAGE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        return _complain(error, FAILURE)
    return 0


def _complain(error, code):
    message = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"keras-dha: {message}\n")
    return code


def _overview():
    lines = ["usage: keras-dha COMMAND [--flag=value ...]", ""]
    lines += [
        f"  {name:<9} {command.flags().summary}"
        for name, command in COMMANDS.items()
    ]
    lines += ["", "keras-dha COMMAND --help lists the flags of a command.", ""]
    return "\n".join(lines)


def _fit_flags():
    flags = CommandFlags(
        "fit", "Train a model; learn how to train it in the same run."
    )
    _dataset_flags(flags, "What to train on", needed=True)
    flags.text("output", "Folder for the files; by default the dataset's name.")
    flags.switch("overwrite", "Replace what an earlier run left there.")
    flags.text(
        "directory",
        "Folder for checkpoints: a run that was killed goes on from them when "
        "it is called again with the same flags.",
    )
    flags.seconds("time_limit", "Seconds to train for, in place of --epochs.")
    _run_flags(flags)
    flags.count("seed", "For a reproducible run.", least=0)
    flags.choice(
        "verbose",
        "Progress: 0 none, 1 a bar, 2 a line for each epoch.",
        ["auto", "0", "1", "2"],
    )
    return flags


def _estimate_flags():
    flags = CommandFlags(
        "estimate", "Say what a run would take, from a few steps of it."
    )
    _dataset_flags(flags, "What would be trained on", needed=True)
    _run_flags(flags)
    return flags


def _run_flags(flags):
    """Adds what a run is asked for."""
    flags.count("limit", "Train on a random subset of so many images.")
    flags.count("epochs", "Passes over the training images, by default 30.")
    flags.count("batch_size", "By default chosen by the amount of data.")
    flags.text("search_space", "Name of the search space.", default="auto")
    flags.text(
        "method",
        "What is learned, and how: auto, dha or diffautoml for all; autohas "
        "for architecture and hyperparameters; darts, dsnas or gdas for the "
        "architecture.",
        default="auto",
    )
    for name, what in (
        ("architecture", "the architecture"),
        ("augmentation", "how images are augmented"),
        ("hyperparameters", "learning rate and weight decay"),
    ):
        flags.choice(name, f"Whether to learn {what}.", ["auto", "none"])


def _evaluate_flags():
    flags = CommandFlags(
        "evaluate", "Measure a trained model on a dataset's test images."
    )
    _model_flag(flags)
    _dataset_flags(flags, "What to test on", needed=True)
    return flags


def _export_flags():
    flags = CommandFlags(
        "export", "Write a trained model for TF Serving, LiteRT or ONNX."
    )
    _model_flag(flags)
    flags.text(
        "output",
        "Where to write: a folder such as NAME/1 for a SavedModel, a file "
        "such as NAME.tflite for litert and NAME.onnx for onnx.",
        needed=True,
    )
    flags.switch("overwrite", "Replace what is there.")
    flags.choice(
        "format", "Kind of file.", ["tf_saved_model", "litert", "onnx"]
    )
    flags.choice(
        "quantize",
        "For litert: store smaller numbers; int8 computes with them too and "
        "needs --dataset.",
        ["none", "float16", "int8"],
    )
    _dataset_flags(flags, "For int8, images as they come in use")
    return flags


def _report_flags():
    flags = CommandFlags(
        "report", "Show what a run found, as one page of HTML."
    )
    flags.argument(
        "run",
        "What a run left: its result.json, or a .keras file that "
        "`AutoModel.save` wrote.",
    )
    flags.text(
        "output",
        "Where to write, a file such as report.html; what is there is "
        "replaced.",
        default="report.html",
    )
    return flags


def _model_flag(flags):
    flags.text("model", "A trained model, a .keras file.", needed=True)


def _dataset_flags(flags, use, needed=False):
    flags.text(
        "dataset",
        f"{use}: digits, fashion_mnist, tfds:NAME, or the path of a folder "
        "with a subfolder of images for each class.",
        needed=needed,
    )
    flags.count("image_size", "Height and width to resize images to.")


def _fit(values, out):
    from keras_dha import datasets
    from keras_dha import export

    name = datasets.short_name(values.dataset)
    output = pathlib.Path(values.output or name)
    _refuse_in_use(output, values)
    if values.epochs is not None and values.time_limit is not None:
        raise UsageError("fit: give --epochs or --time_limit, not both")
    model = _auto_model(
        "fit", values, seed=values.seed, directory=values.directory
    )
    data = _training_data(values)
    export.refuse_unwritable(output)
    verbose = values.verbose
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=values.batch_size,
        epochs=values.epochs,
        time_limit=values.time_limit,
        verbose=verbose if verbose == "auto" else int(verbose),
    )
    plain = model.export_model()
    accuracy = _accuracy(plain, data.x_test, data.y_test)
    files = _write_all(plain, model.result, output, name)
    out.write(f"\n{model.result.summary()}\n\n")
    out.write(_test_line(accuracy, data))
    for meaning, path in files.items():
        out.write(f"{meaning:<14} {path}\n")


def _refuse_in_use(output, values):
    from keras_dha import datasets
    from keras_dha import export

    folder = datasets.as_folder(values.dataset)
    if folder is not None and output.resolve() == folder.resolve():
        raise UsageError("fit: --output is the dataset; choose another")
    if values.overwrite:
        return
    try:
        export.refuse_existing(output)
    except FileExistsError:
        raise FileExistsError(
            "The output folder is not empty; choose another with --output, "
            f"or pass --overwrite. Received: output={str(output)!r}"
        ) from None


def _estimate(values, out):
    model = _auto_model("estimate", values)
    data = _training_data(values)
    found = model.estimate(
        *(data.x_train, data.y_train, values.batch_size, values.epochs)
    )
    out.write(f"{found.summary()}\n")


def _training_data(values):
    from keras_dha import datasets

    return datasets.load(
        values.dataset, image_size=values.image_size, limit=values.limit
    )


def _auto_model(command, values, **arguments):
    import keras_dha

    try:
        return keras_dha.AutoModel(
            search_space=values.search_space,
            method=values.method,
            strategy=_part(values.architecture),
            augmentation=_part(values.augmentation),
            hyperparameters=_part(values.hyperparameters),
            **arguments,
        )
    except ValueError as error:
        raise UsageError(f"{command}: {error}") from error


def _part(value):
    return None if value == "none" else value


def _write_all(plain, result, output, name):
    """Writes all that a run leaves; returns what is where."""
    from keras_dha import export

    files = {
        "Keras model": output / f"{name}.keras",
        "SavedModel": output / name / "1",
        "LiteRT": output / f"{name}.tflite",
        "Result": output / "result.json",
    }
    with export.written_beside(files["Keras model"]) as path:
        plain.save(path)
    with _muffled():
        export.export_model(plain, files["SavedModel"], overwrite=True)
        export.export_model(plain, files["LiteRT"], "litert", overwrite=True)
    with export.written_beside(files["Result"]) as path:
        path.write_text(result.to_json() + "\n", encoding="utf-8")
    return files


def _evaluate(values, out):
    model = _loaded(values.model)
    data = _data_for(model, values)
    accuracy = _accuracy(model, data.x_test, data.y_test)
    out.write(_test_line(accuracy, data))


def _test_line(accuracy, data):
    return f"Test accuracy  {accuracy:.2%} of {len(data.y_test):,} images\n"


def _export(values, out):
    if values.quantize == "int8" and not values.dataset:
        raise UsageError("export: --quantize=int8 needs --dataset")
    if values.quantize != "none" and values.format != "litert":
        raise UsageError("export: --quantize is for --format=litert only")
    model = _loaded(values.model)
    representative = None
    if values.quantize == "int8":
        representative = _data_for(model, values).x_train[:100]
    from keras_dha import export

    with _muffled():
        path = export.export_model(
            model,
            values.output,
            format=values.format,
            quantize=_part(values.quantize),
            representative_data=representative,
            overwrite=values.overwrite,
        )
    out.write(f"{path}\n")


def _report(values, out):
    from keras_dha import report
    from keras_dha import saving

    report.require_packages()
    result = saving.read_result(values.run)
    out.write(f"{report.write(result, values.output)}\n")


def _loaded(path):
    """Returns the plain model in a `.keras` file."""
    path = pathlib.Path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise FileNotFoundError(
            "--model must be a file that ends in .keras. "
            f"Received: model={str(path)!r}"
        )
    import keras

    from keras_dha.architecture.derive import derive
    from keras_dha.joint_model import JointModel

    model = keras.saving.load_model(path)
    if isinstance(model, JointModel):
        return derive(model.network)
    return model


def _data_for(model, values):
    """Loads the dataset in the shape that the model takes."""
    from keras_dha import datasets

    shape = tuple(model.inputs[0].shape[1:])
    size = values.image_size or (shape[:2] if None not in shape else None)
    data = datasets.load(values.dataset, image_size=size)
    found = data.x_test.shape[1:]
    if len(found) != len(shape) or any(
        want not in (None, have)
        for want, have in zip(shape, found, strict=True)
    ):
        raise ValueError(
            "The model does not take the images of this dataset. "
            f"Received: model input {shape}, images {found}"
        )
    return data


def _accuracy(model, x, y):
    predicted = model.predict(x, batch_size=256, verbose=0)
    return float((predicted.argmax(-1) == y).mean())


@contextlib.contextmanager
def _muffled():
    """Keeps what TensorFlow's C++ code says about itself off the screen."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


_HELP = {"help", "-h", "-help", "--help"}

COMMANDS = {
    "fit": Command(_fit_flags, _fit),
    "estimate": Command(_estimate_flags, _estimate),
    "evaluate": Command(_evaluate_flags, _evaluate),
    "export": Command(_export_flags, _export),
    "report": Command(_report_flags, _report),
}
