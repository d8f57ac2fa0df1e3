import json
import math

import keras
import pytest

from keras_dha.hyperparameters.ranges import Range


def test_the_middle_is_that_of_the_scale():
    assert Range(1e-4, 1.0).middle == pytest.approx(1e-2)
    assert Range(0.0, 3.0, "linear").middle == 1.5


@pytest.mark.parametrize(
    "value, clipped", [(0.05, 0.1), (0.1, 0.1), (0.3, 0.3), (7.0, 0.9)]
)
def test_clip(value, clipped):
    assert Range(0.1, 0.9).clip(value) == clipped


@pytest.mark.parametrize(
    "low, high",
    [(1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)],
)
def test_bounds_that_are_no_interval(low, high):
    for scale in ("log", "linear"):
        with pytest.raises(ValueError, match="low < high.*Received: low="):
            Range(low, high, scale)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_log_scale_needs_positive_bounds(low):
    with pytest.raises(ValueError, match="log scale needs positive.*'linear'"):
        Range(low, 1.0)
    assert Range(low, 1.0, "linear").low == low


@pytest.mark.parametrize("start", [0.05, 2.0, math.nan])
def test_start_outside_the_bounds(start):
    with pytest.raises(ValueError, match="`start`.*within the bounds"):
        Range(0.1, 1.0, start=start)


def test_unknown_scale():
    with pytest.raises(ValueError, match="'log' or 'linear'.*'exp'"):
        Range(0.1, 1.0, "exp")


@pytest.mark.parametrize(
    "arguments", [("a", 1.0), (None, 1.0), (0.1, [1.0]), (0.1, 1.0, "log", "x")]
)
def test_bounds_that_are_no_numbers(arguments):
    with pytest.raises(ValueError, match="must be numbers"):
        Range(*arguments)


@pytest.mark.parametrize(
    "made",
    [Range(1e-3, 1), Range(0.5, 0.99, "linear"), Range(1e-3, 1, start=0.1)],
)
def test_round_trips(made):
    config = json.loads(json.dumps(made.get_config()))
    assert Range.from_config(config) == made
    assert eval(repr(made)) == made
    assert hash(Range.from_config(config)) == hash(made)
    saved = keras.saving.serialize_keras_object(made)
    assert keras.saving.deserialize_keras_object(saved) == made


def test_ranges_differ_in_each_field():
    made = Range(0.1, 1.0, start=0.2)
    for other in (
        Range(0.2, 1.0, start=0.2),
        Range(0.1, 2.0, start=0.2),
        Range(0.1, 1.0, "linear", start=0.2),
        Range(0.1, 1.0),
        0.2,
    ):
        assert made != other
