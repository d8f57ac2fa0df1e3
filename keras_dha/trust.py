"""Trust: what keeps a learned learning rate from ruining a run.

Before the first step a range test finds where it may start and how high it
may go. During the run a divergence is noticed, undone and said. At the end
what stayed at a bound is reported.
"""

import math
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_dha.hyperparameters import range_test
from keras_dha.hyperparameters.ranges import Range

# Enough steps for a smooth curve, few enough to cost little of a run.
RANGE_TEST_STEPS = 60
# A loss this many times that of the start is no noise any more.
_FAR_ABOVE = 1.5
# After so many looks a run should be better than it was in the first.
_PATIENCE = 3
# And where it was better than guessing, in the beginning by anything and later
# clearly, should not fall back behind it, but for the noise of a few steps.
_CLEARLY_BETTER = 0.9
_BEHIND_GUESSING = 1.03
# The noise of those steps themselves, in standard errors of their mean.
_NOISE = 2.0
# A network whose units have died guesses, and no worse than that; so many looks
# in a row say that it does, where it was clearly better.
_GUESSING, _DEAD = 0.98, 3
# What was too high for a range test may be right later, but this many times.
_BEYOND = 2.0
# Of so many updates a report can be made, and at a bound for so large a share.
_REPORTED_UPDATES, _REPORTED_SHARE = 20, 0.5


def lacks_start(joint):
    """Whether the learning rate has a range and nobody said where to begin."""
    rate = joint.hyperparameters.values["learning_rate"]
    return isinstance(rate, Range) and rate.start is None


def test_range(joint, step, batches):
    """Finds where the learning rate starts and ends; rolls back.

    Args:
        joint: `JointModel` at its initial weights.
        step: Its compiled inner step.
        batches: Iterator of training batches.

    Returns:
        The `range_test.RangeTest`, already applied.
    """
    learned = joint.hyperparameters
    copy = copy_of(joint)
    tried = range_test.rates(*joint.rule.rates, RANGE_TEST_STEPS)
    losses = []
    current = learned.current("learning_rate")
    try:
        for rate in tried:
            # One seed, and so one path: paths differ more than rates do.
            joint.step.assign(0)
            # The rate under test, as a factor of the one that is set.
            loss = step(next(batches), tf.cast(rate / current, "float32"))
            losses.append(float(loss))
            if range_test.has_diverged(losses):
                break
    finally:
        restore(joint, copy)
        joint.network.reset_metrics()
    found = range_test.evaluate(
        tried[: len(losses)], losses, _loss_of_guessing(joint)
    )
    learned.set_value("learning_rate", found.start, high=found.high)
    learned.expect_rate(learned.bounds("learning_rate")[1])
    return found


class Guard:
    """Notices divergence, goes back to a good state, and halves the rate.

    A training loss has diverged if it is not finite, or, for cross-entropy,
    1.5 times what it was at the start and 1.5 times that of guessing, or worse
    than that of guessing, by more than noise, once it was clearly better, or
    as bad as that in three looks in a row. Looks at the losses every few steps,
    so that devices are rarely waited for.
    In the beginning a run has only its start to lose: cross-entropy that is
    no better after some steps than at first, or than in the mean of the first
    ones, or worse than that of guessing once it was better, is enough to go
    back, and where a range test is to be had, it says once where to go on,
    with half of the rate that it began at as the upper bound, but between once
    and twice that of the test.
    Without a learned learning rate the guard does nothing: a fixed number is
    the user's.

    Args:
        joint: `JointModel`.
        every: Integer, steps between two looks.
        keep_every: Integer, steps between two copies of the state.
        limit: Integer, how often a run is undone before it is given up.
        test: Function that runs a range test and returns what it found.

    Attributes:
        undone: How often a state was gone back to.
        loss: Mean of the last losses that were good; before there are any,
            that of the state that was gone back to.
    """

    def __init__(self, joint, every=10, keep_every=100, limit=8, test=None):
        self.test = test
        self.every = every
        self.keep_every = keep_every
        self.limit = limit
        self.undone = 0
        self.loss = None
        self._start = self._reference = None
        self.watch(joint)

    def watch(self, joint):
        """Goes on with another joint model, whose state is good."""
        self._is_beginning = not int(joint.step.numpy())
        self._joint = joint
        self._rates = [
            key
            for key in joint.hyperparameters.learned
            if joint.hyperparameters.quantities[key].name == "learning_rate"
        ]
        self._losses = []
        self._looks = self._since_kept = self._guesses = 0
        self._at_first = self._lowest = math.inf
        self._copy = copy_of(joint) if self._rates else None

    def state(self):
        """Returns what was seen so far, a dict of plain data.

        All but the losses since the last look, and the state to go back to.
        """
        return {
            "undone": self.undone,
            "loss": self.loss,
            "start": self._start,
            "is_beginning": self._is_beginning,
            "looks": self._looks,
            "since_kept": self._since_kept,
            "guesses": self._guesses,
            "lowest": self._lowest if self._looks else None,
            "at_first": self._at_first if self._looks else None,
            "may_test": self.test is not None,
        }

    def resume(self, state):
        """Goes on from a joint model that was saved in a good state.

        Args:
            state: Dict, as `state` returned it.
        """
        self.undone, self.loss = state["undone"], state["loss"]
        self._start = state["start"]
        if self._start is not None:
            self._reference = max(self._start, _loss_of_guessing(self._joint))
        self._is_beginning = state["is_beginning"]
        self._looks, self._since_kept = state["looks"], state["since_kept"]
        self._guesses = state["guesses"]
        if self._looks:
            self._lowest, self._at_first = state["lowest"], state["at_first"]
        if not state["may_test"]:
            self.test = None

    def check(self, loss):
        """Takes note of a step's loss; returns how many steps were undone.

        Raises:
            FloatingPointError: It has been undone too often.
        """
        if not self._rates:
            return 0
        if self._reference is None:
            self._start = float(loss)
            self._reference = max(self._start, _loss_of_guessing(self._joint))
        self._losses.append(loss)
        self._since_kept += 1
        return self.look() if len(self._losses) >= self.every else 0

    def look(self):
        """Looks at the losses since the last time; returns as `check`."""
        if not self._losses:
            return 0
        seen = len(self._losses)
        losses = [float(x) for x in self._losses]
        mean = float(np.mean(losses))
        self._losses = []
        self._looks += 1
        is_finite = math.isfinite(mean)
        error = float(np.std(losses)) / math.sqrt(seen) if is_finite else 0.0
        self._guesses = (
            self._guesses + 1 if self._guesses_at(mean, error) else 0
        )
        # As NaN is not.
        if not mean < self._limit(error) or self._guesses >= _DEAD:
            self._undo(mean)
            return seen
        self.loss = mean
        if self._looks == 1:
            self._at_first = min(self._start, mean)
        self._lowest = min(self._lowest, mean)
        is_good = mean <= self._reference and not self._guesses
        if self._since_kept >= self.keep_every and is_good:
            self._copy = copy_of(self._joint)
            self._since_kept = 0
            self._is_beginning = False
        return 0

    def _limit(self, error):
        """Returns the mean loss that counts as diverged now.

        Args:
            error: Float, the standard error of the mean loss. Of two classes
                that are hard to tell apart, batches are better than guessing
                and worse by chance.
        """
        guessing = _loss_of_guessing(self._joint)
        is_early = self._is_beginning and self.test
        is_early = is_early and self._looks > _PATIENCE
        if self._lowest < (1.0 if is_early else _CLEARLY_BETTER) * guessing:
            noise = 0.0 if is_early else _NOISE * error
            return _BEHIND_GUESSING * guessing + noise
        if is_early:
            return max(guessing, self._at_first)
        return _FAR_ABOVE * self._reference

    def _guesses_at(self, mean, error):
        """Whether losses are those of guessing where they were better."""
        guessing = _loss_of_guessing(self._joint)
        least = mean - _NOISE * error
        return self._lowest < _CLEARLY_BETTER * guessing and (
            least > _GUESSING * guessing
        )

    def _undo(self, loss):
        rates = self._go_back()
        self.undone += 1
        if self.undone > self.limit:
            raise FloatingPointError(
                f"Training diverged {self.undone} times, although the "
                "learning rate was halved each time: look at the model, the "
                "loss and the data, or set a fixed learning rate. "
                f"Received: loss={loss} at {rates}"
            )
        if self.undone == 1:
            warnings.warn(
                f"Training diverged (loss {loss:.3g}) at {_shown(rates)}. The "
                "last good state was gone back to; the learning rate was set "
                "by a range test, or halved where it had got further, and its "
                "upper bound lowered. Further times are counted in "
                "`result.cost`, not announced.",
                stacklevel=2,
            )
        if self.loss is None:
            self.loss = self._start
        self._looks = self._since_kept = self._guesses = 0
        # What was undone says nothing of the state that was gone back to.
        self._at_first = self._lowest = math.inf
        test, self.test = self.test, None
        learned = self._joint.hyperparameters
        if self._is_beginning and test and "learning_rate" in rates:
            # Not what it came to.
            began = float(learned.current("learning_rate"))
            self._go_on(test().start, began / 2)
            return
        for key, rate in rates.items():
            # Not above that of the state which is gone on from.
            kept = float(learned.current(key))
            learned.set_value(key, min(rate / 2, kept), high=rate / 2)

    def _go_back(self):
        """Restores the last good state; returns the rates that were too high.

        By key. Where an outer step has seen what is not finite, there is none
        left: then the highest that it may have been.
        """
        learned = self._joint.hyperparameters
        rates = {key: float(learned.current(key)) for key in self._rates}
        highest = {key: learned.bounds(key)[1] for key in self._rates}
        restore(self._joint, self._copy)
        for key, rate in rates.items():
            if not math.isfinite(rate):
                rates[key] = min(highest[key], float(learned.current(key)))
        return rates

    def _go_on(self, start, high):
        """Goes on where a range test says, and after that beyond its bound.

        Rates as high as `high` were asked for, and what a network does not
        bear at first may be right later; but by twice at most.
        """
        learned = self._joint.hyperparameters
        tested = learned.bounds("learning_rate")[1]
        high = min(max(high, tested), _BEYOND * tested)
        learned.set_value("learning_rate", start, high=high)
        learned.expect_rate(learned.bounds("learning_rate")[1])


def bound_shares(learned, at_bounds, updates):
    """Returns for each key the shares of updates that ended at its bounds.

    Args:
        learned: `LearnedHyperparameters`.
        at_bounds: Array `(2, learned)`, updates that ended at the lower and
            at the upper bound.
        updates: Integer, updates in all.

    Returns:
        Dict from key to the pair of shares.
    """
    return {
        key: tuple(float(n) / max(1, updates) for n in at_bounds[:, index])
        for index, key in enumerate(learned.learned)
    }


def bound_advice(learned, shares, updates):
    """Returns what to say of those that spent most updates at a bound.

    Args:
        learned: `LearnedHyperparameters`.
        shares: Dict, as `bound_shares` returns it.
        updates: Integer, updates in all.

    Returns:
        Dict from key to a sentence; empty if there is nothing to say.
    """
    advice = {}
    for key, (low, high) in shares.items():
        if updates < _REPORTED_UPDATES or max(low, high) <= _REPORTED_SHARE:
            continue
        side, share = ("lower", low) if low > high else ("upper", high)
        bound, asked = learned.bounds(key), learned.quantities[key].value
        if side == "upper" and bound[1] < 0.999 * asked.high:
            # Lowered by a range test or a divergence: nobody's to widen.
            continue
        bound = bound[side == "upper"]
        advice[key] = (
            f"`{key}` spent {share:.0%} of its updates at its {side} bound "
            f"{bound:.3g}. If that is not where you want it, widen it with "
            f'hyperparameters={{"{learned.quantities[key].name}": '
            "keras_dha.Range(...)}, or fix it with a number."
        )
    return advice


def _loss_of_guessing(joint):
    """Cross-entropy of equal probabilities; infinite for other losses."""
    return joint.loss_object.of_guessing(
        [tensor.shape[-1] for tensor in joint.network.outputs]
    )


def _shown(rates):
    return ", ".join(f"{key}={rate:.3g}" for key, rate in rates.items())


def copy_of(joint):
    """Returns the values of all that a joint model holds, for `restore`."""
    return [keras.ops.convert_to_numpy(v) for v in joint.variables]


def restore(joint, copy):
    """Sets all that a joint model holds to what it was in a copy of it."""
    for variable, value in zip(joint.variables, copy, strict=True):
        variable.assign(value)
