"""Arguments: what is refused, and with which words."""

import importlib.util
import numbers
import os

import keras
import tensorflow as tf

# What users of other libraries pass, and what to use here instead.
_ELSEWHERE = {
    "max_trials": "there are no trials: one `fit` searches; set `epochs`",
    "tuner": "there are no trials: one `fit` searches; see `method`",
    "objective": "the search split's loss is the objective",
    "project_name": "use `directory`",
    "max_model_size": 'use `target={"params": ...}`',
    "optimizer": "use `compile(optimizer=...)`, and `hyperparameters` for "
    "what is learned",
    "validation_steps": "give `validation_data` that end there: "
    "`dataset.take(steps)`",
    "validation_freq": "validation comes after each epoch; for longer ones "
    "give `steps_per_epoch`",
    "validation_batch_size": "validation has batches of `batch_size`; for "
    "others give a batched dataset as `validation_data`",
    "initial_epoch": "a further `fit` goes on by itself",
    "sample_weight": "not available in this version; resample the data, or "
    "use `class_weight` of `fit`",
    "time_limit": "it is for `fit`, which then takes that time",
    "weighted_metrics": "use `metrics`",
    "run_eagerly": "steps are always compiled",
    "jit_compile": "steps are compiled without XLA",
    "steps_per_execution": "each step is carried out by itself",
}
_DIRECTORY = "A run goes on by itself: use AutoModel(directory=...)"


def refuse_unknown(arguments, where="AutoModel"):
    """Raises a `TypeError` that says what to use instead, if any are left.

    Args:
        arguments: Dict of the keyword arguments nobody took.
        where: Name of the function that received them.
    """
    if not arguments:
        return
    hints = [
        f"`{name}` ({_ELSEWHERE[name]})" if name in _ELSEWHERE else f"`{name}`"
        for name in arguments
    ]
    raise TypeError(
        f"`{where}` does not take {', '.join(hints)}. "
        f"Received: {', '.join(f'{k}={v!r}' for k, v in arguments.items())}"
    )


def check_directory(directory, overwrite):
    """Refuses what is no directory, and `overwrite` without one."""
    if directory is not None and not isinstance(directory, (str, os.PathLike)):
        raise ValueError(
            "`directory` must be a path or None. "
            f"Received: directory={directory!r}"
        )
    if not isinstance(overwrite, bool) or (overwrite and directory is None):
        raise ValueError(
            "`overwrite` must be True or False, and is for a `directory`. "
            f"Received: overwrite={overwrite!r}, directory={directory!r}"
        )


def pair(given):
    """Returns (x, y) of a pair of arrays, or (dataset, None)."""
    if isinstance(given, tf.data.Dataset):
        return given, None
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return tuple(given)
    raise ValueError(
        "Expected a pair (x, y) of arrays or a `tf.data.Dataset`. "
        f"Received: {type(given).__name__}"
    )


def checked_count(name, value, least=1, or_else=None):
    """Returns an integer of at least `least`; refuses others.

    Those of NumPy are some, as Python's integer, since layers and checkpoints
    are written down in JSON. A boolean is none.

    Args:
        name: What it is called, for the message.
        value: What was given.
        least: Integer.
        or_else: What the caller takes besides, for the message, or `None`.
    """
    if not _is_integer(value) or value < least:
        besides = "" if or_else is None else f"{or_else!r} or "
        raise ValueError(
            f"`{name}` must be {besides}an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def _is_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_seed(seed):
    """Refuses what is no integer in [0, 2**31).

    Seeds of TensorFlow are of 32 bits, of NumPy they are not negative.
    """
    if not _is_integer(seed):
        raise ValueError(f"`seed` must be an integer. Received: seed={seed!r}")
    if not 0 <= seed < 2**31:
        raise ValueError(
            "`seed` must be at least 0 and less than 2**31. "
            f"Received: seed={seed}"
        )


def checked_length(epochs, time_limit, steps_per_epoch):
    """Returns the length of a run; refuses what is none, or given twice.

    Returns:
        (epochs, time limit, steps of an epoch), `None` for what is open.
    """
    if epochs is not None and time_limit is not None:
        raise ValueError(
            "Give `epochs` or `time_limit`, not both. "
            f"Received: epochs={epochs!r}, time_limit={time_limit!r}"
        )
    if epochs is not None:
        epochs = checked_count("epochs", epochs)
    if steps_per_epoch is not None:
        steps_per_epoch = checked_count("steps_per_epoch", steps_per_epoch)
    if time_limit is not None and (
        isinstance(time_limit, bool)
        or not isinstance(time_limit, numbers.Real)
        or not 0 < time_limit < float("inf")
    ):
        raise ValueError(
            "`time_limit` must be a positive number of seconds. "
            f"Received: time_limit={time_limit!r}"
        )
    return epochs, time_limit, steps_per_epoch


def check_validation(validation_split, validation_data, x):
    """Refuses a share to validate on that is none, or that cannot be split."""
    if (
        isinstance(validation_split, bool)
        or not isinstance(validation_split, numbers.Real)
        or not 0 <= validation_split < 1
    ):
        raise ValueError(
            "`validation_split` must be in [0, 1). "
            f"Received: validation_split={validation_split!r}"
        )
    if validation_split and validation_data is not None:
        raise ValueError(
            "Give `validation_split` or `validation_data`, not both. "
            f"Received: validation_split={validation_split}, validation_data "
            f"of type {type(validation_data).__name__}"
        )
    if validation_split and isinstance(x, tf.data.Dataset):
        raise ValueError(
            "`validation_split` splits arrays; of a dataset give "
            "`validation_data=dataset.take(n)`, and train on "
            "`dataset.skip(n)`. "
            f"Received: validation_split={validation_split}"
        )


def checked_class_weight(class_weight, num_classes):
    """Returns the weight of each class, a list of floats, or `None`.

    Args:
        class_weight: Dict from class to weight, 1 for those that it lacks;
            or `None`.
        num_classes: Integer, or of several outputs a dict or list of them.
    """
    if class_weight is None:
        return None
    if isinstance(num_classes, (dict, list)):
        raise ValueError(
            "`class_weight` is for one output, of which there are "
            f"{len(num_classes)} here: use `loss_weights` of `compile`, or "
            f"resample the data. Received: class_weight={class_weight!r}"
        )
    if not isinstance(class_weight, dict) or not all(
        _is_integer(number)
        and 0 <= number < num_classes
        and isinstance(weight, numbers.Real)
        and 0 <= weight < float("inf")
        for number, weight in class_weight.items()
    ):
        raise ValueError(
            "`class_weight` must be a dict from class numbers to weights of "
            f"at least 0, the classes 0..{num_classes - 1}. "
            f"Received: class_weight={class_weight!r}"
        )
    weights = [float(class_weight.get(k, 1.0)) for k in range(num_classes)]
    if not any(weights):
        raise ValueError(
            "Of all weights of classes one at least must be above 0. "
            f"Received: class_weight={class_weight!r}"
        )
    return weights


def checked_verbose(verbose):
    """Returns 0, 1 or 2."""
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            "`verbose` must be 'auto', 0, 1 or 2. "
            f"Received: verbose={verbose!r}"
        )
    return 1 if verbose == "auto" else int(verbose)


def checked_callbacks(callbacks, searches_architecture):
    """Returns the callbacks as a list; refuses what a run would not honour.

    Args:
        callbacks: List of Keras callbacks, one of them, or `None`.
        searches_architecture: Whether the network may become another one
            during the run. Small images change none of its weights.
    """
    if isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    for callback in callbacks or []:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                "`callbacks` must be Keras callbacks. "
                f"Received: {type(callback).__name__}"
            )
        if isinstance(
            callback,
            (
                keras.callbacks.LearningRateScheduler,
                keras.callbacks.ReduceLROnPlateau,
            ),
        ):
            raise ValueError(
                "The learning rate is learned and follows a cosine; set it "
                'with AutoModel(hyperparameters={"learning_rate": ...}) in '
                f"place of a callback. Received: {type(callback).__name__}"
            )
        _refuse_what_needs_a_keras_model(callback)
        if searches_architecture and getattr(
            callback, "restore_best_weights", False
        ):
            raise ValueError(
                "The weights of an epoch of the search do not fit the network "
                "that is derived from it. Use restore_best_weights=False, or "
                "`keras.callbacks.ModelCheckpoint`; or strategy=None of "
                "`AutoModel`, which searches no architecture, as for a network "
                "without choices. "
                f"Received: {type(callback).__name__}"
            )
    return list(callbacks or [])


def _refuse_what_needs_a_keras_model(callback):
    """Refuses callbacks that reach for what `AutoModel` does not have."""
    kinds = keras.callbacks
    unsuited = {
        kinds.BackupAndRestore: _DIRECTORY,
        # Keras has not always had it.
        getattr(kinds, "OrbaxCheckpoint", ()): _DIRECTORY,
        kinds.ProgbarLogger: "A run shows a bar of its own, by `verbose`; "
        "leave it out",
        kinds.SwapEMAWeights: "No optimizer of a run averages weights; leave "
        "it out",
        kinds.TerminateOnNaN: "A run sets a divergence back by itself, or "
        "ends in a FloatingPointError; leave it out",
    }
    found = (
        advice
        for kind, advice in unsuited.items()
        if isinstance(callback, kind)
    )
    advice = next(found, None) or _advice_on_options(callback)
    if advice:
        raise ValueError(f"{advice}. Received: {type(callback).__name__}")


def _advice_on_options(callback):
    """Returns what to do about how a callback was made, or `None`."""
    kinds = keras.callbacks
    is_board = isinstance(callback, kinds.TensorBoard)
    if is_board and importlib.util.find_spec("tensorboard") is None:
        return (
            "TensorBoard needs the package tensorboard, which is not "
            "installed: run `pip install tensorboard`"
        )
    if getattr(callback, "save_weights_only", False):
        return "A run is saved whole: use save_weights_only=False"
    is_checkpoint = isinstance(callback, kinds.ModelCheckpoint)
    if is_checkpoint and not callback.filepath.endswith(".keras"):
        return "A run is saved whole: use a filepath that ends in '.keras'"
    if is_board and (
        callback.histogram_freq
        or callback.embeddings_freq
        or callback.write_steps_per_second
    ):
        return (
            "TensorBoard gets the logs of a run; leave out histogram_freq, "
            "embeddings_freq and write_steps_per_second, which ask for the "
            "layers and the optimizer of a Keras model"
        )
    return None
