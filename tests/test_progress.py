"""What is printed, read back from the terminal."""

import re

import pytest

from keras_dha import progress
from keras_dha.pace import StepPace

STEPS, EPOCHS = 5, 4


class Clock:
    """A clock that stands still until it is moved on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made)
    monkeypatch.setattr(progress.time, "time", made)  # the bar's own clock
    return made


def run(verbose, clock, seconds=2.0):
    """A run of four epochs of five steps."""
    epochs = iter(("warm-up", "search", "search", "train"))
    shown = progress.Progress(
        StepPace(EPOCHS, STEPS),
        lambda: next(epochs),
        STEPS,
        verbose,
    )
    for epoch in range(EPOCHS):
        shown.on_epoch_begin(epoch)
        losses = [8.0 - epoch - k / 4 for k in range(STEPS)]
        for batch, loss in enumerate(losses):
            clock.now += seconds
            shown.on_train_batch_end(batch, {"loss": loss})
        logs = {"loss": sum(losses) / STEPS, "accuracy": 0.125 * epoch}
        shown.on_epoch_end(epoch, logs)


def test_silent(clock, capsys):
    run(0, clock)
    progress.message("derived", 0)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("verbose", [1, 2])
def test_each_epoch_shows_its_phase_and_what_is_left(verbose, clock, capsys):
    run(verbose, clock)
    out = capsys.readouterr().out
    headings = [line for line in out.splitlines() if line.startswith("Epoch")]
    # The clock starts after the first step, which pays for tracing: then a
    # step takes two seconds, and 15, 10 and 5 steps are left.
    assert headings == [
        "Epoch 1/4 - warm-up",
        "Epoch 2/4 - search - 0:30 left",
        "Epoch 3/4 - search - 0:20 left",
        "Epoch 4/4 - train - 0:10 left",
    ]


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("seconds", [0.15, 2.0])
def test_the_last_word_of_an_epoch_is_its_logs(verbose, seconds, clock, capsys):
    """Also if steps are so fast that not all of them are shown."""
    run(verbose, clock, seconds)
    out = capsys.readouterr().out
    for epoch, part in enumerate(re.split(r"Epoch \d/4", out)[1:]):
        losses = re.findall(r"loss: ([\d.]+)", part)
        assert float(losses[-1]) == pytest.approx(7.5 - epoch)
        accuracies = re.findall(r"accuracy: ([\d.]+)", part)
        assert float(accuracies[-1]) == pytest.approx(0.125 * epoch)


def test_a_bar_shows_the_steps_and_a_line_does_not(clock, capsys):
    run(1, clock)
    assert "3/5" in capsys.readouterr().out
    run(2, clock)
    out = capsys.readouterr().out
    assert "3/5" not in out
    assert len(re.findall("5/5", out)) == EPOCHS


def test_messages(capsys):
    progress.message("derived", 2)
    assert capsys.readouterr().out == "derived\n"


@pytest.mark.parametrize(
    "seconds, text",
    [(0.2, "0:00"), (59.6, "1:00"), (125, "2:05"), (3661, "1:01:01")],
)
def test_clock_for_people(seconds, text):
    assert progress._clock(seconds) == text
