"""Curves whose minimum is known by construction."""

import numpy as np
import pytest

from keras_dha.hyperparameters import range_test

LOW, HIGH, STEPS = 1e-3, 3.0, 60


def parabola(lowest, noise=0.0):
    """A loss that is lowest at `lowest`, quadratic in its log around it."""
    tried = range_test.rates(LOW, HIGH, STEPS)
    losses = 1.0 + np.minimum(np.log(tried / lowest) ** 2, 4.0)
    return tried, losses + noise * np.random.default_rng(0).normal(size=STEPS)


def test_rates_grow_by_one_factor():
    tried = range_test.rates(LOW, HIGH, STEPS)
    assert (tried[0], tried[-1]) == pytest.approx((LOW, HIGH))
    np.testing.assert_allclose(
        np.diff(np.log(tried)), np.log(HIGH / LOW) / (STEPS - 1)
    )


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_start_and_bound_move_with_the_minimum(noise):
    """Ten times the minimum, ten times the rates, to steps of the grid."""
    small = range_test.evaluate(*parabola(0.03, noise))
    large = range_test.evaluate(*parabola(0.3, noise))
    factor = (HIGH / LOW) ** ((5 if noise else 2) / (STEPS - 1))
    assert 10 / factor < large.start / small.start < 10 * factor
    assert 10 / factor < large.high / small.high < 10 * factor


@pytest.mark.parametrize("lowest", [0.01, 0.1, 0.5])
def test_start_is_below_the_minimum_and_the_bound_above(lowest):
    found = range_test.evaluate(*parabola(lowest))
    assert lowest / 20 < found.start < lowest < found.high
    # The minimum that smoothing shows is ten steps late at the most.
    assert found.high < 4.0 * lowest * (HIGH / LOW) ** (10 / (STEPS - 1))


def test_noise_on_a_level_loss_does_not_say_where():
    """Down to 2 until 0.25, level from there on: the lowest is anywhere."""
    tried = range_test.rates(LOW, HIGH, STEPS)
    falling = np.interp(np.log(tried), np.log([0.01, 0.25]), [2.4, 2.0])
    found, lowest = [], []
    for seed in range(50):
        noise = np.random.default_rng(seed).normal(0.0, 0.03, STEPS)
        found.append(8.0 * range_test.evaluate(tried, falling + noise).start)
        lowest.append(tried[np.argmin(falling + noise)])
    assert max(lowest) / min(lowest) > 10.0
    # From there on, late as smoothing is, but about the same for all.
    assert 0.25 < min(found) and max(found) < 2.0


def through(*points):
    """Losses that go straight, over the log of the rate, through points."""
    tried = range_test.rates(LOW, HIGH, STEPS)
    at, losses = np.transpose(points)
    return tried, np.interp(np.log(tried), np.log(at), losses)


def test_a_rise_does_not_end_it():
    """Where nothing is learned yet, all of a fall is noise."""
    tried, losses = through((LOW, 2.3), (0.005, 2.2), (0.03, 3.0), (0.5, 1.5))
    for guessing in (np.inf, np.log(10.0)):
        found = range_test.evaluate(tried, losses, guessing)
        assert tried[-1] / 8 > found.start > 0.03


@pytest.mark.parametrize("risen", [3.3, 4.0])
def test_ruinous_rates_that_come_to_guessing_do_not_count(risen):
    """Sound ones were on the way there, until the loss rose."""
    tried, losses = through((LOW, 3.3), (0.05, 2.5), (0.2, risen), (1.0, 2.3))
    found = range_test.evaluate(tried, losses, np.log(10.0))
    assert found.high < 0.3
    assert range_test.evaluate(tried, losses).high > 2.0


# Far above the loss of guessing among ten, and to it at the best.
SURE = [(LOW, 4.3), (0.01, 3.0), (0.1, 2.8), (1.0, 2.3)]


def test_to_come_to_guessing_from_far_above_is_not_to_learn():
    guessing = np.log(10.0)
    tried, losses = through(*SURE)
    found = range_test.evaluate(tried, losses, guessing)
    assert 0.01 < 8 * found.start < 0.1
    # As it is where the loss of guessing is not known.
    misled = range_test.evaluate(tried, losses)
    assert 8 * misled.start > 0.4


@pytest.mark.parametrize(
    "points",
    [
        # From near the loss of guessing, and from far above it to below it.
        [(LOW, 2.8), (0.01, 2.5), (0.1, 2.4), (1.0, 2.3)],
        [(LOW, 4.3), (0.01, 3.0), (0.1, 2.8), (1.0, 1.5)],
    ],
)
def test_any_other_way_to_it_counts_to_the_end(points):
    tried, losses = through(*points)
    found = range_test.evaluate(tried, losses, np.log(10.0))
    assert found == range_test.evaluate(tried, losses)


def test_a_loss_that_falls_to_the_end_allows_more_than_any_other():
    tried = range_test.rates(LOW, HIGH, STEPS)
    found = range_test.evaluate(tried, np.linspace(2.0, 1.0, STEPS))
    assert range_test.evaluate(*parabola(0.3)).high < found.high
    assert found.start <= HIGH / 8


def test_losses_that_are_not_finite_are_left_out():
    tried, losses = parabola(0.1)
    expected = range_test.evaluate(tried[:50], losses[:50])
    losses[50:] = np.nan
    losses[55] = np.inf
    assert range_test.evaluate(tried, losses) == expected


def test_divergence_within_the_first_steps_keeps_to_the_rates_seen():
    found = range_test.evaluate([0.001, 0.002, 0.004], [1.0, 1.1, np.nan])
    assert found == range_test.RangeTest(0.001, 0.002)


def test_a_loss_that_is_never_finite():
    with pytest.raises(FloatingPointError, match="not finite.*first step"):
        range_test.evaluate([0.001], [np.nan])


def stops_at(losses):
    for k in range(1, len(losses) + 1):
        if range_test.has_diverged(losses[:k]):
            return k
    return None


def test_divergence_is_seen_soon_and_only_then():
    flat = [1.0] * 30
    assert stops_at(flat) is None
    assert stops_at(list(np.linspace(1.0, 1.9, 40))) is None  # below twice
    assert stops_at([*flat, np.nan]) == 31
    assert stops_at([*flat, np.inf]) == 31
    assert 31 <= stops_at([*flat, *[10.0] * 10]) <= 35


def test_a_loss_below_zero_has_not_diverged_for_that():
    """As the cosine similarity, which falls to -1."""
    falling = np.linspace(-0.1, -0.9, 40)
    assert stops_at(falling) is None
    assert 41 <= stops_at([*falling, *[2.0] * 10]) <= 50


def test_a_rough_beginning_is_no_divergence():
    assert stops_at([1.0, 5.0, 1.0, 5.0, 1.0, 4.0] + [1.0] * 20) is None
