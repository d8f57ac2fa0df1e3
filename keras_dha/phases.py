"""Phases: what one `fit` does when.

    warm-up   weights only, all paths alike
    search    weights, architecture, policy and hyperparameters
    train     the derived plain network; policy and hyperparameters go on

Decisions settle during the search, one after the other, and the search ends
when the last one has settled or at a stated share of the steps. A network
without decisions is trained from the first step.
"""

import math
from typing import NamedTuple

WARMUP, SEARCH, TRAIN = "warm-up", "search", "train"


class Plan(NamedTuple):
    """The steps at which phases change.

    Attributes:
        total: Steps of the whole run.
        warmup_end: First step at which architecture is searched.
        search_end: Step at which the network is derived at the latest.
        check_every: Steps between two looks at what has settled.
    """

    total: int
    warmup_end: int
    search_end: int
    check_every: int

    def phase(self, step, derived):
        """Returns the phase of a step, given whether it is derived yet."""
        if derived:
            return TRAIN
        return WARMUP if step < self.warmup_end else SEARCH


def plan(total, strategy):
    """Returns the `Plan` for `total` steps.

    Args:
        total: Positive integer.
        strategy: The architecture strategy, or `None` if there is nothing
            to decide.
    """
    if strategy is None:
        return Plan(total, 0, 0, 1)
    warmup = round(strategy.warmup * total)
    # At least one step of search, and one of training the derived network.
    end = min(max(round(strategy.until * total), warmup + 1), total - 1)
    return Plan(total, min(warmup, end), end, max(1, total // 100))


def base_schedule(step, total, rise=0.03):
    """Returns the factor of the learning rate at a step, in (0, 1].

    A linear rise over the first steps, then half a cosine down to 0, as in
    Loshchilov & Hutter, "SGDR", ICLR 2017. What is learned multiplies it.
    """
    rising = max(1, round(rise * total))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, total - rising)
    return 0.5 * (1.0 + math.cos(math.pi * done))
