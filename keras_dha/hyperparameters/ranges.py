"""Ranges: which hyperparameters are learned, where from and within what."""

import math
import numbers

import keras


@keras.saving.register_keras_serializable("keras_dha")
class Range:
    """An interval in which a hyperparameter is learned.

    A plain number instead of a `Range` keeps the hyperparameter fixed.

    Args:
        low: Float, the lower bound.
        high: Float, the upper bound, above `low`.
        scale: `"log"` (default; bounds must be positive) or `"linear"`: on
            which scale the hyperparameter moves.
        start: Float within the bounds at which learning starts. By default
            the middle of the range on its scale, or what an optimizer object
            says; for the learning rate, what a range test on the data finds
            within the bounds, but not for rates of groups of layers, for
            which there is no test.

    Learned by hypergradients, weight decay rises within its range only as far
    as weights still remember a pass over the data and a tenth of the run, and
    falls below its start only as far as they remember no more than a quarter
    of the run. `keras_dha.AutoHAS` has the whole range.

    Example:

    >>> keras_dha.AutoModel(hyperparameters={
    ...     "learning_rate": keras_dha.Range(1e-3, 1.0),
    ...     "weight_decay": 5e-4,
    ... })
    """

    def __init__(self, low, high, scale="log", start=None):
        if scale not in ("log", "linear"):
            raise ValueError(
                f"`scale` must be 'log' or 'linear'. Received: scale={scale!r}"
            )
        given = (low, high) if start is None else (low, high, start)
        if not all(isinstance(value, numbers.Real) for value in given):
            raise ValueError(
                "`low`, `high` and `start` must be numbers. "
                f"Received: low={low!r}, high={high!r}, start={start!r}"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                "`low` and `high` must be finite and satisfy low < high. "
                f"Received: low={low}, high={high}"
            )
        if scale == "log" and low <= 0:
            raise ValueError(
                "A log scale needs positive bounds; use scale='linear' or a "
                f"positive `low`. Received: low={low}, high={high}"
            )
        if start is not None and not low <= start <= high:
            raise ValueError(
                "`start` must lie within the bounds. "
                f"Received: start={start}, low={low}, high={high}"
            )
        self.low = float(low)
        self.high = float(high)
        self.scale = scale
        self.start = None if start is None else float(start)

    @property
    def middle(self):
        """The middle of the range on its scale."""
        if self.scale == "log":
            return math.sqrt(self.low * self.high)
        return (self.low + self.high) / 2

    def clip(self, value):
        """Returns `value`, a float, moved into the bounds."""
        return min(max(value, self.low), self.high)

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
        return {
            "low": self.low,
            "high": self.high,
            "scale": self.scale,
            "start": self.start,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the range that `get_config` described."""
        return cls(**config)

    def __eq__(self, other):
        return (
            isinstance(other, Range) and self.get_config() == other.get_config()
        )

    def __hash__(self):
        return hash(tuple(self.get_config().items()))

    def __repr__(self):
        arguments = [f"{self.low:g}", f"{self.high:g}", repr(self.scale)]
        if self.start is not None:
            arguments.append(f"start={self.start:g}")
        return f"Range({', '.join(arguments)})"
