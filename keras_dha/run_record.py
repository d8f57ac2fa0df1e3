"""The record of a run: what is written down while it goes on.

The loop in `keras_dha.run` says what happens; here it becomes logs, a history
and in the end a `keras_dha.SearchResult`.
"""

import collections
import platform
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_dha import trust
from keras_dha._version import __version__
from keras_dha.architecture import health
from keras_dha.result import SearchResult

# The name under which the time of first calls is kept.
TRACING = "tracing"
RANGE_TEST = "range test"
SCALE = "choice of the scale"
# At how many places of a run the learning rate is written down.
_RATES_KEPT = 100


class RunRecord:
    """What is written down of one run.

    Args:
        total: Integer, the position at which the run is over.
        begun: Float, the reading of `time.monotonic()` at its beginning.

    Attributes:
        seconds: Dict from phase to seconds spent in it.
        steps: Dict from phase to steps done in it.
        waited: Dict from whether steps were the first of their kind to the
            seconds in which these waited for their batches.
        history: Dict from a quantity's name to its values, one an epoch.
    """

    def __init__(self, total, begun):
        self.seconds = {}
        self.steps = {}
        self.waited = {True: 0.0, False: 0.0}
        self.history = {}
        self._begun = begun
        # What is no number: as in the history, a list of one item an epoch.
        self._details = collections.defaultdict(list)
        self._phases_of_epoch = collections.Counter()
        self._decisions = {}
        self._architecture = {}
        self._rates = {}
        self._rates_every = max(1, total // _RATES_KEPT)
        self._next_kept = 0

    def begin(self, learned):
        """Notes where the hyperparameters start.

        Args:
            learned: `hyperparameters.engine.Engine`.
        """
        self._starts = {
            key: float(learned.current(key)) for key in learned.quantities
        }
        self._bounds_before = (
            learned.at_bounds.numpy(),
            float(learned.count.numpy()),
        )

    def state(self):
        """Returns all that was written down, as plain data."""
        at_bounds, count = self._bounds_before
        return {
            "elapsed": time.monotonic() - self._begun,
            "seconds": self.seconds,
            "steps": self.steps,
            "history": self.history,
            "details": dict(self._details),
            "decisions": {k: float(v) for k, v in self._decisions.items()},
            "architecture": self._architecture,
            "rates": self._rates,
            "next_kept": self._next_kept,
            "starts": self._starts,
            "at_bounds_before": at_bounds.tolist(),
            "count_before": count,
        }

    def resume(self, state):
        """Goes on with the record of a run that was stopped.

        Args:
            state: Dict, as `state` returned it at the end of an epoch.
        """
        self._begun -= state["elapsed"]
        self.seconds, self.steps = state["seconds"], state["steps"]
        self.history = state["history"]
        self._details.update(state["details"])
        self._decisions = state["decisions"]
        self._architecture = state["architecture"]
        self._rates, self._next_kept = state["rates"], state["next_kept"]
        self._starts = state["starts"]
        self._bounds_before = (
            np.array(state["at_bounds_before"]),
            state["count_before"],
        )

    def step(self, phase, begun, is_first, waited=0.0):
        """Counts a step and its time.

        Args:
            phase: Name of the phase that it belongs to.
            begun: Float, the reading of `time.monotonic()` before it.
            is_first: Whether it was the first of its kind, which compiles:
                that is no time of a phase.
            waited: Float, the seconds of it that went by for its batches.
        """
        self.waited[is_first] += waited
        self._phases_of_epoch[phase] += 1
        self.spend(TRACING if is_first else phase, begun)

    def spend(self, phase, begun, steps=1):
        """Counts steps and their time as of a phase.

        Args:
            phase: Name.
            begun: Float, the reading of `time.monotonic()` at the beginning.
            steps: Integer.
        """
        self.add(phase, time.monotonic() - begun, steps)

    def add(self, phase, seconds, steps):
        """Counts steps and the seconds that they took as of a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.steps[phase] = self.steps.get(phase, 0) + steps

    def keep_rates(self, learned, step, position, factor):
        """Writes down the learning rate of some steps, to be replayed.

        Args:
            learned: `hyperparameters.engine.Engine`.
            step: Integer, the step that is about to be done.
            position: Integer, its position in the run.
            factor: Float, the base schedule there.
        """
        if position < self._next_kept:
            return
        self._next_kept = position + self._rates_every
        for key, quantity in learned.quantities.items():
            if quantity.name == "learning_rate":
                kept = self._rates.setdefault(key, {"steps": [], "rates": []})
                kept["steps"].append(step)
                kept["rates"].append(factor * float(learned.current(key)))

    def look_at_decisions(self, joint):
        """Notes how decided the architecture is; it must be in search yet."""
        network = joint.network
        cells = health.cells(network)
        self._architecture = {"decisions": health.probabilities(network)}
        if cells:
            self._architecture["cells"] = cells
        self._decisions = health.trajectory(
            joint.architecture.decisions, network
        ) | {
            f"{name}/{quantity}": cell[quantity]
            for name, cell in cells.items()
            for quantity in ("depth", "width")
            if quantity in cell
        }

    def trajectory(self, joint):
        """Returns the current values of all that is learned.

        Args:
            joint: `JointModel`.

        Returns:
            Dict of floats, for the logs of an epoch.
        """
        learned = joint.hyperparameters
        logs = {key: float(learned.current(key)) for key in learned.learned}
        logs |= learned.logs()
        if joint.policy.augmentation is not None:
            logs["policy_entropy"] = joint.policy.augmentation.policy().entropy
            logs["clean_share"] = joint.policy.clean.numpy()
            logs |= {
                f"policy/{operation}/{quantity}": value
                for operation, found in joint.policy.statistics().items()
                for quantity, value in found.items()
            }
        if joint.architecture.is_searched:
            self.look_at_decisions(joint)
        # Every epoch has the same quantities, as a table wants it.
        logs |= self._decisions
        return {k: float(v) for k, v in logs.items()}

    def end_epoch(self, logs):
        """Writes down an epoch.

        Args:
            logs: Dict of floats.
        """
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        if self._phases_of_epoch:
            # That of most of its steps.
            ((phase, _),) = self._phases_of_epoch.most_common(1)
            self._details["phase"].append(phase)
            self._phases_of_epoch.clear()
        for name, found in self._architecture.items():
            self._details[name].append(found)

    def take_over(self, history):
        """Takes over Keras' history, at the end of an epoch.

        Args:
            history: Dict, that of Keras' `History`, where callbacks may
                have added anything to the logs.
        """
        self.history = {
            name: [_plain(value) for value in values]
            for name, values in history.items()
        }

    def end(self, learned, history):
        """Takes over Keras' history; warns of bounds that were in the way.

        Args:
            learned: `hyperparameters.engine.Engine`.
            history: As `take_over` takes it.
        """
        self.take_over(history)
        for advice in self._bounds(learned)[1].values():
            warnings.warn(advice, stacklevel=2)

    def _bounds(self, learned):
        """Returns shares of updates at bounds, and advice, by key."""
        updates = float(learned.count.numpy()) - self._bounds_before[1]
        at_bounds = learned.at_bounds.numpy() - self._bounds_before[0]
        shares = trust.bound_shares(learned, at_bounds, updates)
        return shares, trust.bound_advice(learned, shares, updates)

    def result(self, joint, genotype, undone):
        """Returns the `SearchResult` of the run as far as it is done.

        Args:
            joint: `JointModel`.
            genotype: The architecture found.
            undone: Integer, how often a state was gone back to.
        """
        learned, target = joint.hyperparameters, joint.target
        shares, advice = self._bounds(learned)
        augmentation = joint.policy.augmentation
        return SearchResult(
            genotype=genotype,
            policy=augmentation and augmentation.policy(),
            hyperparameters={
                name: {
                    "value": float(learned.current(name)),
                    "start": self._starts[name],
                    "learned": name in learned.learned,
                    "at_bounds": list(shares.get(name, (0.0, 0.0))),
                    **(
                        {"bounds": list(learned.bounds(name))}
                        if name in learned.learned
                        else {}
                    ),
                    **({"advice": advice[name]} if name in advice else {}),
                    **self._rates.get(name, {}),
                    **learned.described(name),
                }
                for name in learned.quantities
            },
            history={
                name: list(values)
                for name, values in (self.history | self._details).items()
            },
            cost={
                "seconds": time.monotonic() - self._begun,
                "phases": {
                    name: {"seconds": seconds, "steps": self.steps[name]}
                    for name, seconds in self.seconds.items()
                },
                "parameters": joint.network.count_params(),
                "undone": undone,
                # What is reached is known of a derived network.
                **(
                    {"target": target.record()}
                    if target and target.reached
                    else {}
                ),
            },
            versions={
                "keras_dha": __version__,
                "keras": keras.__version__,
                "tensorflow": tf.__version__,
                "python": platform.python_version(),
            },
        )


def _plain(value):
    """Returns what a callback added to the logs as JSON can hold it."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
