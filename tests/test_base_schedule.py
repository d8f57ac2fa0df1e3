import keras
import numpy as np
import pytest

from keras_dha import base_schedule


def numpy_schedule(total, rise):
    """Linear rise, then half a cosine, written down as arrays."""
    rising = max(1, round(rise * total))
    up = np.arange(1, rising + 1) / rising
    down = np.cos(np.linspace(0.0, np.pi, total - rising, endpoint=False))
    return np.concatenate([up, 0.5 + 0.5 * down])


@pytest.mark.parametrize("total, rise", [(200, 0.1), (37, 0.25), (5, 0.0)])
def test_base_schedule(total, rise):
    ours = [base_schedule.warmup_cosine(k, total, rise) for k in range(total)]
    np.testing.assert_allclose(ours, numpy_schedule(total, rise), rtol=1e-12)


@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
def test_no_step_is_lost_and_none_exceeds_the_learned_rate(total):
    factors = [base_schedule.warmup_cosine(k, total) for k in range(total)]
    assert max(factors) == 1.0
    assert min(factors) > 0.0


def test_constant_and_cosine():
    assert [base_schedule.factor("constant", k, 9) for k in range(9)] == [1] * 9
    np.testing.assert_allclose(
        [base_schedule.factor("cosine", k, 9) for k in range(9)],
        keras.optimizers.schedules.CosineDecay(1.0, 9)(np.arange(9.0)),
        rtol=1e-6,
    )


def test_a_keras_schedule():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.3, 10, 0.5)
    assert base_schedule.checked(schedule) is schedule
    assert base_schedule.factor(schedule, 20, 100) == pytest.approx(0.075)


@pytest.mark.parametrize("schedule", ["linear", None, 0.1, lambda step: 0.1])
def test_what_is_no_schedule(schedule):
    with pytest.raises(ValueError, match="`base_schedule` must be one of"):
        base_schedule.checked(schedule)
