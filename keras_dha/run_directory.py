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
import json
import pathlib
import time
import warnings

import tensorflow as tf

from keras_dha import atomic
from keras_dha import readable
from keras_dha import run_identity
from keras_dha import saving
from keras_dha._version import __version__
from keras_dha.data_spec import DataSpec

CONFIGURATION, FINISHED = "configuration.json", "run.keras"
RESULT = "result.json"
_CHECKPOINT = "checkpoint-"
# All that is written here, as patterns of names.
_WRITTEN = (CONFIGURATION, f"{_CHECKPOINT}*.keras", RESULT, FINISHED)
_KEPT = 2
# Of the time at most this share is spent on checkpoints.
_SHARE = 0.05


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
        declared = run_identity.shortened(run_identity.of_data(x))
        if there["asked"].get("x") != declared:
            return None
        return there["data"]

    def open(self, settings, spec, fit, summary, validation_data):
        """Returns the run to go on with; `check` comes first.

        Args:
            settings: `settings.Settings`.
            spec: `data_spec.DataSpec` of the training data, what is `known`
                first.
            fit: Dict of arguments of `fit`.
            summary, validation_data: As `run_identity.seen` takes them.

        Returns:
            `saving.Saved`; `None` if there is nothing to go on with yet.

        Raises:
            ValueError: The directory holds another run.
        """
        asked = run_identity.asked(settings, spec, fit)
        given = settings, fit, summary, validation_data
        seen = run_identity.seen(*given)
        self._begins = {
            "keras_dha": __version__,
            "seed": settings.seed,
            "asked": asked,
            "seen": seen,
            "data": spec._asdict(),
        }
        if self._there is not None:
            self._refuse_another(self._there["asked"], asked)
        # Not before this is known for its own run: of another one it might
        # be what is being written.
        atomic.sweep(self.path, *_WRITTEN)
        if self._there is None:
            return None
        saved = self._newest()
        self._compare(seen, given, saved)
        if saved is not None:
            # What the run began with stays said.
            self._begins = None
        return saved

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
        others = {self.path} if self.path.exists() else set()
        if self.path.is_dir():
            # Of a run that was killed before it had a configuration.
            ours = atomic.leftovers(self.path, *_WRITTEN)
            others = set(self.path.iterdir()) - set(ours)
        if others:
            raise ValueError(
                "`directory` must be empty, missing, or that of a run; files "
                "of callbacks go elsewhere. Received: "
                f"directory={str(self.path)!r}, where other files are: "
                f"{sorted(each.name for each in others)[:5]}"
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

    def _compare(self, seen, given, saved):
        """Refuses other labels; says that something else was given beside.

        That makes no other run: weights that are drawn at random, and images
        that are changed at random, are others in each process. But where a
        run is not even trained further, nobody would see that it is another.

        Args:
            seen: What `run_identity.seen` returned.
            given: Tuple of its arguments.
            saved: The `saving.Saved` that goes on, or has ended, or `None`.
        """
        there = self._there.get("seen", {})
        labels, names = run_identity.LABELS, [run_identity.LABELS]
        if saved is not None:
            names.append(run_identity.VALIDATION)
            names += run_identity.BESIDE if saved.result else ()
        names = run_identity.differing(there, seen, given, names)
        if labels in names:
            self._refuse_another(
                {labels: there[labels]}, {labels: seen[labels]}
            )
        if not names:
            return
        differs = "; ".join(
            f"{name}: {there[name]} there, {seen[name]} now" for name in names
        )
        hint = ""
        if run_identity.WEIGHTS in names:
            hint = (
                " Random weights are the same each time behind "
                "`keras.utils.set_random_seed`."
            )
        warnings.warn(
            "The run in `directory` was given something else, and what it "
            "found is of that. Give another directory for another run, or, to "
            f"lose that one, overwrite=True of `AutoModel`.{hint} "
            f"Received: directory={str(self.path)!r} ({differs})",
            stacklevel=2,
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
