"""The scale of the default space, chosen by the time there is."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import assembly
from keras_dha import scale
from keras_dha.architecture import cost
from keras_dha.architecture import spaces
from keras_dha.architecture.derive import derive_first
from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel
from keras_dha.data_spec import DataSpec
from keras_dha.hyperparameters.ranges import Range
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import space
from tests.test_pace import Clock
from tests.test_pace import set_clock


def build(width, stem_stride):
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(2)(inputs)
    return keras.Model(inputs, outputs, name=f"of_{stem_stride}_{width}")


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
def test_some_width_then_resolution_then_the_search(shape, strides):
    coarse, fine = strides[:-1], strides[-1]
    expected = [(w, s, False) for s in coarse for w in (16, 24, 32)]
    expected += [(16, fine, False)] + [(w, fine, True) for w in scale.WIDTHS]
    assert listed(scale.ladder(shape)) == expected
    for searched in (False, True):
        assert listed(scale.ladder(shape, searched)) == [
            *[(w, s, searched) for s in coarse for w in (16, 24, 32)],
            *[(w, fine, searched) for w in scale.WIDTHS],
        ]
    # The space begins where it does without a word on its scale.
    first = scale.ladder(shape)[0].arguments
    usual, first = (
        spaces.resnet(shape, 3, **arguments).get_layer("stem").output.shape
        for arguments in ({}, first)
    )
    assert usual == first


def listed(scales):
    return [(*s.arguments.values(), s.is_searched) for s in scales]


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("searched", [None, True])
def test_each_rung_takes_longer_than_the_one_before(size, searched):
    """By the operations of its first candidates, which time goes with."""
    shape, taken = (size, size, 3), []
    for rung in scale.ladder(shape, searched)[:6]:
        network = derive_first(spaces.resnet(shape, 3, **rung.arguments))
        taken.append(rung.effort * cost.count(network)["flops"])
    rises = np.divide(taken[1:], taken[:-1])
    assert np.all(rises > scale._RISE)
    assert np.all(rises < 4.5)


def chosen(monkeypatch, seconds, searched, shape=(8, 8, 1)):
    """The scale for so many seconds where time goes with the width squared.

    And, of 28 pixels and more, with those that the stem leaves.
    """

    def timed(network, batch_size):
        stride, width = network.name.split("_")[1:]
        return 1e-3 * (int(width) / int(stride)) ** 2

    monkeypatch.setattr(scale, "seconds_per_step", timed)
    # Finding out takes no time here, however busy the machine is.
    monkeypatch.setattr(scale.time, "monotonic", lambda: 0.0)
    found = scale.fitting(build, shape, 8, 5, seconds, searched)
    return listed([found])[0]


def patched(monkeypatch, passes=10, fewest=20, examples=0):
    monkeypatch.setattr(scale, "PASSES", passes)
    monkeypatch.setattr(scale, "STEPS", fewest)
    monkeypatch.setattr(scale, "EXAMPLES", examples)


def test_the_widest_that_sees_all_images_often_enough(monkeypatch):
    # A pass of five steps at width 32 takes 5.12 s, ten of them 51.2 s.
    patched(monkeypatch)
    for seconds, width in ((61, 24), (62, 32)):
        assert chosen(monkeypatch, seconds, False) == (width, 1, False)
    for seconds, width in ((153, 24), (154, 32)):
        assert chosen(monkeypatch, seconds, True) == (width, 1, True)
    # However small the data, there are to be steps.
    for twice in ({"passes": 20}, {"fewest": 100}):
        patched(monkeypatch, **twice)
        assert chosen(monkeypatch, 122, False) == (24, 1, False)
        assert chosen(monkeypatch, 123, False) == (32, 1, False)
    # Nor are there to be too few examples for a search, in batches of eight.
    patched(monkeypatch, examples=800)
    for seconds, width in ((307, 24), (308, 32)):
        assert chosen(monkeypatch, seconds, True) == (width, 1, True)
    assert chosen(monkeypatch, 62, False) == (32, 1, False)


def test_what_more_time_is_spent_on(monkeypatch):
    """A step of width 16 and stride 2 takes 64 ms, ten passes 3.2 s."""
    patched(monkeypatch)
    for seconds, expected in (
        (1.0, (16, 2, False)),
        (8.6, (16, 2, False)),
        (8.7, (24, 2, False)),
        (15.3, (24, 2, False)),
        (15.4, (32, 2, False)),
        # Twenty passes, as it is finer: 25.6 s.
        (30.7, (32, 2, False)),
        (30.8, (16, 1, False)),
        (76.7, (16, 1, False)),
        (76.9, (16, 1, True)),
        (172.7, (16, 1, True)),
        (172.9, (24, 1, True)),
        (1e6, (96, 1, True)),
    ):
        found = chosen(monkeypatch, seconds, None, (28, 28))
        assert found == expected, seconds


def test_what_will_not_fit_is_not_timed(monkeypatch):
    tried = []
    monkeypatch.setattr(scale, "EXAMPLES", 0)
    monkeypatch.setattr(scale.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(
        scale, "seconds_per_step", lambda n, _: tried.append(n) or 1.0
    )
    needed = scale.STEPS * scale._ALONE
    for seconds, tries in ((0.9, 1), (1.1, 1), (1.4, 1), (1.6, 6)):
        tried.clear()
        scale.fitting(build, (8, 8, 1), 8, 5, seconds * needed, False)
        assert len(tried) == tries, seconds
    # Each is timed once, and serves without a search and with one.
    tried.clear()
    scale.fitting(build, (8, 8, 1), 8, 5, 10 * needed)
    assert len(tried) == 6


def test_finding_out_takes_its_share_and_no_more(monkeypatch):
    tried = []
    clock = iter(range(0, 10**6, 5))
    monkeypatch.setattr(scale.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(
        scale, "seconds_per_step", lambda *_: tried.append(1) or 1e-9
    )
    # Of 100 s six may be spent: what was timed serves a search as well.
    found = scale.fitting(build, (8, 8, 1), 8, 5, 100.0)
    assert listed([found]) == [(16, 1, True)]
    assert len(tried) == 1


def test_what_is_chosen_is_said(monkeypatch, capsys):
    patched(monkeypatch)
    monkeypatch.setattr(scale, "seconds_per_step", lambda *_: 1.0)
    for searched in (None, False, True):
        scale.fitting(build, (28, 28), 8, 5, 1.0, searched, verbose=1)
    said = capsys.readouterr().out.split("\n")
    chosen = "Fits the time: width 16, stem of stride 2"
    assert said[0].startswith(f"{chosen}; small images first; its architecture")
    assert said[1:3] == [f"{chosen}; small images first", chosen]


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
    def refuse(build, shape, batch_size, steps, seconds, searched, verbose):
        # Whole steps of the larger part, and what is left of the time.
        assert (shape, batch_size, steps) == ((8, 8, 1), 16, 5)
        assert 0 < seconds <= 30.0
        assert build(width=8).name == "resnet"
        raise Asked("fitting")

    def build_instead(settings, parts, spec, found, _):
        assert found is None
        assert parts == settings.parts
        raise Asked("assemble")

    monkeypatch.setattr(scale, "fitting", refuse)
    monkeypatch.setattr(assembly, "_network", build_instead)
    model = AutoModel(seed=0, **arguments)
    with pytest.raises(Asked, match="fitting" if fitted else "assemble"):
        model.fit(X, Y, batch_size=16, verbose=0, **fit)


def timed(*_):
    raise Asked("fitting")


FOCAL = keras.losses.CategoricalFocalCrossentropy


@pytest.mark.parametrize(
    "hyperparameters, compiled, message",
    [
        ("auto", {"loss": "crossentropi"}, "crossentropi"),
        ("auto", {"metrics": ["acuracy"]}, "acuracy"),
        ("auto", {"metrics": [keras.metrics.F1Score()]}, 'average="macro"'),
        ({"label_smoothing": 0.1}, {"loss": FOCAL()}, "smoothing.*Focal"),
        ({"dropout_rate": 0.1}, {}, "keras_dha.Dropout"),
    ],
)
def test_what_is_wrong_is_said_before_networks_are_timed(
    monkeypatch, hyperparameters, compiled, message
):
    monkeypatch.setattr(scale, "fitting", timed)
    model = AutoModel(seed=0, hyperparameters=hyperparameters)
    model.compile(**compiled)
    y = np.eye(3)[Y]
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, batch_size=16, verbose=0, time_limit=30.0)
    assert model.joint is None


@pytest.mark.parametrize(
    "dtype, error", [("mixed_float16", ValueError), ("mixed_bfloat16", Asked)]
)
def test_a_precision_is_refused_before_networks_are_timed(
    monkeypatch, dtype, error
):
    monkeypatch.setattr(scale, "fitting", timed)
    keras.config.set_dtype_policy(dtype)
    try:
        with pytest.raises(error, match="mixed_bfloat16|fitting"):
            AutoModel(seed=0).fit(X, Y, verbose=0, time_limit=30.0)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("is_searched", [True, False])
@pytest.mark.parametrize(
    "arguments, asked",
    [
        ({}, None),
        ({"augmentation": None}, None),
        ({"strategy": DSNAS()}, True),
        ({"method": "dsnas"}, True),
        ({"strategy": None}, False),
    ],
    ids=["default", "part", "strategy", "method", "off"],
)
def test_too_short_a_time_is_for_the_weights(
    monkeypatch, is_searched, arguments, asked
):
    """Unless somebody asked for a search."""

    def found(build, shape, batch_size, steps, seconds, searched, verbose):
        assert searched is asked
        return scale.Scale({"width": 8}, is_searched, False, 1.0)

    def look(settings, parts, spec, given, _):
        assert given.arguments == {"width": 8}
        raise Asked("off" if parts.strategy is None else "on")

    monkeypatch.setattr(scale, "fitting", found)
    monkeypatch.setattr(assembly, "_network", look)
    model = AutoModel(seed=0, **arguments)
    expected = "on" if is_searched and asked is not False else "off"
    with pytest.raises(Asked, match=expected):
        model.fit(X, Y, batch_size=16, verbose=0, time_limit=30.0)


def test_the_time_that_the_choice_takes_is_in_the_cost(monkeypatch):
    clock = set_clock(monkeypatch, Clock(each=1.0))

    def take_a_minute(*_):
        clock.now += 60.0
        return scale.Scale({"width": 8}, False, False, 1.0)

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


def test_groups_of_layers_are_checked_with_the_network_that_has_them():
    """Before that, what is refused at once is looked for on one layer."""
    groups = {"stem*": 1e-4, "stage*": 5e-4, "logits": 0.0}
    spec = DataSpec((8, 8, 1), 3, False, (0.0, 1.0), 96)
    for values in (groups, {"logits": Range(1e-5, 1e-3), "*": 0.0}):
        model = AutoModel(hyperparameters={"weight_decay": values})
        assembly._check_on_one_layer(
            model.settings, spec, tf.distribute.get_strategy()
        )
