"""Range test: where the learning rate may start and how high it may go.

A short run from the initial weights with a rate that grows exponentially, to
be rolled back afterwards (Smith, "Cyclical learning rates for training neural
networks", WACV 2017). The loss falls, and is then about level over a wide range
of rates, where noise says which is the lowest; so what counts is the rate at
which it is nearly as low. An eighth of that is a sound start. At higher rates
an untrained network does not get on; one that has been trained for a while does
at rates several times as high.

A network may begin far above the loss of guessing, as one whose last layer sees
many features. Ruinous rates bring it to guessing, too, and sooner than sound
ones. So where guessing is the best that is come to, what counts is the rate at
which most of the way is gone.
"""

import math
from typing import NamedTuple

import numpy as np

# Of all that the loss falls, the share that makes it nearly as low as it gets.
_NEARLY = 0.9
# Instead of nearly: where the loss comes from so many times that of guessing,
# and to more than this much of it at the best.
_MOSTLY, _FAR_ABOVE, _AS_GUESSING = 0.7, 1.25, 0.95


class RangeTest(NamedTuple):
    """What a range test found.

    Attributes:
        start: An eighth of the learning rate at which the loss was nearly as
            low as it got.
        high: Four times that rate, above which it must not go.
    """

    start: float
    high: float


def rates(low, high, steps):
    """Returns the growing learning rates of the test, `(steps,)`."""
    return np.geomspace(low, high, steps)


def has_diverged(losses):
    """Whether the losses so far say that the test may stop.

    Args:
        losses: Sequence of floats.
    """
    if not np.isfinite(losses[-1]):
        return True
    smooth = _smoothed(np.asarray(losses))
    lowest = smooth.min()
    # Twice the lowest; of a loss that may be negative, as far above it.
    return len(losses) > 10 and smooth[-1] > lowest + abs(lowest)


def evaluate(tried, losses, guessing=math.inf):
    """Returns the `RangeTest` of the losses seen at the rates tried.

    Args:
        tried: Learning rates, increasing.
        losses: The training loss of one step at each of them.
        guessing: The loss of equal probabilities; infinite if not known.

    Raises:
        FloatingPointError: No loss is finite.
    """
    losses = np.asarray(losses, float)
    usable = np.isfinite(losses)
    tried, losses = np.asarray(tried, float)[usable], losses[usable]
    if not len(losses):
        raise FloatingPointError(
            "The training loss is not finite from the first step: look at "
            "the model and the loss. Received: losses that are NaN or infinite"
        )
    if len(losses) < 3:
        return RangeTest(float(tried[0]), float(tried[-1]))
    smooth = _smoothed(losses)
    is_sure = smooth[0] > _FAR_ABOVE * guessing
    only_guesses = smooth.min() > _AS_GUESSING * guessing
    share = _MOSTLY if is_sure and only_guesses else _NEARLY
    enough = smooth[0] - share * (smooth[0] - smooth.min())
    rate = tried[int(np.argmax(smooth <= enough))]
    return RangeTest(float(rate / 8.0), float(4.0 * rate))


def _smoothed(losses, keep=0.9):
    """Exponential average with the start's bias taken out."""
    total, smooth = 0.0, []
    for k, loss in enumerate(losses, start=1):
        total = keep * total + (1.0 - keep) * loss
        smooth.append(total / (1.0 - keep**k))
    return np.array(smooth)
