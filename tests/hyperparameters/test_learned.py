import keras
import numpy as np
import pytest

from keras_dha.hyperparameters.hypergradient import ONE_STEP
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.learned import DEFAULTS
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import SGDStep

SIZE = 5
VALUES = {
    "learning_rate": Range(1e-2, 1.0, start=0.1),
    "weight_decay": 1e-3,
    "momentum": Range(0.5, 0.95, "linear", start=0.9),
}


def learned(values=None, **kwargs):
    layer = LearnedHyperparameters(values, **kwargs)
    layer.build(SIZE)
    return layer


def value(layer, name):
    return float(layer.value(name))


def push(layer, name, sign):
    """Sets the tangents of `name` so that the search loss rises with it."""
    ones = np.ones(SIZE, "float32")
    layer.tangents[name].averaged.assign(sign * ones)
    return keras.ops.convert_to_tensor(ones)


def test_start_values():
    layer = learned(VALUES)
    assert layer.learned == ["learning_rate", "momentum"]
    assert value(layer, "learning_rate") == pytest.approx(0.1)
    assert value(layer, "weight_decay") == pytest.approx(1e-3)
    assert value(layer, "momentum") == pytest.approx(0.9)


def test_a_range_without_start_begins_in_the_middle():
    layer = learned({"weight_decay": Range(1e-5, 1e-3)})
    assert value(layer, "weight_decay") == pytest.approx(1e-4)


def test_what_is_not_given_is_fixed_at_its_default():
    layer = learned()
    assert layer.learned == []
    for name, default in DEFAULTS.items():
        assert value(layer, name) == pytest.approx(default)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_update_moves_each_scale_by_adams_first_step(sign):
    """Adam's first step is `step_size` against the sign, whatever the size."""
    layer = learned(VALUES, step_size=0.01)
    gradient = push(layer, "learning_rate", sign)
    push(layer, "momentum", -sign)
    layer.update(gradient)
    assert value(layer, "learning_rate") == pytest.approx(
        0.1 * np.exp(-sign * 0.01), rel=1e-5
    )
    assert value(layer, "momentum") == pytest.approx(0.9 + sign * 0.01)


def test_updates_stop_at_the_bounds_and_can_come_back():
    layer = learned(VALUES)
    bounds = {"learning_rate": (1e-2, 1.0), "momentum": (0.5, 0.95)}
    for name, limits in bounds.items():
        for sign, limit in zip((1.0, -1.0), limits, strict=True):
            gradient = push(layer, name, sign)
            for _ in range(300):
                layer.update(gradient)
                now = value(layer, name)
                assert limits[0] * 0.9999 <= now <= limits[1] * 1.0001
            assert now == pytest.approx(limit, rel=1e-5)


def test_what_is_fixed_stays_fixed():
    layer = learned(VALUES)
    gradient = push(layer, "learning_rate", 1.0)
    for _ in range(20):
        layer.update(gradient)
    assert value(layer, "weight_decay") == pytest.approx(1e-3)
    assert value(layer, "learning_rate") < 0.1


def test_nothing_learned_nothing_updated():
    layer = learned({"learning_rate": 0.3})
    layer.update(keras.ops.ones(SIZE))
    assert value(layer, "learning_rate") == pytest.approx(0.3)
    assert float(layer.count) == 0.0


def test_advance_averages_the_weights():
    layer = learned(VALUES, horizon=Horizon(discount=0.9, averaging=0.75))
    rng = np.random.default_rng(0)
    expected = np.zeros(SIZE)
    for _ in range(4):
        w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
        step = SGDStep(w - 0.1 * u, u, u)
        layer.advance(w, b, step, 1.0, np.ones(SIZE), np.ones(SIZE))
        expected = 0.75 * expected + 0.25 * (w - 0.1 * u)
    np.testing.assert_allclose(layer.averaged, expected, rtol=1e-5)


def test_advance_of_the_one_step_horizon():
    """dw/d(rate) = -schedule * u, with nothing of the past: DHA's form."""
    layer = learned(VALUES, horizon=ONE_STEP)
    rng = np.random.default_rng(0)
    for _ in range(2):
        w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
        step = SGDStep(w - 0.1 * u, u, u)
        layer.advance(w, b, step, 0.5, np.ones(SIZE), np.ones(SIZE))
    tangents = layer.tangents["learning_rate"]
    np.testing.assert_allclose(tangents.averaged, -0.5 * u, rtol=1e-5)


def test_set_value_moves_value_and_upper_bound():
    layer = learned({"learning_rate": Range(1e-3, 1.0)})
    layer.set_value("learning_rate", 0.02, high=0.3)
    assert value(layer, "learning_rate") == pytest.approx(0.02)
    gradient = push(layer, "learning_rate", -1.0)
    for _ in range(200):
        layer.update(gradient)
    assert value(layer, "learning_rate") == pytest.approx(0.3, rel=1e-5)


def test_set_value_keeps_to_the_range():
    layer = learned({"learning_rate": Range(1e-3, 1.0)})
    layer.set_value("learning_rate", 5.0, high=7.0)
    assert value(layer, "learning_rate") == pytest.approx(1.0)
    layer.set_value("learning_rate", 1e-9)
    assert value(layer, "learning_rate") == pytest.approx(1e-3)


def test_set_value_leaves_the_others_alone():
    layer = learned(VALUES)
    layer.set_value("learning_rate", 0.5)
    assert value(layer, "momentum") == pytest.approx(0.9)


def test_config_round_trip():
    layer = LearnedHyperparameters(VALUES, Horizon(0.5, 0.25), step_size=0.2)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.values == layer.values
    assert copy.horizon == Horizon(0.5, 0.25)
    assert copy.step_size == 0.2
    copy.build(SIZE)
    assert value(copy, "momentum") == pytest.approx(0.9)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"dropout": 0.1}, "must be one of .*'dropout'"),
        ({"learning_rate": "0.1"}, "a number .* or a `keras_dha.Range`"),
        ({"learning_rate": (0.1, 1.0)}, "a number .* or a `keras_dha.Range`"),
        ({"learning_rate": None}, "a number .* or a `keras_dha.Range`"),
        ({"learning_rate": True}, "a number .* or a `keras_dha.Range`"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"learning_rate": -0.1}, "`learning_rate` must be positive"),
        ({"learning_rate": float("nan")}, "must be finite"),
        ({"weight_decay": float("inf")}, "must be finite"),
        ({"learning_rate": Range(0.0, 1.0, "linear")}, "must be positive"),
        ({"weight_decay": -1e-4}, "`weight_decay` must be positive"),
        ({"weight_decay": Range(-1.0, 1.0, "linear")}, "must be positive"),
        ({"momentum": 1.0}, "`momentum` must stay below 1"),
        ({"momentum": Range(0.5, 1.0)}, "`momentum` must stay below 1"),
    ],
)
def test_values_out_of_their_domain(values, message):
    with pytest.raises(ValueError, match=message):
        LearnedHyperparameters(values)


@pytest.mark.parametrize("number", [0.2, 1, np.float32(0.2), np.float64(0.2)])
def test_numbers_of_any_kind_are_fixed_values(number):
    layer = learned({"learning_rate": number})
    assert value(layer, "learning_rate") == pytest.approx(float(number))
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.values["learning_rate"] == pytest.approx(float(number))
