"""Which steps of a run are outer ones."""

import pytest

from keras_dha import carried_over
from keras_dha import methods
from keras_dha import outer_steps
from keras_dha import strategies
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.learned import STEP_SIZE
from keras_dha.outer_steps import OuterSteps
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model


def taken(every, total, positions):
    chosen = OuterSteps(every, total)
    return [k for k, p in enumerate(positions) if chosen.takes(k, p)]


def test_every_so_many_steps():
    assert taken(3, 10, range(10)) == [0, 3, 6, 9]


@pytest.mark.parametrize(
    "total, apart", [(400, 8), (14_400, 48), (14_401, 49), (30_000, 100)]
)
def test_three_hundred_in_a_run_and_none_too_close(total, apart):
    assert taken("auto", total, range(total)) == list(range(0, total, apart))


def test_the_first_fifty_are_the_closest():
    found = taken("auto", 3000, range(3000))
    gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
    # A three-hundredth of the run is 10 steps.
    assert gaps == [10] * 49 + [16] * 50 + [24] * 50 + [32] * 15


def test_spaced_by_the_clock_where_that_is_the_pace():
    # Half of the run at 1 position a step, the rest at 8.
    positions = [*range(0, 5000), *range(5000, 10_000, 8)]
    found = [positions[k] for k in taken("auto", 10_000, positions)]
    gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
    # A three-hundredth is 33.3; then no closer than 32 steps of 8.
    assert set(gaps[: 5000 // 34]) == {34}
    assert set(gaps[-5:]) == {256}


def test_resumed_it_goes_on_alike():
    whole, stopped = (OuterSteps("auto", 5000) for _ in range(2))
    before = [stopped.takes(k, k) for k in range(1500)]
    resumed = OuterSteps("auto", 5000)
    resumed.resume(stopped.state())
    after = [resumed.takes(k, k) for k in range(1500, 3500)]
    assert before + after == [whole.takes(k, k) for k in range(3500)]


@pytest.mark.parametrize(
    "asked, every",
    [
        ({}, "auto"),
        ({"strategy": strategies.GDAS(levels=1)}, "auto"),
        ({"strategy": None}, "auto"),
        # These move on outer steps alone.
        ({"strategy": strategies.DARTS()}, 8),
        ({"strategy": strategies.GDAS()}, 8),
        ({"strategy": strategies.Reinforce()}, 8),
        ({"hyperparameters": AutoHAS()}, 8),
        ({"outer_every": 5}, 5),
    ],
)
def test_what_needs_many_has_many(asked, every):
    given = {
        "strategy": "auto",
        "augmentation": "auto",
        "hyperparameters": "auto",
        **asked,
    }
    assert methods.parts("auto", **given).outer_every == every


def test_a_run_takes_them_so():
    model = joint_auto_model(strategy=None, outer_every="auto")
    fit(model, epochs=4)
    steps = int(model.joint.step.numpy())
    assert steps > 17
    outer = len(range(0, steps, 8))
    assert int(model.joint.policy.count.numpy()) == outer
    # By turns: every other one is theirs.
    assert int(model.joint.hyperparameters.count.numpy()) == outer // 2


@pytest.mark.parametrize(
    "every, share", [(1, 0.125), (4, 0.5), (8, 1.0), (100, 1.0), ("auto", 1.0)]
)
def test_closer_outer_steps_are_shorter(every, share):
    assert outer_steps.share_of_step(every) == share


def test_a_run_takes_shorter_ones():
    model = joint_auto_model(strategy=None, outer_every=2)
    fit(model, epochs=1)
    for joint in (model.joint, carried_over.derived(model.joint)):
        assert joint.hyperparameters.step_size == 0.25 * STEP_SIZE
        assert joint.policy.step_share == 0.25
