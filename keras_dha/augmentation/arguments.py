"""Checks of the layer's arguments."""

import numbers
from collections.abc import Iterable

from keras_dha.augmentation.fields import magnitudes_of

# What the layer's arguments that a policy stands in for are by default.
DEFAULTS = {
    "operations": None,
    "levels": 10,
    "flip": 0.5,
    "shift": 0.5,
    "length": 1,
    "sub_policies": None,
    "application": None,
    "mixup": None,
    "cutmix": None,
}


def agreeing(policy, given, defaults=DEFAULTS):
    """Refuses arguments that say anything else than a policy does.

    Args:
        policy: `Policy`.
        given: Dict of the values of some of `DEFAULTS`' arguments.
        defaults: Dict of values that may be nobody's.
    """
    said = {
        "operations": policy.operations,
        "levels": policy.magnitudes,
        "length": len(policy.steps[0]),
        "flip": policy.flip,
        "shift": policy.shift,
        "mixup": policy.mixup,
        "cutmix": policy.cutmix,
    }
    for name, value in given.items():
        if isinstance(value, Iterable) and not isinstance(value, str):
            value = tuple(value)
        agreed = [said.get(name), defaults.get(name, said.get(name))]
        if name == "levels":
            agreed.append(len(policy.magnitudes))
        if value not in agreed:
            raise ValueError(
                f"`{name}` is said by `policy`: leave it out, or change it in "
                "the policy, by `dataclasses.replace`. "
                f"Received: {name}={value} beside a policy"
            )


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


def levels(value):
    """Returns a number of levels, or a tuple of them; refuses others."""
    magnitudes = magnitudes_of(value)
    return int(value) if isinstance(value, numbers.Integral) else magnitudes


def magnitude(value):
    """Refuses what is not in (0, 1]."""
    if not (_is_real(value) and 0.0 < value <= 1.0):
        raise ValueError(
            "`magnitude` must be in (0, 1], 1 being the strongest. "
            f"Received: magnitude={value!r}"
        )


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
