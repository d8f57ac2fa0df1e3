"""Checks of the layer's arguments."""

import numbers

from keras_dha.augmentation.fields import magnitudes_of


def agreeing_operations(names, policy):
    """Returns the policy's operations, unless `names` are others."""
    if names is not None and tuple(names) != policy.operations:
        raise ValueError(
            "`operations` must be None or those of `policy`, "
            f"{policy.operations}. Received: operations={names}"
        )
    return policy.operations


def probability(name, value):
    """Refuses what is neither None nor in (0, 1)."""
    if value is not None and not (_is_real(value) and 0.0 < value < 1.0):
        raise ValueError(
            f"`{name}` must be None or in (0, 1). Received: {name}={value}"
        )


def clean_share(value):
    """Returns `value`, refuses what is not in [0, 1)."""
    if not (_is_real(value) and 0.0 <= value < 1.0):
        raise ValueError(
            f'`clean` must be in [0, 1), or "auto". Received: clean={value!r}'
        )
    return value


def count(name, value):
    """Returns `value`, refuses what is no positive integer."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise ValueError(
            f"`{name}` must be an integer of at least 1. "
            f"Received: {name}={value}"
        )
    return int(value)


def levels(value):
    """Returns a number of levels, or a tuple of them; refuses others."""
    magnitudes = magnitudes_of(value)
    return int(value) if isinstance(value, numbers.Integral) else magnitudes


def value_range(values):
    """Returns (low, high) as floats; refuses what is no range."""
    try:
        low, high = (float(value) for value in values)
        proper = low < high
    except (TypeError, ValueError):
        proper = False
    if not proper:
        raise ValueError(
            "`value_range` must be (low, high) with low < high. "
            f"Received: value_range={values}"
        )
    return (low, high)


def _is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
