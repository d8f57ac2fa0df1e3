"""The directory of a run: what was asked for, and checkpoints to go on from.

A run that is killed loses what came after its last checkpoint, and nothing
else: asked for again, it goes on there, to the losses that it would have had.
A directory is that of one `fit`, which must be asked for alike. It holds

    configuration.json      what was asked for
    checkpoint-0007.keras   the run after seven epochs; the last two are kept
    result.json             what is found so far, in the end what was found
    run.keras               in the end the trained model, for `AutoModel.load`

Files appear whole or not at all, and loading them runs no code.
"""

import contextlib
import hashlib
import json
import pathlib
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_dha import arguments
from keras_dha import atomic
from keras_dha import data
from keras_dha import readable
from keras_dha import saving
from keras_dha._version import __version__
from keras_dha.architecture.description import USED
from keras_dha.architecture.description import described
from keras_dha.data_spec import DataSpec

CONFIGURATION, FINISHED = "configuration.json", "run.keras"
RESULT = "result.json"
_CHECKPOINT = "checkpoint-"
# All that is written here, as patterns of names.
_WRITTEN = (CONFIGURATION, f"{_CHECKPOINT}*.keras", RESULT, FINISHED)
_KEPT = 2
# Of the time at most this share is spent on checkpoints.
_SHARE = 0.05
# What is longer is compared by its hash.
_SHOWN = 60
# Of so many examples it is seen whether data are the same.
_EXAMPLES = 1000


class RunDirectory:
    """The directory of one run.

    Args:
        path: Where it is; made when a run begins.
        overwrite: Whether another run in it may be lost.
    """

    def __init__(self, path, overwrite=False):
        self.path = pathlib.Path(path).expanduser()
        self.overwrite = overwrite
        # What the run there was asked for, and what this one is.
        self._there = self._begins = None
        self._next_time = 0.0

    def check(self, settings, is_new):
        """Refuses what cannot be a run's directory, before anything is done.

        A seed that nobody gave becomes that of the run that is there.

        Args:
            settings: `settings.Settings`.
            is_new: Whether nothing was trained before.
        """
        if not is_new:
            raise ValueError(
                "A directory is that of one `fit`. To go on with one that was "
                "interrupted, make the `AutoModel` anew, with this directory; "
                "to train further, save the model, load it, and `fit` that. "
                f"Received: directory={str(self.path)!r}"
            )
        self._there = self._configuration()
        if self._there is None:
            self._refuse_other_files()
        elif self.overwrite:
            self._there = None
        elif settings.asked["seed"] is None:
            settings.seed = self._there["seed"]
        if self._there is None or not (self.path / FINISHED).is_file():
            # What has ended is read alone.
            atomic.refuse_unwritable(self.path)

    def known(self, x):
        """Returns the `DataSpec` that the run there began with, or `None`.

        Where it was a dataset that declares the same. What is measured of one
        may be otherwise each time that it is read.

        Args:
            x: As given to `fit`.
        """
        there = self._there
        if there is None or not isinstance(x, tf.data.Dataset):
            return None
        if there["asked"].get("x") != _shortened(_of_data(x)):
            return None
        return there["data"]

    def open(self, settings, spec, fit):
        """Returns the run to go on with; `check` comes first.

        Args:
            settings: `settings.Settings`.
            spec: `data_spec.DataSpec` of the training data, what is `known`
                first.
            fit: Dict of arguments of `fit`.

        Returns:
            `saving.Saved`; `None` if there is nothing to go on with yet.

        Raises:
            ValueError: The directory holds another run.
        """
        asked = _asked(settings, spec, fit)
        self._begins = {
            "keras_dha": __version__,
            "seed": settings.seed,
            "asked": asked,
            "data": spec._asdict(),
        }
        if self._there is not None:
            self._refuse_another(self._there["asked"], asked)
        # Not before this is known for its own run: of another one it might
        # be what is being written.
        atomic.sweep(self.path, *_WRITTEN)
        return None if self._there is None else self._newest()

    def keep(self, epochs, write, result):
        """Writes a checkpoint, unless the last one was a moment ago.

        Args:
            epochs: Integer, how many are done.
            write: Function that writes the run to a path.
            result: Function without arguments, the `SearchResult` so far.
        """
        begun = time.monotonic()
        if begun < self._next_time:
            return
        try:
            self._begin()
            write(self.path / f"{_CHECKPOINT}{epochs:04d}.keras")
            self._write(RESULT, result().to_json())
        except OSError as error:
            # A full disk is no reason to lose the run.
            warnings.warn(f"No checkpoint was written: {error}", stacklevel=2)
            return
        self._drop(self._checkpoints()[_KEPT:])
        now = time.monotonic()
        self._next_time = now + (now - begun) / _SHARE

    def finish(self, write, result):
        """Writes the trained model and what was found; drops checkpoints.

        Unless the disk is full: then they stay, and a warning says so.

        Args:
            write: Function that writes the run to a path.
            result: `SearchResult`.
        """
        try:
            self._begin()
            # The model last: where it is, the run has ended.
            self._write(RESULT, result.to_json())
            write(self.path / FINISHED)
        except OSError as error:
            # The trained model is there yet, in the process.
            warnings.warn(
                f"The trained model was not written to {str(self.path)!r}, "
                "where checkpoints are left as they were: `save` it "
                f"elsewhere. Received: {error}",
                stacklevel=2,
            )
            return
        self._drop(self._checkpoints())

    def _drop(self, checkpoints):
        """Deletes what is not needed any more, if the system lets it."""
        for path in checkpoints:
            with contextlib.suppress(OSError):
                path.unlink()

    def _configuration(self):
        path = self.path / CONFIGURATION
        if not path.is_file():
            return None
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            there["data"] = DataSpec.from_json(there["data"])
            known = isinstance(there["asked"], dict)
            if known and isinstance(there["seed"], int):
                return there
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeError):
            pass
        raise ValueError(
            "The configuration of a run cannot be read; give another "
            f"`directory`. Received: {str(path)!r}"
        )

    def _refuse_other_files(self):
        is_free = not self.path.exists()
        if self.path.is_dir():
            # Of a run that was killed before it had a configuration.
            ours = atomic.leftovers(self.path, *_WRITTEN)
            is_free = set(self.path.iterdir()) <= set(ours)
        if not is_free:
            raise ValueError(
                "`directory` must be empty, missing, or that of a run. "
                f"Received: directory={str(self.path)!r}, where other files are"
            )

    def _refuse_another(self, there, asked):
        names = sorted(
            name
            for name in there.keys() | asked.keys()
            if there.get(name) != asked.get(name)
        )
        if names:
            differs = "; ".join(
                f"{name}: {there.get(name)} there, {asked.get(name)} now"
                for name in names
            )
            raise ValueError(
                "`directory` holds a run that was asked for otherwise. Give "
                "another directory, or, to lose that run, overwrite=True of "
                "`AutoModel`; on the command line remove the folder. "
                f"Received: directory={str(self.path)!r} ({differs})"
            )

    def _begin(self):
        """Makes the directory that of this run.

        Not before there is something to keep: a run that fails at once leaves
        nothing behind, and loses no other.
        """
        if self._begins is None:
            return
        if self.overwrite:
            for name in (FINISHED, RESULT):
                (self.path / name).unlink(missing_ok=True)
            for old in self._checkpoints():
                old.unlink()
        self._write(CONFIGURATION, json.dumps(self._begins, indent=2))
        self._begins, self.overwrite = None, False

    def _checkpoints(self):
        """Returns their paths, the newest first."""
        # By number: as text, epoch 10000 would come before 9999.
        # Copies that other programs make have other names.
        found = {
            int(path.stem.removeprefix(_CHECKPOINT)): path
            for path in self.path.glob(f"{_CHECKPOINT}*.keras")
            if path.stem.removeprefix(_CHECKPOINT).isdecimal()
        }
        return [found[epochs] for epochs in sorted(found, reverse=True)]

    def _newest(self):
        """Returns the newest run that can be read, or `None`."""
        finished = [p for p in [self.path / FINISHED] if p.is_file()]
        unread = {}
        for path in [*finished, *self._checkpoints()]:
            try:
                saved = saving.read(path)
            except Exception as error:
                # Whatever is broken in it.
                unread[path.name] = readable.gist(error)
                continue
            if unread:
                warnings.warn(
                    f"The run goes on from {path.name}: what came after it "
                    f"cannot be read. Received: {unread}",
                    stacklevel=2,
                )
            return saved
        if unread:
            raise ValueError(
                "No checkpoint of the run can be read. Make known what it is "
                "made of: register it again under the name that is missing "
                "(`keras.saving.register_keras_serializable`), or call `fit` "
                "in `keras.saving.custom_object_scope` of a dict from that "
                "name; a lambda needs "
                "`keras.config.enable_unsafe_deserialization`. Or begin anew "
                "with overwrite=True. Received: "
                f"directory={str(self.path)!r}, {unread}"
            )
        return None

    def _write(self, name, text):
        with atomic.written_beside(self.path / name) as path:
            path.write_text(text + "\n", encoding="utf-8")


def _asked(settings, spec, fit):
    """Returns what a `fit` is asked for: dict from a name to a text."""
    given = dict(settings.asked)
    optimizer = settings.optimizer
    if not isinstance(given["search_space"], (str, keras.Model)):
        # By what it builds: functions have no other text.
        given["search_space"] = settings.builder(spec)
    given |= {
        "base_schedule": settings.base_schedule,
        "target": settings.target,
        "loss": settings.loss,
        "loss_weights": settings.loss_weights,
        "metrics": settings.metrics,
        "optimizer": None if optimizer.is_default else optimizer.rule,
    }
    given |= {
        # Those of a name follow from its rule, and learning does not start
        # at them.
        f"optimizer.{name}": number if optimizer.is_given else None
        for name, number in optimizer.values.items()
    }
    # What is given may have been through a run before.
    texts = {name: described(value, USED) for name, value in given.items()}
    texts["data"] = str(spec)
    fit = dict(fit)
    # As the run reads them: a list is one array, or one for each input.
    fit["x"], fit["y"] = data.arranged(fit["x"], fit["y"])
    if fit["search_data"] is not None:
        fit["search_data"] = data.arranged(*arguments.pair(fit["search_data"]))
    for name, value in fit.items():
        is_data = name in ("x", "y", "search_data")
        texts[name] = _of_data(value) if is_data else described(value)
    return {name: _shortened(text) for name, text in texts.items()}


def _shortened(text):
    if len(text) <= _SHOWN:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: _SHOWN - 24]}... ({digest[:16]})"


def _of_data(value):
    if isinstance(value, dict):
        return " ".join(f"{k}: {_of_data(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return " ".join(_of_data(part) for part in value)
    if value is None or hasattr(value, "element_spec"):
        return str(getattr(value, "element_spec", None))
    array = np.asarray(value)
    rows = np.linspace(0, len(array) - 1, min(len(array), _EXAMPLES))
    some = np.ascontiguousarray(array[rows.astype(int)])
    digest = hashlib.sha256(some.tobytes()).hexdigest()[:16]
    return f"{array.dtype}{array.shape} {digest}"
