"""Weight decay that is learned: how far it goes, and what it answers to."""

import keras
import numpy as np
import pytest

from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW
from tests.hyperparameters.test_learned import AT
from tests.hyperparameters.test_learned import PATHS
from tests.hyperparameters.test_learned import SIZE
from tests.hyperparameters.test_learned import SIZES
from tests.hyperparameters.test_learned import learned
from tests.hyperparameters.test_learned import value


@pytest.mark.parametrize(
    "rule, most",
    [
        # 2 % a step: lambda eta / (1 - mu), and lambda eta if decoupled.
        (SGD(), 0.02 * (1 - 0.9) / 0.1),
        (SGD(decoupled=True), 0.02 / 0.1),
        (AdamW(), 0.02 / 0.1),
    ],
)
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_decay_shortens_weights_by_a_fiftieth_at_most(rule, most, scale):
    values = {"weight_decay": Range(1e-6, 0.5, scale, start=0.4)}
    layer = LearnedHyperparameters(values)
    layer.allocate(rule, SIZES, PATHS)
    layer.update(keras.ops.zeros(SIZE), AT)
    assert value(layer, "weight_decay") == pytest.approx(most, rel=1e-5)


@pytest.mark.parametrize(
    "steps, shrinking", [(1, 0.02), (40, 0.02), (100, 0.01), (2000, 0.0005)]
)
def test_decay_forgets_no_weight_within_a_pass(steps, shrinking):
    layer = learned({"weight_decay": Range(1e-6, 0.5, start=0.4)})
    layer.expect_pass(steps)
    layer.update(keras.ops.zeros(SIZE), AT)
    most = shrinking * (1 - 0.9) / 0.1
    assert value(layer, "weight_decay") == pytest.approx(most, rel=1e-5)


@pytest.mark.parametrize(
    "steps, shrinking", [(100, 0.02), (4000, 1 / 400), (100_000, 1 / 10_000)]
)
def test_decay_forgets_no_weight_within_a_tenth_of_the_run(steps, shrinking):
    layer = learned({"weight_decay": Range(1e-6, 0.5, start=0.4)})
    layer.expect_pass(20)
    layer.expect_run(0, steps)
    layer.update(keras.ops.zeros(SIZE), AT)
    most = shrinking * (1 - 0.9) / 0.1
    assert value(layer, "weight_decay") == pytest.approx(most, rel=1e-5)


def test_decay_does_not_make_up_for_a_rate_that_falls():
    low, high = 1e-6, 0.5
    layer = learned({"weight_decay": Range(low, high, start=0.4)})
    for rate in (0.1, 0.2, 0.01):
        layer.update(keras.ops.zeros(SIZE), AT._replace(learning_rate=rate))
    # From there the range's middle has drawn it down once.
    most = 0.02 * (1 - 0.9) / 0.2
    off = np.log(most**2 / (low * high))
    assert value(layer, "weight_decay") == pytest.approx(
        most * np.exp(-0.5 * 0.1 * off), rel=1e-5
    )
    layer.position.assign([0.0])
    layer.update(keras.ops.zeros(SIZE), AT._replace(learning_rate=0.01))
    assert value(layer, "weight_decay") == pytest.approx(
        0.02 * (1 - 0.9) / 0.2, rel=1e-5
    )


def test_decay_may_be_as_low_as_its_range():
    layer = learned({"weight_decay": Range(0.1, 0.5)})
    layer.update(keras.ops.zeros(SIZE), AT)
    assert value(layer, "weight_decay") == pytest.approx(0.1)


def test_a_change_of_length_has_no_part_in_the_cosine():
    """The tangent of decay is mostly along weights that are normalised."""
    rng = np.random.default_rng(4)
    w = rng.normal(size=SIZE).astype("f")
    g = rng.normal(size=SIZE).astype("f")
    for part in (slice(0, 2), slice(2, 5)):
        g[part] -= w[part] * (g[part] @ w[part]) / (w[part] @ w[part])
    found = []
    for along in (0.0, 100.0):
        layer = learned({"weight_decay": Range(1e-6, 0.5, start=1e-3)})
        layer.averaged.assign(w)
        layer.tangents["weight_decay"].averaged.assign(0.5 * g - along * w)
        layer.update(keras.ops.convert_to_tensor(g), AT)
        found.append(float(layer.first[0]))
    # A tenth of a cosine of 1 is in the mean after one update.
    assert found[0] == pytest.approx(0.1, rel=1e-4)
    assert found[1] == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_decay_is_lowered_for_the_rate_that_is_to_come(scale):
    values = {"weight_decay": Range(1e-6, 0.5, scale, start=0.4)}
    layer = learned({**values, "learning_rate": Range(1e-3, 2.0, start=0.1)})
    layer.expect_rate(0.8)
    most = 0.02 * (1 - 0.9) / 0.8
    assert value(layer, "weight_decay") == pytest.approx(most, rel=1e-4)
    assert value(layer, "learning_rate") == pytest.approx(0.1, rel=1e-5)
    # What evidence there is before the rate is there does not raise it.
    layer.update(keras.ops.zeros(SIZE), AT._replace(learning_rate=0.1))
    assert value(layer, "weight_decay") <= most * (1 + 1e-5)
    # A later test has the last word.
    layer.expect_rate(0.2)
    layer.position.assign(layer.high)
    layer.update(keras.ops.zeros(SIZE), AT._replace(learning_rate=0.1))
    assert value(layer, "weight_decay") == pytest.approx(4 * most, rel=1e-4)


def test_decay_that_is_low_enough_is_left_where_it_is():
    layer = learned({"weight_decay": Range(1e-6, 0.5, start=1e-4)})
    layer.expect_rate(0.8)
    assert value(layer, "weight_decay") == pytest.approx(1e-4, rel=1e-5)


@pytest.mark.parametrize(
    "rule, per_decay", [(SGD(), 0.1 / (1 - 0.9)), (AdamW(), 0.1)]
)
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_weights_remember_a_quarter_of_the_run_at_most(rule, per_decay, scale):
    values = {"weight_decay": Range(1e-6, 0.5, scale, start=0.01)}
    layer = LearnedHyperparameters(values)
    layer.allocate(rule, SIZES, PATHS)
    layer.expect_run(0, 100_000)
    # That rates may be higher, or are lower at the moment, changes nothing.
    layer.expect_rate(10.0)
    # Without what draws it to the middle.
    layer.step_size = 0.0
    layer.position.assign(layer.low)
    layer.update(keras.ops.zeros(SIZE), AT._replace(learning_rate=0.01))
    least = 1 / (25_000 * per_decay)
    assert value(layer, "weight_decay") == pytest.approx(least, rel=1e-5)


def test_memory_keeps_decay_from_falling_and_does_not_raise_it():
    layer = learned({"weight_decay": Range(1e-6, 1e-2, start=1e-3)})
    # A quarter of this run would take a decay of 1.
    layer.expect_run(0, 4)
    layer.step_size = 0.0
    for decay, expected in ((1e-5, 1e-3), (2e-3, 2e-3)):
        layer.position.assign([np.log(decay)])
        layer.update(keras.ops.zeros(SIZE), AT)
        assert value(layer, "weight_decay") == pytest.approx(expected, rel=1e-5)


def test_a_pass_counts_for_more_than_shares_of_the_run():
    layer = learned({"weight_decay": Range(1e-6, 0.5, start=0.4)})
    layer.expect_pass(1000)
    layer.expect_run(0, 2000)
    layer.update(keras.ops.zeros(SIZE), AT)
    most = 1e-3 * (1 - 0.9) / 0.1
    assert value(layer, "weight_decay") == pytest.approx(most, rel=1e-5)


def test_how_long_a_run_is_may_be_unknown():
    layer = learned({"weight_decay": Range(1e-6, 0.5, start=1e-3)})
    layer.expect_run(0, float("inf"))
    layer.step_size = 0.0
    layer.position.assign([np.log(1e-5)])
    layer.update(keras.ops.zeros(SIZE), AT)
    assert value(layer, "weight_decay") == pytest.approx(1e-5, rel=1e-5)
    # Then a pass is all that is known.
    layer.expect_pass(100)
    layer.expect_run(0, float("inf"))
    layer.position.assign(layer.high)
    layer.update(keras.ops.zeros(SIZE), AT)
    assert value(layer, "weight_decay") == pytest.approx(0.01, rel=1e-5)


def test_bounds_by_memory_are_those_of_decay_alone():
    layer = learned({"learning_rate": Range(1e-4, 1.0, start=0.1)})
    layer.expect_run(0, 1000)
    layer.position.assign([np.log(1e-3)])
    layer.update(keras.ops.zeros(SIZE), AT)
    assert value(layer, "learning_rate") == pytest.approx(1e-3, rel=1e-5)


def test_weights_remember_as_the_base_schedule_has_it():
    """Of a Keras schedule's rates what is learned is a factor near 1."""
    layer = learned(
        {"learning_rate": 1.0, "weight_decay": Range(1e-6, 0.5, start=0.01)}
    )
    layer.expect_schedule(0.02)
    layer.expect_run(0, 100_000)
    layer.step_size = 0.0
    layer.position.assign(layer.low)
    layer.update(keras.ops.zeros(SIZE), AT._replace(learning_rate=0.01))
    least = (1 - 0.9) / (25_000 * 0.02)
    assert value(layer, "weight_decay") == pytest.approx(least, rel=1e-5)


def test_bounds_are_those_of_the_weights_that_a_decay_acts_on():
    rates = {"head": 0.1, "*": 0.02}
    decay = Range(1e-6, 0.5, start=0.4)
    layer = learned(
        {"learning_rate": rates, "weight_decay": dict.fromkeys(rates, decay)}
    )
    layer.expect_run(0, 1000)
    layer.step_size = 0.0
    at = AT._replace(learning_rate=layer.value("learning_rate"))
    for share, start in ((1 / 100, layer.high), (1 / 250, layer.low)):
        layer.position.assign(start)
        layer.update(keras.ops.zeros(SIZE), at)
        for name, rate in rates.items():
            assert value(layer, f"weight_decay[{name}]") == pytest.approx(
                share * (1 - 0.9) / rate, rel=1e-5
            )
