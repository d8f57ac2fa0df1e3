"""Progress: phase, epoch and remaining time, above Keras' own bar."""

import sys
import time

import keras


class Progress(keras.callbacks.Callback):
    """Shows a run as it goes, in a terminal or a notebook.

    Args:
        pace: The run's `keras_dha.pace.StepPace` or `ClockPace`.
        phase: Function without arguments that names the current phase.
        steps_per_epoch: Integer.
        verbose: 0 silent, 1 a bar for each epoch, 2 a line for each epoch.
    """

    def __init__(self, pace, phase, steps_per_epoch, verbose):
        super().__init__()
        self._pace = pace
        self._phase = phase
        self._steps_per_epoch = steps_per_epoch
        self._verbose = verbose
        self._bar = None
        self._measured_from = None
        self._steps_seen = 0
        self._shown_at = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        if not self._verbose:
            return
        step = epoch * self._steps_per_epoch
        of = f"/{self._pace.epochs}" if self._pace.epochs else ""
        line = f"Epoch {epoch + 1}{of} - {self._phase()}"
        left = self._seconds_left(step)
        if left is not None:
            line += f" - {_clock(left)} left"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        self._bar = keras.utils.Progbar(
            self._steps_per_epoch,
            verbose=self._verbose,
        )

    def on_train_batch_end(self, batch, logs=None):
        # The first step pays for tracing: the clock starts after it.
        if self._measured_from is None:
            self._measured_from = time.monotonic()
        else:
            self._steps_seen += 1
        if self._verbose == 1 and time.monotonic() - self._shown_at > 0.2:
            self._shown_at = time.monotonic()
            values = [(k, float(v)) for k, v in (logs or {}).items()]
            self._bar.update(batch + 1, values, finalize=False)

    def on_epoch_end(self, epoch, logs=None):
        if self._verbose:
            # What has a slash in its name is of one decision or operation.
            shown = [(k, v) for k, v in (logs or {}).items() if "/" not in k]
            self._bar.update(self._steps_per_epoch, shown, True)

    def _seconds_left(self, step):
        if not self._steps_seen:
            return None
        each = (time.monotonic() - self._measured_from) / self._steps_seen
        return self._pace.seconds_left(step, each)


def message(text, verbose):
    """Writes one line of news about the run, unless it is silent."""
    if verbose:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _clock(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"
