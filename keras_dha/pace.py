"""Pace: how far a run is, counted in steps or read from the clock.

Phases and schedules are laid out over positions 0, 1, ... up to a total. Of
a run of so many epochs they are its steps; of a run of so many seconds they
are parts of that time, so that it is well used whatever a step costs, and
whenever that changes because the network did.
"""

import math
import time
import warnings

# Fine enough for a smooth schedule.
_PARTS = 10_000
# Of the time at least this share is kept for what comes after the last step.
_RESERVED = 0.02
# By an estimate at most this share is kept for each thing.
_ESTIMATED = 0.25
# What to do about what the time of a run went by.
_INSTEAD = {
    "preparing": "search less",
    "reading data": "let data be read faster, as by `dataset.cache()`",
    "compiling": "search less",
    "steps": "take a smaller network",
}


class StepPace:
    """The pace of a run of a number of epochs.

    Args:
        epochs: Integer.
        steps_per_epoch: Integer.

    Attributes:
        epochs: As given.
        total: Integer, the position at which the run is over.
    """

    def __init__(self, epochs, steps_per_epoch):
        self.epochs = epochs
        self.total = epochs * steps_per_epoch

    def position(self, step):
        """Returns the position of a step, an integer."""
        return step

    def is_over(self, step):
        """Whether `step` steps are all."""
        return step >= self.total

    def expected_steps(self, step):
        """Returns how many steps there are in all."""
        return self.total

    def seconds_left(self, step, seconds_per_step):
        """Returns an estimate of the seconds from a step to the end."""
        return seconds_per_step * (self.total - step)

    def start(self):
        """Nothing to do: what was before the first step was no step."""

    def leave_out(self, seconds):
        """Nothing to do: compiling takes no steps."""

    def reserve(self, purpose, seconds):
        """Nothing to do: the end may take the time it takes."""

    def foresee(self, purpose, seconds):
        """Nothing to do, as for `reserve`."""

    def check(self, steps, steps_per_epoch, spent):
        """Nothing to say: the steps are those that were asked for."""

    def state(self):
        """Returns what there is to know of a run's time; nothing is."""
        return {}

    def resume(self, state):
        """Nothing to do: steps are counted by the run."""


class ClockPace:
    """The pace of a run of a number of seconds.

    Args:
        seconds: Float, how long the run is to take, all in all.
        begun: Float, the reading of `time.monotonic()` at its beginning.

    Attributes:
        epochs: `None`; there is time for as many as there is.
        total: Integer, the position at which the run is over.
    """

    epochs = None
    total = _PARTS

    def __init__(self, seconds, begun):
        self._seconds = seconds
        self._begun = begun
        self._started = begun
        self._left_out = 0.0
        # What comes after the last step, by what it is for.
        self._reserved = {}
        self._furthest = 0

    def position(self, step):
        """Returns the position now; it never goes back."""
        del step
        now = time.monotonic()
        kept = max(_RESERVED * self._seconds, sum(self._reserved.values()))
        end = self._begun + self._seconds - kept
        share = 1.0
        if now < end:
            # Of the time in which there are steps.
            nothing = self._started + self._left_out
            share = (now - nothing) / (end - nothing)
        self._furthest = max(self._furthest, int(_PARTS * share))
        return self._furthest

    def is_over(self, step):
        """Whether the time is up."""
        return self.position(step) >= self.total

    def expected_steps(self, step):
        """Returns how many steps there will be, from how far a step is."""
        if not step:
            return math.inf
        return step * self.total / max(1, self._furthest)

    def seconds_left(self, step, seconds_per_step):
        """Returns the seconds to the end."""
        del step, seconds_per_step
        return max(0.0, self._begun + self._seconds - time.monotonic())

    def start(self):
        """Begins with the positions: the first step comes now."""
        self._started = time.monotonic()

    def leave_out(self, seconds):
        """Takes time that was spent on compiling out of the positions.

        Else a short run would have compiled all through its warm-up.
        """
        self._left_out += seconds

    def reserve(self, purpose, seconds):
        """Keeps time for what comes after the last step.

        Args:
            purpose: String; what is kept for one adds to that for others.
            seconds: Float.
        """
        self._reserved[purpose] = seconds

    def foresee(self, purpose, seconds):
        """Keeps time for what was not measured yet.

        An estimate from a few steps may be far too high, and positions never
        go back: so it must not end a run, and counts up to a quarter of it.

        Args:
            purpose: As `reserve` takes it, which sets it right later.
            seconds: Float, an estimate.
        """
        self._reserved[purpose] = min(seconds, _ESTIMATED * self._seconds)

    def state(self):
        """Returns how the time was spent so far, a dict of plain data."""
        return {
            "elapsed": time.monotonic() - self._begun,
            "before_steps": self._started - self._begun,
            "left_out": self._left_out,
            "reserved": self._reserved,
            "furthest": self._furthest,
        }

    def resume(self, state):
        """Goes on with the time that a run had left.

        Args:
            state: Dict, as `state` returned it.
        """
        self._begun -= state["elapsed"]
        self._started = self._begun + state["before_steps"]
        self._left_out = state["left_out"]
        self._reserved = state["reserved"]
        self._furthest = state["furthest"]

    def check(self, steps, steps_per_epoch, spent):
        """Warns if the time was too short to train in.

        Args:
            steps: Integer, how many there were.
            steps_per_epoch: Integer.
            spent: Dict of the seconds that it took, from the first step on, by
                `"reading data"`, `"compiling"` and `"steps"`.
        """
        if steps >= steps_per_epoch:
            return
        spent = {"preparing": self._started - self._begun, **spent}
        most, *others = sorted(spent, key=spent.get, reverse=True)
        shown = [most, *(name for name in others if spent[name] >= 0.5)]
        took = ", ".join(f"{name} took {spent[name]:.0f} s" for name in shown)
        warnings.warn(
            f"`time_limit` was not enough for one epoch: {took}. Give more "
            f"time, or {_INSTEAD[most]}. Received: time_limit="
            f"{self._seconds:g}, which gave {steps} of {steps_per_epoch} steps",
            stacklevel=2,
        )
