"""The record of a run: what is written down while it goes on.

The loop in `keras_dha.run` says what happens; here it becomes logs, a history
and in the end a `keras_dha.SearchResult`.
"""

import time

from keras_dha import trust
from keras_dha.architecture import health
from keras_dha.result import SearchResult

# The name under which the time of first calls is kept.
TRACING = "tracing"
RANGE_TEST = "range test"
# At how many places of a run the learning rate is written down.
_RATES_KEPT = 100


class RunRecord:
    """What is written down of one run.

    Args:
        total: Integer, the position at which the run is over.

    Attributes:
        seconds: Dict from phase to seconds spent in it.
        steps: Dict from phase to steps done in it.
        history: Dict from a quantity's name to its values, one an epoch.
    """

    def __init__(self, total):
        self.seconds = {}
        self.steps = {}
        self.history = {}
        self._policies = []
        self._decisions = {}
        self._rates = {}
        self._rates_every = max(1, total // _RATES_KEPT)
        self._next_kept = 0

    def begin(self, learned):
        """Notes where the hyperparameters start.

        Args:
            learned: `LearnedHyperparameters`.
        """
        self._starts = {
            key: float(learned.current(key)) for key in learned.quantities
        }
        self._bounds_before = (
            learned.at_bounds.numpy(),
            float(learned.count.numpy()),
        )

    def spend(self, phase, begun, steps=1):
        """Counts steps and their time as of a phase.

        Args:
            phase: Name.
            begun: Float, the reading of `time.monotonic()` at the beginning.
            steps: Integer.
        """
        spent = time.monotonic() - begun
        self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        self.steps[phase] = self.steps.get(phase, 0) + steps

    def keep_rates(self, learned, step, position, factor):
        """Writes down the learning rate of some steps, to be replayed.

        Args:
            learned: `LearnedHyperparameters`.
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
        self._decisions = health.trajectory(
            joint.architecture.decisions, joint.network
        )

    def trajectory(self, joint):
        """Returns the current values of all that is learned by gradient.

        Args:
            joint: `JointModel`.

        Returns:
            Dict of floats, for the logs of an epoch.
        """
        learned = joint.hyperparameters
        logs = {key: float(learned.current(key)) for key in learned.learned}
        if joint.policy.augmentation is not None:
            logs["policy_entropy"] = joint.policy.augmentation.policy().entropy
        if joint.architecture.is_searched:
            self.look_at_decisions(joint)
        # Every epoch has the same quantities, as a table wants it.
        logs |= self._decisions
        return {k: float(v) for k, v in logs.items()}

    def look_at_policy(self, joint):
        """Notes what the policy did in an epoch."""
        self._policies.append(joint.policy.statistics())

    def end(self, learned, history, begun):
        """Closes the record, and warns of bounds that were in the way.

        Args:
            learned: `LearnedHyperparameters`.
            history: Dict, that of Keras' `History`.
            begun: Float, the reading of `time.monotonic()` at the beginning.
        """
        self._at_bounds = trust.report_bounds(
            learned,
            learned.at_bounds.numpy() - self._bounds_before[0],
            float(learned.count.numpy()) - self._bounds_before[1],
        )
        self._total_seconds = time.monotonic() - begun
        self.history = history

    def result(self, joint, genotype, undone):
        """Returns the `SearchResult` of a run that has ended.

        Args:
            joint: `JointModel`, derived.
            genotype: The architecture found.
            undone: Integer, how many steps were undone.
        """
        learned, target = joint.hyperparameters, joint.target
        augmentation = joint.policy.augmentation
        return SearchResult(
            genotype=genotype,
            policy=augmentation and augmentation.policy(),
            hyperparameters={
                name: {
                    "value": float(learned.current(name)),
                    "start": self._starts[name],
                    "learned": name in learned.learned,
                    "at_bounds": list(self._at_bounds.get(name, (0.0, 0.0))),
                    **self._rates.get(name, {}),
                }
                for name in learned.quantities
            },
            history=self.history | self._policy_history(),
            cost={
                "seconds": self._total_seconds,
                "phases": {
                    name: {"seconds": seconds, "steps": self.steps[name]}
                    for name, seconds in self.seconds.items()
                },
                "parameters": joint.network.count_params(),
                "undone": undone,
                **({"target": target.record()} if target else {}),
            },
        )

    def _policy_history(self):
        found = self._policies
        return {"policy": found} if found and found[0] else {}
