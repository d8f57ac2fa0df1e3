"""The width of the default space, chosen by the time there is."""

import keras
import numpy as np
import pytest

from keras_dha import assembly
from keras_dha import scale
from keras_dha.architecture.derive import derive_first
from keras_dha.auto_model import AutoModel
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import space
from tests.test_pace import Clock
from tests.test_pace import set_clock


def build(width):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(width)(inputs))


def chosen(monkeypatch, seconds, per_unit=1e-3, passes=10, fewest=20):
    """The width for so many seconds where time goes with the square."""
    monkeypatch.setattr(
        scale,
        "seconds_per_step",
        lambda network, batch_size: per_unit * network.output_shape[1] ** 2,
    )
    # Finding out takes no time here, however busy the machine is.
    monkeypatch.setattr(scale.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(scale, "PASSES", passes)
    monkeypatch.setattr(scale, "STEPS", fewest)
    return scale.fitting(build, 8, steps=5, seconds=seconds)["width"]


def test_the_widest_that_sees_all_images_often_enough(monkeypatch):
    # A pass of five steps at width 32 takes 5.12 s, ten of them, twice over
    # for what a run has beside them, 102.4 s.
    assert chosen(monkeypatch, 102.0) == 24
    assert chosen(monkeypatch, 103.0) == 32
    assert chosen(monkeypatch, 206.0, passes=20) == 32
    # However small the data, there are to be steps.
    assert chosen(monkeypatch, 206.0, fewest=100) == 32
    assert chosen(monkeypatch, 204.0, fewest=100) == 24


def test_short_and_long_runs_have_the_ends_of_the_ladder(monkeypatch):
    assert chosen(monkeypatch, 1.0) == min(scale.WIDTHS)
    assert chosen(monkeypatch, 1e6) == max(scale.WIDTHS)


def test_finding_out_takes_its_share_and_no_more(monkeypatch):
    tried = []
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(scale.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        scale, "seconds_per_step", lambda *_: tried.append(1) or 1e-9
    )
    # Each try takes ten seconds; 6 % of 250 s are 15.
    assert scale.fitting(build, 8, 5, seconds=250.0) == {"width": 32}
    assert len(tried) == 2


def test_a_step_is_timed_without_changing_anything():
    network = space((8, 8, 1), 3)
    before = [np.copy(v) for v in network.trainable_variables]
    plain = derive_first(network)
    assert 0 < scale.seconds_per_step(plain, 16) < 60
    for variable, value in zip(
        network.trainable_variables, before, strict=True
    ):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize(
    "arguments, fit, fitted",
    [
        ({}, {"time_limit": 30.0}, True),
        ({}, {"epochs": 1}, False),
        ({"search_space": "resnet"}, {"time_limit": 30.0}, False),
        ({"target": {"params": 10**6}}, {"time_limit": 30.0}, False),
    ],
    ids=["time", "epochs", "space", "target"],
)
def test_when_the_width_is_chosen(monkeypatch, arguments, fit, fitted):
    class Asked(Exception):
        pass

    def refuse(build, batch_size, steps, seconds, verbose):
        # Whole steps of the larger part, and what is left of the time.
        assert (batch_size, steps) == (16, 5)
        assert 0 < seconds <= 30.0
        assert build(width=8).name == "resnet"
        raise Asked("fitting")

    def build_instead(settings, spec, fitting):
        assert fitting == {}
        raise Asked("assemble")

    monkeypatch.setattr(scale, "fitting", refuse)
    monkeypatch.setattr(assembly, "_joint_model", build_instead)
    model = AutoModel(seed=0, **arguments)
    with pytest.raises(Asked, match="fitting" if fitted else "assemble"):
        model.fit(X, Y, batch_size=16, verbose=0, **fit)


def test_the_time_that_the_choice_takes_is_in_the_cost(monkeypatch):
    clock = set_clock(monkeypatch, Clock(each=1.0))

    def take_a_minute(*_):
        clock.now += 60.0
        return {"width": 8}

    monkeypatch.setattr(scale, "fitting", take_a_minute)
    model = AutoModel(
        seed=0,
        augmentation=None,
        hyperparameters={"learning_rate": 0.05},
        strategy=None,
    )
    model.fit(X, Y, time_limit=100.0, batch_size=16, verbose=0)
    spent = model.result.cost["phases"]["choice of the width"]
    assert spent == {"seconds": pytest.approx(60.0, abs=2.0), "steps": 0}
    assert "choice of the width 6" in model.result.summary()
