"""The price of a candidate, in a run of so many seconds: steps.

A run of T seconds has T / t steps of t seconds each. Its loss L falls about
as a power of its steps, L ~ n^-a, so what makes steps slower by a share m
costs

    a L ln(1 + m)

of loss: as much as a candidate must lower it to be worth its time. How much
slower, is measured while the run is warming up: every candidate is as likely
there, so the mean time of the steps in which it ran, over that of all steps,
is its own doing.
"""

import numpy as np

# Of errors at the end of runs of minutes about 0.2. But what a candidate is
# credited with is mostly noise in so short a search, and times are measured
# well: with 0.2 a network was taken now and then that had half the steps.
_POWER = 0.5
# So many steps of each candidate, or their times say nothing.
_FEWEST = 5


class StepPrice:
    """Times the steps of a warm-up by the candidates that ran.

    Args:
        decisions: List of `keras_dha.Decision` of one edge each.
    """

    def __init__(self, decisions):
        self._decisions = decisions
        self._paths, self._seconds, self._losses = [], [], []

    def note(self, seconds, loss):
        """Takes note of a step.

        Args:
            seconds: Float, how long it took.
            loss: Float. One that is not finite says nothing of the others.
        """
        if not np.isfinite(loss):
            return
        self._paths.append([int(d.sampled.numpy()) for d in self._decisions])
        self._seconds.append(seconds)
        self._losses.append(loss)

    def prices(self):
        """Returns a price for each candidate of all decisions, `(A,)`.

        In units of the loss. Zeros where there is too little to go by.
        """
        paths = np.array(self._paths).reshape(-1, len(self._decisions))
        seconds = np.array(self._seconds)
        found = []
        for k, decision in enumerate(self._decisions):
            chosen = paths[:, k] == np.arange(decision.num_candidates)[:, None]
            found.extend(self._of(chosen, seconds))
        return np.array(found)

    def _of(self, chosen, seconds):
        if np.min(np.sum(chosen, axis=1)) < _FEWEST:
            return np.zeros(len(chosen))
        # Medians: some steps are slow for other reasons.
        times = np.array([np.median(seconds[row]) for row in chosen])
        slower = np.log(times / np.mean(times))
        # Some losses are negative; what is slower costs all the same.
        return _POWER * abs(np.mean(self._losses)) * slower
