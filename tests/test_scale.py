"""The scale of the default space, chosen by the time there is."""

import keras
import numpy as np
import pytest

from keras_dha import assembly
from keras_dha import scale
from keras_dha.architecture import cost
from keras_dha.architecture import spaces
from keras_dha.architecture.derive import derive_first
from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import space
from tests.test_pace import Clock
from tests.test_pace import set_clock


def build(width, stem_stride):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(width)(inputs))


@pytest.mark.parametrize(
    "shape, strides",
    [
        ((8, 8, 1), [1]),
        ((28, 28), [2, 1]),
        ((64, 64, 3), [2, 1]),
        # Stride 1 would leave 65 pixels.
        ((65, 64, 3), [2]),
        ((128, 128, 3), [4, 2]),
        ((224, 224, 3), [4]),
    ],
)
def test_resolution_comes_before_width(shape, strides):
    rungs = scale.ladder(shape)
    assert rungs == [
        {"width": width, "stem_stride": stride}
        for stride in strides
        for width in (scale.WIDTHS[:2], scale.WIDTHS)[stride == strides[-1]]
    ]
    # The space begins where it does without a word on its scale.
    usual, first = (
        spaces.resnet(shape, 3, **rung).get_layer("stem").output.shape
        for rung in ({}, rungs[0])
    )
    assert usual == first


@pytest.mark.parametrize("size, rungs", [(8, 6), (32, 8)])
def test_each_rung_takes_longer_than_the_one_before(size, rungs):
    """By the operations of its first candidates, which time goes with."""
    taken = []
    for rung in scale.ladder((size, size, 3))[:4]:
        network = derive_first(spaces.resnet((size, size, 3), 3, **rung))
        taken.append(cost.count(network)["flops"])
    rises = np.divide(taken[1:], taken[:-1])
    assert np.all(rises > scale._RISE)
    assert np.all(rises < 3)
    assert len(scale.ladder((size, size, 3))) == rungs


def chosen(monkeypatch, seconds, per_unit=1e-3, passes=10, fewest=20):
    """The scale for so many seconds where time goes with the width squared."""
    monkeypatch.setattr(
        scale,
        "seconds_per_step",
        lambda network, batch_size: per_unit * network.output_shape[1] ** 2,
    )
    # Finding out takes no time here, however busy the machine is.
    monkeypatch.setattr(scale.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(scale, "PASSES", passes)
    monkeypatch.setattr(scale, "STEPS", fewest)
    found = scale.fitting(build, (8, 8, 1), 8, steps=5, seconds=seconds)
    return found.arguments["width"], found.is_ample


def test_the_widest_that_sees_all_images_often_enough(monkeypatch):
    # A pass of five steps at width 32 takes 5.12 s, ten of them, half as much
    # again for what a run has beside them, 76.8 s.
    assert chosen(monkeypatch, 76.0) == (24, True)
    assert chosen(monkeypatch, 77.0) == (32, True)
    assert chosen(monkeypatch, 154.0, passes=20) == (32, True)
    # However small the data, there are to be steps.
    assert chosen(monkeypatch, 154.0, fewest=100) == (32, True)
    assert chosen(monkeypatch, 153.0, fewest=100) == (24, True)


def test_short_and_long_runs_have_the_ends_of_the_ladder(monkeypatch):
    assert chosen(monkeypatch, 1e6) == (max(scale.WIDTHS), True)
    # Ten passes of the narrowest take 12.8 s, with the rest 19.2.
    assert chosen(monkeypatch, 19.3) == (16, True)
    assert chosen(monkeypatch, 19.1) == (16, False)


def test_what_will_not_fit_is_not_timed(monkeypatch):
    timed = []
    monkeypatch.setattr(scale.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(
        scale, "seconds_per_step", lambda n, _: timed.append(n) or 1.0
    )
    needed = scale.STEPS * scale._OVERHEAD
    for seconds, tries in ((0.9, 1), (1.1, 1), (1.4, 1), (1.6, 6)):
        timed.clear()
        scale.fitting(build, (8, 8, 1), 8, 5, seconds=seconds * needed)
        assert len(timed) == tries, seconds


def test_finding_out_takes_its_share_and_no_more(monkeypatch):
    tried = []
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(scale.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        scale, "seconds_per_step", lambda *_: tried.append(1) or 1e-9
    )
    # Each try takes ten seconds; 6 % of 250 s are 15.
    found = scale.fitting(build, (8, 8, 1), 8, 5, seconds=250.0)
    assert found.arguments["width"] == 24
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


class Asked(Exception):
    pass


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
def test_when_the_scale_is_chosen(monkeypatch, arguments, fit, fitted):
    def refuse(build, shape, batch_size, steps, seconds, verbose):
        # Whole steps of the larger part, and what is left of the time.
        assert (shape, batch_size, steps) == ((8, 8, 1), 16, 5)
        assert 0 < seconds <= 30.0
        assert build(width=8).name == "resnet"
        raise Asked("fitting")

    def build_instead(settings, parts, spec, arguments):
        assert arguments == {}
        assert parts is settings.parts
        raise Asked("assemble")

    monkeypatch.setattr(scale, "fitting", refuse)
    monkeypatch.setattr(assembly, "_joint_model", build_instead)
    model = AutoModel(seed=0, **arguments)
    with pytest.raises(Asked, match="fitting" if fitted else "assemble"):
        model.fit(X, Y, batch_size=16, verbose=0, **fit)


@pytest.mark.parametrize("is_ample", [True, False])
@pytest.mark.parametrize(
    "arguments, may_be_left",
    [
        ({}, True),
        ({"augmentation": None}, True),
        ({"strategy": DSNAS()}, False),
        ({"method": "dsnas"}, False),
    ],
    ids=["default", "part", "strategy", "method"],
)
def test_too_short_a_time_is_for_the_weights(
    monkeypatch, is_ample, arguments, may_be_left
):
    """Unless somebody asked for a search."""

    def look(settings, parts, spec, found):
        assert found == {"width": 8}
        raise Asked("off" if parts.strategy is None else "on")

    monkeypatch.setattr(
        scale, "fitting", lambda *_: scale.Scale({"width": 8}, is_ample)
    )
    monkeypatch.setattr(assembly, "_joint_model", look)
    model = AutoModel(seed=0, **arguments)
    expected = "off" if may_be_left and not is_ample else "on"
    with pytest.raises(Asked, match=expected):
        model.fit(X, Y, batch_size=16, verbose=0, time_limit=30.0)


def test_the_time_that_the_choice_takes_is_in_the_cost(monkeypatch):
    clock = set_clock(monkeypatch, Clock(each=1.0))

    def take_a_minute(*_):
        clock.now += 60.0
        return scale.Scale({"width": 8}, True)

    monkeypatch.setattr(scale, "fitting", take_a_minute)
    model = AutoModel(
        seed=0,
        augmentation=None,
        hyperparameters={"learning_rate": 0.05},
        strategy=None,
    )
    model.fit(X, Y, time_limit=100.0, batch_size=16, verbose=0)
    spent = model.result.cost["phases"]["choice of the scale"]
    assert spent == {"seconds": pytest.approx(60.0, abs=2.0), "steps": 0}
    assert "choice of the scale 6" in model.result.summary()
