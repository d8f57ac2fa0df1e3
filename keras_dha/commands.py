"""What the commands of the command line do.

Each is a function of the flags' values and a stream for its output. TensorFlow
is loaded by those that need it, when they need it.
"""

import contextlib
import dataclasses
import os
import pathlib
import sys

from keras_dha.cli_flags import UsageError


def fit(values, out):
    """Trains a model and writes all that a run leaves."""
    from keras_dha import atomic
    from keras_dha import datasets

    name = datasets.short_name(values.dataset)
    output = _path(values.output or name)
    _refuse_in_use(output, values)
    if values.epochs is not None and values.time_limit is not None:
        raise UsageError("fit: give --epochs or --time_limit, not both")
    model = _auto_model(
        "fit", values, seed=values.seed, directory=values.directory
    )
    data = _training_data(values)
    atomic.refuse_unwritable(output)
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
    # Files of a model know no names. A dataset may name more classes than have
    # training images, which are those of the model.
    names = list(data.class_names)[: plain.outputs[0].shape[-1]]
    result = dataclasses.replace(model.result, class_names=names)
    # Before what may go wrong, or be interrupted.
    files = _write_found(plain, result, output, name)
    out.write(f"\n{result.summary()}\n\n")
    accuracy = _accuracy(plain, data.x_test, data.y_test, values.batch_size)
    out.write(_test_line(accuracy, data))
    files |= _write_served(plain, output, name)
    for meaning, path in files.items():
        out.write(f"{meaning:<14} {path}\n")


def _refuse_in_use(output, values):
    from keras_dha import datasets
    from keras_dha import export

    folder = datasets.as_folder(values.dataset)
    if folder is not None and output.resolve() == folder.resolve():
        raise UsageError("fit: --output is the dataset; choose another")
    if values.directory is not None:
        _refuse_one_in_the_other(output, values.directory)
    if values.overwrite:
        return
    try:
        export.refuse_existing(output)
    except FileExistsError:
        raise FileExistsError(
            "The output folder is not empty; choose another with --output, "
            f"or pass --overwrite. Received: output={str(output)!r}"
        ) from None


def _refuse_one_in_the_other(output, directory):
    """Refuses folders of which one would have files of the other."""
    outer, inner = output.resolve(), _path(directory).resolve()
    received = f"Received: directory={directory!r}, output={str(output)!r}"
    if inner.is_relative_to(outer):
        raise UsageError(
            "fit: --directory is in the output folder, which is to be empty "
            f"before a run; choose another. {received}"
        )
    if outer.is_relative_to(inner):
        raise UsageError(
            "fit: the output folder is in --directory, which is for the run "
            f"alone; choose another --output. {received}"
        )


def estimate(values, out):
    """Says what a run would take."""
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


def _path(text):
    """Returns a path; shells leave the `~` in `--flag=~/folder` as it is."""
    return pathlib.Path(text).expanduser()


def _write_found(plain, result, output, name):
    """Writes the model and what was found; returns what is where."""
    from keras_dha import run_directory
    from keras_dha.atomic import written_beside

    files = {
        "Keras model": output / f"{name}.keras",
        "Result": output / run_directory.RESULT,
    }
    with written_beside(files["Result"]) as path:
        path.write_text(result.to_json() + "\n", encoding="utf-8")
    with written_beside(files["Keras model"]) as path:
        plain.save(path)
    return files


def _write_served(plain, output, name):
    """Writes the model as it is served; returns what is where."""
    from keras_dha import export

    files = {
        "SavedModel": output / name / "1",
        "LiteRT": output / f"{name}.tflite",
    }
    with muffled():
        export.export_model(plain, files["SavedModel"], overwrite=True)
        export.export_model(plain, files["LiteRT"], "litert", overwrite=True)
    return files


def evaluate(values, out):
    """Measures a trained model on test images."""
    model = _loaded(values.model)
    data = _data_for(model, values)
    labels = _test_labels(data, model, values.model)
    accuracy = _accuracy(model, data.x_test, labels)
    out.write(_test_line(accuracy, data))


def _test_labels(data, model, path):
    """Returns the test labels as the model numbers its classes.

    By their names, if what `fit` found is beside the model; by their order,
    which a dataset of other classes has not, if nobody knows them.
    """
    import numpy as np

    known, count = _class_names(path), model.outputs[0].shape[-1]
    if known is None and len(data.class_names) != count:
        raise ValueError(
            "A dataset must have as many classes as the model, or the "
            "result.json of `fit` must be beside the model, by whose names "
            "some of them are enough. Received: "
            f"{len(data.class_names)} classes, model with {count}"
        )
    if known is None:
        return data.y_test
    if len(known) != count:
        raise ValueError(
            "The result.json beside the model is that of another one; move "
            f"it away. Received: {len(known)} class names, model with {count}"
        )
    tested = {data.class_names[label] for label in np.unique(data.y_test)}
    unknown = sorted(tested - set(known))
    if unknown:
        raise ValueError(
            f"The classes of the model are {known}; call those of the dataset "
            f"alike, or leave them out. Received: classes {unknown}"
        )
    number = {name: k for k, name in enumerate(known)}
    return np.array([number.get(n, -1) for n in data.class_names])[data.y_test]


def _class_names(path):
    """Returns the names in the result beside a model, `None` without any."""
    from keras_dha import run_directory
    from keras_dha import saving

    beside = _path(path).parent / run_directory.RESULT
    if not beside.is_file():
        return None
    try:
        return saving.read_result(beside).class_names
    except ValueError as error:
        raise ValueError(
            "The result.json beside the model, which has the names of its "
            "classes, cannot be read; move it away to go by their order. "
            f"Received: {str(beside)!r}: {error}"
        ) from error


def _test_line(accuracy, data):
    return f"Test accuracy  {accuracy:.2%} of {len(data.y_test):,} images\n"


def export(values, out):
    """Writes a trained model for serving."""
    if values.quantize == "int8" and not values.dataset:
        raise UsageError("export: --quantize=int8 needs --dataset")
    if values.quantize != "none" and values.format != "litert":
        raise UsageError("export: --quantize is for --format=litert only")
    if values.quantize != "int8" and (values.dataset or values.image_size):
        raise UsageError(
            "export: --dataset and --image_size are for --quantize=int8 only"
        )
    model = _loaded(values.model)
    representative = None
    if values.quantize == "int8":
        import numpy as np

        # Folders are read class by class.
        images = _data_for(model, values).x_train
        some = np.random.default_rng(0).permutation(len(images))[:100]
        representative = images[some]
    from keras_dha import export

    with muffled():
        path = export.export_model(
            model,
            _path(values.output),
            format=values.format,
            quantize=_part(values.quantize),
            representative_data=representative,
            overwrite=values.overwrite,
        )
    out.write(f"{path}\n")


def report(values, out):
    """Writes the page of a run."""
    from keras_dha import report
    from keras_dha import saving

    report.require_packages()
    result = saving.read_result(_path(values.run))
    out.write(f"{report.write(result, _path(values.output))}\n")


def _loaded(path):
    """Returns the plain model in a `.keras` file, of a run as well."""
    path = _path(path)
    if path.suffix != ".keras" or not path.is_file():
        raise FileNotFoundError(
            "--model must be a file that ends in .keras. "
            f"Received: model={str(path)!r}"
        )
    from keras_dha import saving
    from keras_dha.joint_model import JointModel
    from keras_dha.trained import Trained

    model = saving.load(path)
    if isinstance(model, JointModel):
        run = Trained()
        run.joint = model
        return run.export_model()
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


def _accuracy(model, x, y, batch_size=None):
    from keras_dha.data import BATCH_SIZE

    size = min(batch_size or BATCH_SIZE, BATCH_SIZE)
    predicted = model.predict(x, batch_size=size, verbose=0)
    return float((predicted.argmax(-1) == y).mean())


@contextlib.contextmanager
def muffled():
    """Keeps what TensorFlow's C++ code says about itself off the screen.

    What Python says goes there still: its warnings, and what is printed to
    `sys.stderr`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    usual = sys.stderr
    usual.flush()
    beside, saved = _beside(usual), os.dup(2)
    try:
        sys.stderr = beside
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr = usual
        os.dup2(saved, 2)
        os.close(saved)
        beside.flush()


def _beside(stream):
    """Returns a stream to where one goes, whatever becomes of descriptor 2."""
    try:
        is_muffled = stream.fileno() == 2
    except (AttributeError, OSError):
        # In notebooks and tests it is no file.
        is_muffled = False
    if not is_muffled:
        return stream
    # Never closed: handlers of logs that are made meanwhile keep it, such as
    # that of absl, which is imported with TensorFlow.
    return open(
        os.dup(2),
        "w",
        buffering=1,
        encoding=stream.encoding,
        errors=stream.errors,
        closefd=False,
    )
