"""What a run writes down, apart from what `AutoModel` shows of it."""

import time
from types import SimpleNamespace

import pytest

from keras_dha.hyperparameters.ranges import Range
from keras_dha.run_record import RunRecord
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import quick_auto_model


def recorded(steps, logs):
    """A record of one epoch for each list of (phase, is_first)."""
    record = RunRecord(100, time.monotonic())
    for phases, log in zip(steps, logs, strict=True):
        for phase, is_first in phases:
            record.step(phase, time.monotonic() - 0.5, is_first)
        record.end_epoch(log)
    return record


def test_steps_and_seconds_are_of_phases_and_first_calls_of_none():
    record = recorded(
        [[("search", True), ("search", False), ("train", False)]], [{}]
    )
    assert record.steps == {"tracing": 1, "search": 1, "train": 1}
    for seconds in record.seconds.values():
        assert 0.5 <= seconds < 5.0


def test_an_epoch_has_the_phase_of_most_of_its_steps():
    first = [("warm-up", True), ("warm-up", False), ("search", False)]
    second = [("search", False), ("train", False), ("train", False)]
    record = recorded([first, second], [{"loss": 2.0}, {"loss": 1.0}])
    assert record.history == {"loss": [2.0, 1.0]}
    assert record._details == {"phase": ["warm-up", "train"]}


class Learned:
    """One learning rate, 0.5 at first and doubled at each look."""

    quantities = {"learning_rate": SimpleNamespace(name="learning_rate")}

    def __init__(self):
        self.rate = 0.25

    def current(self, key):
        self.rate *= 2
        return self.rate


@pytest.mark.parametrize("total, kept", [(100, 100), (1000, 100), (50, 50)])
def test_rates_are_kept_at_about_a_hundred_places(total, kept):
    record, learned = RunRecord(total, 0.0), Learned()
    for position in range(total):
        record.keep_rates(learned, 2 * position, position, factor=0.1)
    found = record._rates["learning_rate"]
    assert len(found["steps"]) == len(found["rates"]) == kept
    assert found["steps"][:2] == [0, 2 * max(1, total // 100)]
    assert found["rates"][:3] == pytest.approx([0.05, 0.1, 0.2])


def test_a_rate_at_its_bound_is_said_once_and_written_down():
    rates = {"learning_rate": Range(1e-4, 1.1e-4, start=1e-4)}
    model = quick_auto_model(
        strategy=None, hyperparameters=rates, outer_every=1
    )
    with pytest.warns(UserWarning, match="of its updates") as warned:
        # Of fewer than twenty updates, all before the refinement, none is said.
        fit(model, epochs=8)
    found = model.result.hyperparameters["learning_rate"]
    assert found["bounds"] == pytest.approx([1e-4, 1.1e-4])
    assert max(found["at_bounds"]) > 0.5
    said = [str(w.message) for w in warned if w.category is UserWarning]
    assert said == [found["advice"]]
    fixed = model.result.hyperparameters["momentum"]
    assert not {"bounds", "advice"} & set(fixed)
