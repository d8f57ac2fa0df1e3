"""Quantities: what a dict of hyperparameters asks for, checked and in a row.

A name maps to a number (fixed), a `Range` (learned), or, for what belongs to
the optimizer, a dict from a pattern of layer names to either: one quantity
for each group of layers.
"""

import difflib
import fnmatch
import math
import numbers
from typing import NamedTuple

import numpy as np

from keras_dha.hyperparameters.hypergradient import OPTIMIZER
from keras_dha.hyperparameters.ranges import Range

# What the library itself does to the training loss.
LABEL_SMOOTHING, MIXUP = "label_smoothing", "mixup"

# Lower and upper end of what each may be: (low, low allowed, high).
_DOMAINS = {
    "learning_rate": (0.0, False, math.inf),
    "weight_decay": (0.0, True, math.inf),
    "momentum": (0.0, True, 1.0),
    LABEL_SMOOTHING: (0.0, True, 1.0),
    MIXUP: (0.0, False, math.inf),
    "dropout_rate": (0.0, False, 1.0),
}
_ELSEWHERE = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "beta_1": "momentum",
    "smoothing": LABEL_SMOOTHING,
    "dropout": "dropout_rate",
}


class Quantity(NamedTuple):
    """One number of a run.

    Attributes:
        name: String, of what it is a value.
        pattern: Pattern of the layers it is for, or `None` for all.
        value: Float or `Range`.
    """

    name: str
    pattern: str | None
    value: object

    @property
    def key(self):
        """Its name in logs and results."""
        return (
            self.name
            if self.pattern is None
            else (f"{self.name}[{self.pattern}]")
        )

    @property
    def is_learned(self):
        """Whether it is a `Range`."""
        return isinstance(self.value, Range)


def validated(values):
    """Returns `values` with every name and value checked; numbers as floats.

    Args:
        values: Dict, as `keras_dha.AutoModel` takes it.
    """
    return {name: _checked(name, value) for name, value in values.items()}


def listed(values):
    """Returns the `Quantity` list of a validated dict."""
    found = []
    for name, value in values.items():
        groups = value if isinstance(value, dict) else {None: value}
        found += [Quantity(name, p, v) for p, v in groups.items()]
    return found


def groups(value, paths):
    """Returns, for each variable, which of a dict's patterns it falls under.

    Args:
        value: Dict from pattern to value; the first that fits counts. A
            pattern fits a variable if it fits the name of a layer on its
            path, or the path itself, as in `fnmatch`.
        paths: List of the variables' paths, such as "stem/conv/kernel".

    Returns:
        int array, one for each path.
    """
    patterns, index = list(value), []
    for path in paths:
        names = [path, *path.split("/")[:-1]]
        fits = [
            any(fnmatch.fnmatchcase(name, pattern) for name in names)
            for pattern in patterns
        ]
        if not any(fits):
            raise ValueError(
                "Every weight must fall under one pattern; end with '*' for "
                f"the rest. Received: patterns={patterns}, which leave out "
                f"{path!r}"
            )
        index.append(fits.index(True))
    return np.array(index)


def unused_patterns(value, paths):
    """Returns the patterns under which no variable falls."""
    used = set(groups(value, paths))
    return [p for k, p in enumerate(value) if k not in used]


def _checked(name, value):
    if isinstance(value, dict):
        if name not in OPTIMIZER or not value:
            raise ValueError(
                f"A dict of groups of layers is for {OPTIMIZER} only, and has "
                f"one pattern at least. Received: {name}={value!r}"
            )
        return {p: _checked_number(name, v) for p, v in value.items()}
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"A hyperparameter's name must be a string. Received: {name!r}"
        )
    if name not in _DOMAINS:
        near = _ELSEWHERE.get(name) or next(
            iter(difflib.get_close_matches(name, _DOMAINS, cutoff=0.8)), None
        )
        if near:
            raise ValueError(
                f"A hyperparameter must be one of {tuple(_DOMAINS)} or of "
                f"your own; did you mean {near!r}? Received: {name!r}"
            )
    return _checked_number(name, value)


def _checked_number(name, value):
    if isinstance(value, Range):
        low, high = value.low, value.high
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        low = high = value = float(value)
    else:
        raise ValueError(
            f"`{name}` must be a number (fixed) or a `keras_dha.Range` "
            f"(learned). Received: {name}={value!r}"
        )
    if not math.isfinite(low):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value!r}")
    least, allowed, most = _DOMAINS.get(name, (-math.inf, True, math.inf))
    if low < least or (low == least and not allowed):
        raise ValueError(
            f"`{name}` must be positive. Received: {name}={value!r}"
        )
    if high >= most:
        raise ValueError(
            f"`{name}` must stay below {most:g}. Received: {name}={value!r}"
        )
    return value
