"""Contestants that search by trials: KerasTuner's tuners, and Optuna.

They spend 60 % of the time searching, judged by a tenth of the images, and
40 % training the winner on all of them.
"""

import math
import pathlib
import tempfile
import time

import keras
import numpy as np

from benchmarks.peers import family
from keras_dha import base_schedule

SEARCH_SHARE = 0.6
# How many trials the search time would hold if none was stopped early: ten,
# or as many as have a minute each if there is time for more.
TRIALS, TRIAL_SECONDS = 10, 60.0
# Seconds, longer than it takes to time a few steps.
_ENOUGH = 600.0


def keras_tuner(kind):
    """Returns the contestant that searches with a tuner of KerasTuner."""

    def contestant(data, seconds, seed, batch_size):
        import keras_tuner

        begun = time.monotonic()
        searching = SEARCH_SHARE * seconds
        max_epochs = None
        if kind == "hyperband":
            # What a user finds out first.
            epoch = epoch_seconds(data, seed, batch_size)
            max_epochs = hyperband_epochs(searching / epoch)
        hypermodel = _hypermodel(data, searching, begun, seed, batch_size, kind)
        with tempfile.TemporaryDirectory() as folder:
            tuner = _tuner(
                keras_tuner,
                kind,
                hypermodel,
                folder,
                seed,
                max_epochs,
                num_random(searching),
            )
            try:
                tuner.search(verbose=0)
            except keras_tuner.errors.FatalError:
                # The time is up.
                pass
            best = tuner.get_best_hyperparameters(1)[0]
            trials = len(tuner.oracle.trials)
        member = _from_tuner(best)
        left = seconds - (time.monotonic() - begun)
        model, history = family.train(member, data, left, seed, batch_size)
        return model, {
            "trials": trials,
            "max_epochs": max_epochs,
            "winner": member,
            "epochs": len(history.epoch),
        }

    return contestant


def num_trials(seconds):
    """Returns how many whole trials a search of so many seconds should hold."""
    return max(TRIALS, round(seconds / TRIAL_SECONDS))


def num_random(seconds):
    """Returns how many trials are random before a search learns from them.

    A third. Left alone, KerasTuner's Bayesian search begins with three for
    each dimension, here 27, and Optuna's with ten: more than there is time for.
    """
    return num_trials(seconds) // 3


def hyperband_epochs(epochs, factor=3):
    """Returns the `max_epochs` whose whole iteration takes so many epochs.

    By KerasTuner's own estimate, `max_epochs * log(max_epochs, factor) ** 2`.
    """
    most = factor
    while (most + 1) * math.log(most + 1, factor) ** 2 <= epochs:
        most += 1
    return most


def epoch_seconds(data, seed, batch_size):
    """Times an epoch of the hand-made network by some of its steps."""
    watch = _StepTimes(20)
    family.train(
        family.BY_HAND, data, _ENOUGH, seed, batch_size, callbacks=[watch]
    )
    if not watch.times:
        raise RuntimeError(f"no step was timed within {_ENOUGH} s")
    return float(np.median(watch.times)) * (len(data.x) // batch_size)


class _StepTimes(keras.callbacks.Callback):
    """Seconds from the end of each step to that of the next, so many times."""

    def __init__(self, count):
        super().__init__()
        self.times, self._count, self._last = [], count, None

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._last is not None:
            self.times.append(now - self._last)
        self._last = now
        if len(self.times) == self._count:
            self.model.stop_training = True


def _tuner(keras_tuner, kind, hypermodel, folder, seed, max_epochs, random):
    common = {
        "hypermodel": hypermodel,
        "objective": keras_tuner.Objective("val_accuracy", "max"),
        "directory": str(pathlib.Path(folder)),
        "project_name": "peers",
        "seed": seed,
    }
    if kind == "hyperband":
        return keras_tuner.Hyperband(
            max_epochs=max_epochs, hyperband_iterations=100, **common
        )
    if kind == "bayesian":
        return keras_tuner.BayesianOptimization(
            max_trials=1000, num_initial_points=random, **common
        )
    return keras_tuner.RandomSearch(max_trials=1000, **common)


def _hypermodel(data, searching, begun, seed, batch_size, kind):
    import keras_tuner

    training, validation = data.split()
    until = begun + searching
    each = searching / num_trials(searching)

    class Family(keras_tuner.HyperModel):
        def build(self, hp):
            return family.build(
                _from_tuner(hp),
                data.x.shape[1:],
                data.num_classes,
                data.value_range,
            )

        def fit(self, hp, model, *args, epochs=None, callbacks=(), **kwargs):
            now = time.monotonic()
            if now >= until:
                raise keras_tuner.errors.FatalError("The search time is up.")
            member, left = _from_tuner(hp), until - now
            if kind == "hyperband":
                # Its trials differ in epochs; each has a cosine of its own.
                first = kwargs.get("initial_epoch", 0)
                epochs = epochs - first
                steps = epochs * (len(training.x) // batch_size)
                cosine = _CosineOfSteps(member["learning_rate"], steps, until)
            else:
                epochs = 10_000
                cosine = family.Cosine(
                    member["learning_rate"], min(each, left), now
                )
            _, history = family.fit(
                model,
                member,
                training,
                cosine,
                seed,
                batch_size,
                validation,
                callbacks,
                epochs,
            )
            return history

    return Family()


class _CosineOfSteps(keras.callbacks.Callback):
    """A cosine over a number of steps, unless the time is up before."""

    def __init__(self, rate, steps, until):
        super().__init__()
        self._rate, self._steps, self._until = rate, steps, until
        self._step = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = self._rate * base_schedule.factor(
            "warmup_cosine", min(self._step, self._steps - 1), self._steps
        )
        self._step += 1

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() >= self._until:
            self.model.stop_training = True


def _from_tuner(hp):
    return family.suggest(
        lambda name, options: hp.Choice(name, options),
        lambda name, low, high: hp.Float(name, low, high, sampling="log"),
    )


def optuna(data, seconds, seed, batch_size):
    """Optuna's TPE with a median pruner."""
    import optuna as library

    library.logging.set_verbosity(library.logging.WARNING)
    begun = time.monotonic()
    searching = SEARCH_SHARE * seconds
    until = begun + searching
    each = searching / num_trials(searching)
    random = num_random(searching)
    training, validation = data.split()

    def objective(trial):
        member = family.suggest(
            trial.suggest_categorical,
            lambda name, low, high: trial.suggest_float(
                name, low, high, log=True
            ),
        )
        left = until - time.monotonic()
        if left <= 0:
            raise library.TrialPruned
        watch = _Pruning(trial)
        _, history = family.train(
            member,
            training,
            min(each, left),
            seed,
            batch_size,
            validation,
            [watch],
        )
        if watch.pruned:
            raise library.TrialPruned
        return history.history["val_accuracy"][-1]

    study = library.create_study(
        direction="maximize",
        sampler=library.samplers.TPESampler(n_startup_trials=random, seed=seed),
        pruner=library.pruners.MedianPruner(
            n_startup_trials=random, n_warmup_steps=2
        ),
    )
    study.optimize(objective, timeout=searching)
    left = seconds - (time.monotonic() - begun)
    member = study.best_params
    model, history = family.train(member, data, left, seed, batch_size)
    return model, {
        "trials": len(study.trials),
        "winner": member,
        "epochs": len(history.epoch),
    }


class _Pruning(keras.callbacks.Callback):
    """Reports to an Optuna trial and stops it when it is pruned."""

    def __init__(self, trial):
        super().__init__()
        self._trial = trial
        self.pruned = False

    def on_epoch_end(self, epoch, logs=None):
        self._trial.report(logs["val_accuracy"], epoch)
        if self._trial.should_prune():
            self.pruned = self.model.stop_training = True
