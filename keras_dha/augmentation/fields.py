"""Checks of a policy's fields, in plain Python."""

import math
from collections.abc import Iterable
from numbers import Integral

# How far from 1 a distribution's sum may be: float32 softmax and a JSON
# rounded by hand pass, a forgotten entry does not.
SUM_TOLERANCE = 1e-4


def magnitudes_of(levels):
    """Returns the magnitude levels as a tuple.

    Args:
        levels: Their number L, for `1/L, 2/L, ..., 1`, or the levels.

    Raises:
        ValueError: If it is neither a positive integer nor rising numbers in
            (0, 1].
    """
    if isinstance(levels, Iterable) and not isinstance(levels, str):
        values = floats("levels", levels)
    elif isinstance(levels, Integral) and not isinstance(levels, bool):
        values = tuple((k + 1) / levels for k in range(levels))
    else:
        values = ()
    if not values or not are_magnitudes(values):
        raise ValueError(
            "`levels` must be an integer of at least 1 or rising magnitudes "
            f"in (0, 1]. Received: levels={levels}"
        )
    return values


def are_magnitudes(levels):
    """Whether these are rising numbers in (0, 1]."""
    rising = all(a < b for a, b in zip(levels, levels[1:], strict=False))
    return bool(levels) and rising and 0.0 < levels[0] <= levels[-1] <= 1.0


def sequence(name, values):
    """Returns a tuple of the values of a field."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(
            f"`{name}` must be a sequence. Received: {name}={values!r}"
        )
    return tuple(values)


def floats(name, values):
    """Returns a tuple of floats."""
    try:
        return tuple(float(value) for value in sequence(name, values))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must hold numbers. Received: {name}={values!r}"
        ) from error


def indices(name, values):
    """Returns a tuple, its integers as Python's own, as JSON has them."""
    return tuple(
        int(value)
        if isinstance(value, Integral) and not isinstance(value, bool)
        else value
        for value in sequence(name, values)
    )


def optional_float(name, value):
    """Returns None or a float."""
    return None if value is None else floats(name, [value])[0]


def check_probability(name, value):
    """Refuses what is neither None nor in [0, 1]."""
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(
            f"`{name}` must be None or a probability in [0, 1]. "
            f"Received: {name}={value}"
        )


def check_distribution(name, values, size):
    """Refuses what are not `size` probabilities with sum 1."""
    proper = all(0.0 <= value <= 1.0 for value in values)
    total = math.fsum(values)
    if len(values) != size or not proper or abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(
            f"`{name}` must hold {size} numbers in [0, 1] with sum 1, they "
            f"are {len(values)} with sum {total:g}. Received: {name}={values}"
        )
