"""Phases: what one `fit` does when.

    warm-up   weights, policy and hyperparameters; all paths alike
    search    the architecture as well
    settle    the same, from the first decision that froze to the last one,
              at the latest at a stated share of the steps
    small images
              a plain network, in runs too short for a search
              (`keras_dha.small_images`); policy and hyperparameters as well
    train     the derived plain network; policy and hyperparameters go on

A network without decisions is trained from the first step. In the last part of
a run, its refinement, augmentation may fade out
(`keras_dha.augmentation.learned`); policy and hyperparameters then stay what
they are, as rates are low and little would come of what is learned.
"""

from typing import NamedTuple

from keras_dha import small_images

WARMUP, SEARCH, SETTLE = "warm-up", "search", "settle"
SMALL, TRAIN = "small images", "train"


class Plan(NamedTuple):
    """The steps at which phases change.

    Attributes:
        total: Steps of the whole run.
        warmup_end: First step at which architecture is searched.
        search_end: Step at which the network is derived at the latest.
        check_every: Steps between two looks at what has settled.
        refine_from: First step of the refinement.
        whole_from: First step that whole images are shown, if those before
            it were small.
    """

    total: int
    warmup_end: int
    search_end: int
    check_every: int
    refine_from: int
    whole_from: int

    def phase(self, step, derived, frozen=0, shrunk=False):
        """Returns the phase of a step.

        Args:
            step: Integer.
            derived: Whether the network is plain by then.
            frozen: How many decisions are frozen by then.
            shrunk: Whether the network is shown small images.
        """
        if derived:
            return SMALL if shrunk else TRAIN
        if step < self.warmup_end:
            return WARMUP
        return SETTLE if frozen else SEARCH

    def progress(self, step):
        """Returns the share of the search that is done after a step.

        Args:
            step: Integer.
        """
        steps = max(1, self.search_end - self.warmup_end)
        return (step + 1 - self.warmup_end) / steps

    def is_learning(self, step, derived):
        """Whether more than the weights is learned at a step.

        Args:
            step: Integer.
            derived: Whether the network is plain by then.
        """
        return step < self.refine_from or not derived

    def refinement(self, step):
        """Returns the share of the refinement that is done before a step.

        Args:
            step: Integer.
        """
        if step <= self.refine_from:
            return 0.0
        return (step - self.refine_from) / (self.total - self.refine_from)


def plan(total, strategy, refinement=0.0):
    """Returns the `Plan` for `total` steps.

    Args:
        total: Positive integer.
        strategy: The architecture strategy, or `None` if there is nothing
            to decide.
        refinement: Float in [0, 1), the refinement's share of the run.
    """
    later = total - round(refinement * total), round(small_images.UNTIL * total)
    if strategy is None:
        return Plan(total, 0, 0, 1, *later)
    warmup = round(strategy.warmup * total)
    # At least one step of search, and one of training the derived network.
    end = min(max(round(strategy.until * total), warmup + 1), total - 1)
    return Plan(total, min(warmup, end), end, max(1, total // 100), *later)
