import math
import types

import pytest

from keras_dha import pace
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model


class Clock:
    """A clock that stands still until it is moved on, or runs by itself."""

    def __init__(self, each=0.0):
        self.now, self.each = 50.0, each

    def __call__(self):
        self.now += self.each
        return self.now


def set_clock(monkeypatch, made):
    """Lets runs read their time from `made`, which is returned."""
    time = types.SimpleNamespace(monotonic=made)
    monkeypatch.setattr(pace, "time", time)
    monkeypatch.setattr("keras_dha.auto_model.time", time)
    monkeypatch.setattr("keras_dha.assembly.time", time)
    return made


@pytest.fixture
def clock(monkeypatch):
    return set_clock(monkeypatch, Clock())


def test_a_run_of_epochs_is_counted_in_steps():
    three = pace.StepPace(3, 7)
    assert [three.position(k) for k in (0, 5, 20)] == [0, 5, 20]
    assert [three.is_over(k) for k in (20, 21)] == [False, True]
    assert three.seconds_left(11, 0.5) == 5.0
    assert [three.expected_steps(k) for k in (0, 20)] == [21, 21]


def test_a_run_of_seconds_is_read_from_the_clock(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.reserve("statistics", 10.0)
    seen = []
    for passed in (0.0, 25.0, 40.0, 49.9, 50.1, 70.0):
        clock.now = 50.0 + passed
        share = minute.position(0) / minute.total
        seen.append((round(share, 2), minute.is_over(0)))
    assert seen == [
        (0.0, False),
        (0.5, False),
        (0.8, False),
        (1.0, False),
        (1.0, True),
        (1.0, True),
    ]


def test_steps_of_a_run_of_seconds_are_foreseen(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.reserve("statistics", 10.0)
    assert minute.expected_steps(0) == math.inf
    clock.now = 50.0 + 12.5
    minute.position(7)
    assert minute.expected_steps(7) == pytest.approx(28)


def test_what_comes_after_the_last_step_adds_up(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.reserve("statistics", 5.0)
    minute.reserve("validation", 9.0)
    minute.reserve("validation", 7.0)
    clock.now = 97.9
    assert not minute.is_over(0)
    clock.now = 98.1
    assert minute.is_over(0)


def test_an_estimate_does_not_end_a_run(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.foresee("statistics", 1e9)
    minute.foresee("validation", 5.0)
    clock.now = 50.0 + 39.9
    assert not minute.is_over(0)
    clock.now = 50.0 + 40.1
    assert minute.is_over(0)


def test_what_was_measured_is_not_estimated_any_more(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.foresee("validation", 12.0)
    minute.reserve("validation", 30.0)
    clock.now = 50.0 + 30.1
    assert minute.is_over(0)


def test_the_position_never_goes_back(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    clock.now = 80.0
    before = minute.position(0)
    minute.reserve("statistics", 1.0)  # less than what is kept anyway
    assert minute.position(0) == before
    clock.now = 20.0
    assert minute.position(0) == before


def test_time_without_steps_has_no_positions(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.reserve("statistics", 10.0)
    # Ten seconds before the first step, and ten to compile it in.
    clock.now = 60.0
    minute.start()
    clock.now = 70.0
    minute.leave_out(10.0)
    seen = []
    for now in (70.0, 77.5, 92.5, 99.9, 100.0):
        clock.now = now
        seen.append(round(minute.position(0) / minute.total, 2))
    assert seen == [0.0, 0.25, 0.75, 1.0, 1.0]
    assert minute.is_over(0)


def test_time_that_compiling_has_used_up_is_over(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    minute.start()
    clock.now = 115.0
    minute.leave_out(65.0)
    assert minute.is_over(0)


def test_what_is_left_of_the_time(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    clock.now = 75.0
    assert minute.seconds_left(3, 99.0) == 35.0
    clock.now = 1e9
    assert minute.seconds_left(3, 99.0) == 0.0


def test_a_fit_fills_its_time_with_whole_phases(monkeypatch, capsys):
    # Each look at the clock takes a second: the phases must still be laid
    # out over the time, whatever the number of steps.
    set_clock(monkeypatch, Clock(each=1.0))
    model = joint_auto_model(hyperparameters={"learning_rate": 0.05})
    fit(model, epochs=None, time_limit=400.0, verbose=2)
    phases = model.result.cost["phases"]
    steps = sum(p["steps"] for p in phases.values())
    assert 400 / 8 < steps < 400
    assert phases["train"]["steps"] > phases["warm-up"]["steps"] > 0
    assert "Epoch 2 - " in capsys.readouterr().out


def test_a_time_in_which_nothing_is_learned_is_said(clock):
    minute = pace.ClockPace(60.0, begun=50.0)
    spent = {"reading data": 0.1, "compiling": 40.2, "steps": 3.4}
    minute.check(10, 10, spent)
    told = "epoch: compiling took 40 s, steps took 3 s. Give.*less.*3 of 10"
    with pytest.warns(UserWarning, match=told):
        minute.check(3, 10, spent)
    spent["reading data"] = 50.0
    with pytest.warns(UserWarning, match="epoch: reading data took 50.*cache"):
        minute.check(3, 10, spent)
    # What came before the first step counts as well.
    clock.now += 55.0
    minute.start()
    with pytest.warns(UserWarning, match="epoch: preparing took 55 s, reading"):
        minute.check(3, 10, spent)
    pace.StepPace(1, 5).check(1, 5, spent)


@pytest.mark.parametrize("seconds", [0, -5.0, float("nan"), "60", True])
def test_what_is_no_time_is_refused(seconds):
    with pytest.raises(ValueError, match="time_limit"):
        fit(joint_auto_model(), epochs=None, time_limit=seconds)


def test_epochs_and_time_at_once_are_refused():
    with pytest.raises(ValueError, match="epochs.*or.*time_limit"):
        fit(joint_auto_model(), epochs=2, time_limit=10.0)
