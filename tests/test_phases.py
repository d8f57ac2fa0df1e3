import pytest

from keras_dha import phases
from keras_dha.architecture.strategies import DSNAS


def test_phases_follow_the_shares_of_the_strategy():
    plan = phases.plan(200, DSNAS(warmup=0.1, until=0.4))
    assert (plan.total, plan.warmup_end, plan.search_end) == (200, 20, 80)
    names = [plan.phase(step, derived=step >= 80) for step in range(200)]
    assert names == ["warm-up"] * 20 + ["search"] * 60 + ["train"] * 120


def test_a_network_derived_early_is_trained():
    plan = phases.plan(200, DSNAS(warmup=0.1, until=0.4))
    assert plan.phase(30, derived=True) == phases.TRAIN


def test_decisions_settle_from_the_first_that_froze():
    plan = phases.plan(200, DSNAS(warmup=0.1, until=0.4))
    names = [
        plan.phase(step, derived=step >= 60, frozen=int(step >= 40))
        for step in range(100)
    ]
    assert names == (
        ["warm-up"] * 20 + ["search"] * 20 + ["settle"] * 20 + ["train"] * 40
    )


def test_without_choices_there_is_only_training():
    plan = phases.plan(50, None)
    assert {plan.phase(step, derived=True) for step in range(50)} == {"train"}


@pytest.mark.parametrize("total", range(2, 40))
@pytest.mark.parametrize(
    "warmup, until", [(0.0, 0.01), (0.05, 0.3), (0.1, 1.0), (0.98, 0.99)]
)
def test_every_run_searches_and_then_trains(total, warmup, until):
    """However short it is: one step of each at the least."""
    plan = phases.plan(total, DSNAS(warmup=warmup, until=until))
    assert 0 <= plan.warmup_end <= plan.search_end <= total - 1
    assert plan.search_end >= 1
    assert 1 <= plan.check_every <= total


def test_a_run_of_one_step_searches():
    plan = phases.plan(1, DSNAS())
    assert plan.phase(0, derived=False) == phases.SEARCH


def test_the_refinement_ends_with_the_run():
    plan = phases.plan(200, DSNAS(), refinement=0.25)
    done = [plan.refinement(step) for step in range(200)]
    assert done[:151] == [0.0] * 151
    assert done[150:] == pytest.approx([k / 50 for k in range(50)])


def test_a_network_that_is_still_searched_is_learned_to_its_end():
    plan = phases.plan(200, DSNAS(until=0.9), refinement=0.25)
    assert plan.is_learning(149, derived=True)
    assert not plan.is_learning(150, derived=True)
    assert plan.is_learning(179, derived=False)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("refinement", [0.0, 0.3, 0.99])
def test_the_refinement_of_a_short_run_is_a_share(total, refinement):
    plan = phases.plan(total, None, refinement)
    assert all(0 <= plan.refinement(step) < 1 for step in range(total))
    assert refinement or not any(map(plan.refinement, range(total)))
