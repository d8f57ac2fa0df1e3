"""Base schedules: the course of the learning rate that learning multiplies.

What is learned is a factor of the base schedule, so that a rate which stays
where it is still falls towards the end, as training needs it.
"""

import math

import keras


def constant(step, total):
    """Returns 1."""
    del step, total
    return 1.0


def cosine(step, total):
    """Returns half a cosine from 1 down to 0.

    As in Loshchilov & Hutter, "SGDR", ICLR 2017.
    """
    return 0.5 * (1.0 + math.cos(math.pi * step / max(1, total)))


def warmup_cosine(step, total, rise=0.03):
    """Returns a linear rise over the first steps, then half a cosine."""
    rising = max(1, round(rise * total))
    if step < rising:
        return (step + 1) / rising
    return cosine(step - rising, total - rising)


NAMED = {
    "constant": constant,
    "cosine": cosine,
    "warmup_cosine": warmup_cosine,
}


def checked(schedule):
    """Returns `schedule` if it is one.

    Args:
        schedule: A name in `NAMED`, or a
            `keras.optimizers.schedules.LearningRateSchedule`, whose rates are
            then multiplied by what is learned or fixed.
    """
    is_name = isinstance(schedule, str) and schedule in NAMED
    is_keras = isinstance(
        schedule, keras.optimizers.schedules.LearningRateSchedule
    )
    if is_name or is_keras:
        return schedule
    raise ValueError(
        f"`base_schedule` must be one of {sorted(NAMED)} or a "
        "`keras.optimizers.schedules.LearningRateSchedule`. "
        f"Received: base_schedule={schedule!r}"
    )


def factor(schedule, step, total):
    """Returns the factor of the learning rate at a step, a float.

    Args:
        schedule: As `checked` takes it.
        step: Integer from 0.
        total: Integer, steps of the run.
    """
    if isinstance(schedule, str):
        return NAMED[schedule](step, total)
    return float(schedule(step))
