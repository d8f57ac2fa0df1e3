import keras
import numpy as np
import pytest

from keras_dha.hyperparameters.engine import DEFAULTS
from keras_dha.hyperparameters.hypergradient import FORWARD
from keras_dha.hyperparameters.hypergradient import HORIZONS
from keras_dha.hyperparameters.hypergradient import IMPLICIT
from keras_dha.hyperparameters.hypergradient import ONE_STEP
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.inner_update import Step
from keras_dha.update_rules import SGD

SIZES = [2, 3]
SIZE = sum(SIZES)
PATHS = ["stem/conv/kernel", "head/kernel"]
VALUES = {
    "learning_rate": Range(1e-2, 1.0, start=0.1),
    "weight_decay": 1e-3,
    "momentum": Range(0.5, 0.95, "linear", start=0.9),
}


# The inner step that an update follows.
AT = Inputs(
    weights=keras.ops.ones(SIZE),
    slots=(keras.ops.zeros(SIZE),),
    gradient=keras.ops.zeros(SIZE),
    learning_rate=0.1,
    weight_decay=1e-3,
    momentum=0.9,
)


def learned(values=None, **kwargs):
    layer = LearnedHyperparameters(values, **kwargs)
    layer.allocate(SGD(), SIZES, PATHS)
    return layer


def value(layer, name):
    return float(layer.current(name))


def follow(layer, w, b, u, schedule):
    """One inner step with the direction u."""
    ones = keras.ops.ones(SIZE)
    rate = schedule * 0.1
    # The gradient that makes u the direction.
    g = u - 0.9 * b - 1e-3 * w
    at = Inputs(w, (b,), g, rate, 1e-3, 0.9)
    step = Step(w - rate * u, (u,), u)
    layer.advance(at, Extent(ones, None, SIZES, 1.0), step, schedule)


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
def test_one_update_moves_each_scale_by_a_step(sign):
    """Where hypergradient and search gradient are as one, by `step_size`."""
    layer = learned(VALUES, step_size=0.01)
    gradient = push(layer, "learning_rate", sign)
    push(layer, "momentum", -sign)
    layer.update(gradient, AT)
    assert value(layer, "learning_rate") == pytest.approx(
        0.1 * np.exp(-sign * 0.01), rel=1e-5
    )
    # A linear range's step is a part of the range.
    assert value(layer, "momentum") == pytest.approx(0.9 + sign * 0.0045)


def test_updates_stop_at_the_bounds_and_can_come_back():
    layer = learned(VALUES)
    bounds = {"learning_rate": (1e-2, 1.0), "momentum": (0.5, 0.95)}
    for name, limits in bounds.items():
        for sign, limit in zip((1.0, -1.0), limits, strict=True):
            gradient = push(layer, name, sign)
            for _ in range(30):
                layer.update(gradient, AT)
                now = value(layer, name)
                assert limits[0] * 0.9999 <= now <= limits[1] * 1.0001
            assert now == pytest.approx(limit, rel=1e-5)


def test_what_is_fixed_stays_fixed():
    layer = learned(VALUES)
    gradient = push(layer, "learning_rate", 1.0)
    for _ in range(20):
        layer.update(gradient, AT)
    assert value(layer, "weight_decay") == pytest.approx(1e-3)
    assert value(layer, "learning_rate") < 0.1


def test_nothing_learned_nothing_updated():
    layer = learned({"learning_rate": 0.3})
    layer.update(keras.ops.ones(SIZE), AT)
    assert value(layer, "learning_rate") == pytest.approx(0.3)
    assert float(layer.count) == 0.0


def test_advance_averages_the_weights():
    layer = learned(VALUES, horizon=Horizon(discount=0.9, averaging=0.75))
    rng = np.random.default_rng(0)
    expected = np.zeros(SIZE)
    for _ in range(4):
        w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
        follow(layer, w, b, u, 1.0)
        expected = 0.75 * expected + 0.25 * (w - 0.1 * u)
    np.testing.assert_allclose(layer.averaged, expected, rtol=1e-5)


def test_averages_reach_as_far_as_suits_the_run():
    layer = learned(VALUES, horizon=Horizon(0.0, 0.5, window=0.1))
    layer.normalised.assign(1.0)
    rng = np.random.default_rng(0)
    weights, tangents = np.zeros(SIZE), np.zeros(SIZE)
    for k, keep in enumerate((0.5, 0.9, 0.5)):
        layer.expect_run(1000, (10, 100, 10)[k])
        w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
        follow(layer, w, b, u, 1.0)
        weights = keep * weights + (1 - keep) * (w - 0.1 * u)
        tangents = keep * tangents - (1 - keep) * u
    np.testing.assert_allclose(layer.averaged, weights, rtol=1e-5)
    ours = layer.tangents["learning_rate"].averaged
    np.testing.assert_allclose(ours, tangents, rtol=1e-5)


def test_advance_of_the_one_step_horizon():
    """dw/d(rate) = -schedule * u, with nothing of the past: DHA's form."""
    layer = learned(VALUES, horizon=ONE_STEP)
    rng = np.random.default_rng(0)
    for _ in range(2):
        w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
        follow(layer, w, b, u, 0.5)
    tangents = layer.tangents["learning_rate"]
    np.testing.assert_allclose(tangents.averaged, -0.5 * u, rtol=1e-5)


def test_set_value_moves_value_and_upper_bound():
    layer = learned({"learning_rate": Range(1e-3, 1.0)})
    layer.set_value("learning_rate", 0.02, high=0.3)
    assert value(layer, "learning_rate") == pytest.approx(0.02)
    gradient = push(layer, "learning_rate", -1.0)
    for _ in range(200):
        layer.update(gradient, AT)
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


GROUPS = {
    "learning_rate": {"stem*": Range(1e-3, 1.0, start=0.02), "*": 0.3},
    "weight_decay": {
        "head": Range(1e-5, 1e-2, start=1e-3),
        "*": Range(1e-5, 1e-2, start=1e-4),
    },
}


def test_groups_have_their_own_values():
    layer = learned(GROUPS)
    assert layer.learned == [
        "learning_rate[stem*]",
        "weight_decay[head]",
        "weight_decay[*]",
    ]
    np.testing.assert_allclose(
        layer.value("learning_rate"), [0.02, 0.02, 0.3, 0.3, 0.3], rtol=1e-6
    )
    np.testing.assert_allclose(
        layer.value("weight_decay"), [1e-4, 1e-4, 1e-3, 1e-3, 1e-3], rtol=1e-6
    )
    assert value(layer, "momentum") == pytest.approx(0.9)


def test_groups_are_learned_from_their_own_weights():
    layer = learned(GROUPS, horizon=ONE_STEP, step_size=0.1)
    rng = np.random.default_rng(0)
    w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
    follow(layer, w, b, u, 1.0)
    stem = layer.tangents["learning_rate[stem*]"].weights.numpy()
    np.testing.assert_allclose(stem, [*-u[:2], 0, 0, 0], rtol=1e-5)
    # The search loss falls with the stem's rate, and does not see the head.
    gradient = np.array([*u[:2], 0, 0, 0], "float32")
    layer.update(keras.ops.convert_to_tensor(gradient), AT)
    assert value(layer, "learning_rate[stem*]") == pytest.approx(
        0.02 * np.exp(0.1), rel=1e-4
    )
    # Drawn towards the middle of its range, and no more.
    assert value(layer, "weight_decay[head]") == pytest.approx(1e-3, rel=0.03)
    assert value(layer, "learning_rate[*]") == pytest.approx(0.3)


def test_a_groups_cosine_is_taken_over_its_own_weights():
    layer = learned(GROUPS, horizon=ONE_STEP, step_size=0.1)
    rng = np.random.default_rng(0)
    w, b, u = rng.normal(size=(3, SIZE)).astype("float32")
    follow(layer, w, b, u, 1.0)
    # Much to say about the other layers does not make it less.
    gradient = np.array([*u[:2], 1e3, 1e3, 1e3], "float32")
    layer.update(keras.ops.convert_to_tensor(gradient), AT)
    assert value(layer, "learning_rate[stem*]") == pytest.approx(
        0.02 * np.exp(0.1), rel=1e-4
    )


def test_in_forward_mode_a_groups_cosine_is_taken_over_all_weights():
    """Other layers answer to a group's rate, by the Hessian."""
    layer = learned(GROUPS, horizon=HORIZONS["forward"], step_size=0.1)
    tangent = np.array([1, 0, 2, 1, 0], "float32")
    layer.tangents["learning_rate[stem*]"].averaged.assign(tangent)
    # By the group's own weights alone its rate would rise.
    gradient = np.array([-1, 1, 2, 0, 1], "float32")
    layer.update(keras.ops.convert_to_tensor(gradient), AT)
    cosine = gradient @ tangent / np.sqrt((gradient @ gradient) * 6)
    assert value(layer, "learning_rate[stem*]") == pytest.approx(
        0.02 * np.exp(-0.1 * cosine), rel=1e-4
    )


def test_groups_that_leave_something_out():
    layer = LearnedHyperparameters({"weight_decay": {"stem*": 0.1}})
    with pytest.raises(ValueError, match="one pattern.*'head/kernel'"):
        layer.allocate(SGD(), SIZES, PATHS)


def test_groups_without_a_layer():
    layer = learned({"weight_decay": {"tail*": 0.1, "*": 0.2}})
    with pytest.raises(ValueError, match="must fit a layer.*'tail\\*'"):
        layer.check_groups(PATHS)
    learned(GROUPS).check_groups(PATHS)


def through_loss(layer, value):
    layer.update(keras.ops.zeros(SIZE), AT, {"my_weight": value})


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_acts_through_the_loss_goes_down(sign):
    """Whatever the scale of its hypergradient."""
    moved = []
    for size in (1e-5, 1e5):
        layer = learned({"my_weight": Range(0.01, 10.0)})
        before = value(layer, "my_weight")
        assert before == pytest.approx(np.sqrt(0.1))
        for _ in range(3):
            through_loss(layer, sign * size)
        moved.append(np.log(value(layer, "my_weight") / before))
    assert np.sign(moved[0]) == -sign
    assert moved[0] == pytest.approx(moved[1], rel=1e-2)


def test_a_cosine_update_goes_as_far_as_the_cosine_says():
    for cosine in (0.5, -0.05):
        layer = learned(VALUES, step_size=0.4)
        along = np.array([cosine, np.sqrt(1 - cosine**2), 0, 0, 0], "float32")
        layer.tangents["learning_rate"].averaged.assign(along)
        layer.tangents["momentum"].averaged.assign(np.eye(5)[4])
        layer.update(keras.ops.convert_to_tensor(np.eye(5, dtype="f")[0]), AT)
        assert value(layer, "learning_rate") == pytest.approx(
            0.1 * np.exp(-0.4 * cosine), rel=1e-5
        )


def test_bounds_are_counted():
    layer = learned(VALUES, step_size=0.05)
    gradient = push(layer, "learning_rate", -1.0)
    for _ in range(100):
        layer.update(gradient, AT)
    low, high = layer.at_bounds.numpy()
    assert 40 < high[0] < 60  # ln(10) / 0.05 updates away
    assert low[0] == low[1] == high[1] == 0


def test_own_names_must_be_used_once():
    layer = learned({"my_weight": 0.3, "label_smoothing": 0.1})
    with pytest.raises(ValueError, match="must be read .*'my_weight'"):
        layer.check_used(set())
    layer.check_used({"my_weight"})
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    copy.allocate(SGD(), SIZES, PATHS)
    copy.check_used(set())


@pytest.mark.parametrize(
    "values, horizon, message",
    [
        ({"learning_rate": Range(0.1, 1.0)}, "implicit", "moves the optimum"),
        ({"momentum": Range(0.1, 0.9)}, "implicit", "moves the optimum"),
        ({"mixup": Range(0.1, 1.0)}, "forward", "another horizon"),
        ({"own": Range(0.1, 1.0)}, "forward", "another horizon"),
    ],
)
def test_what_a_horizon_cannot_learn(values, horizon, message):
    with pytest.raises(ValueError, match=message):
        LearnedHyperparameters(values, HORIZONS[horizon])


@pytest.mark.parametrize(
    "horizon",
    [Horizon(discount=1.5), Horizon(averaging=1.0), Horizon(window=-0.1)]
    + [Horizon(0.99, 0.9, 0.1), Horizon(terms=-1)]
    + [Horizon(terms=8), Horizon(restart=16)]
    + [FORWARD._replace(window=0.1), IMPLICIT._replace(restart=4)],
)
def test_a_horizon_there_is_not(horizon):
    with pytest.raises(ValueError, match="Received: horizon=Horizon"):
        LearnedHyperparameters(VALUES, horizon)


def test_config_round_trip():
    layer = LearnedHyperparameters(VALUES, Horizon(0.5, 0.25), step_size=0.2)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.values == layer.values
    assert copy.horizon == Horizon(0.5, 0.25)
    assert copy.step_size == 0.2
    copy.allocate(SGD(), SIZES, PATHS)
    assert value(copy, "momentum") == pytest.approx(0.9)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"dropout": 0.1}, "did you mean 'dropout_rate'.*'dropout'"),
        ({"lr": 0.1}, "did you mean 'learning_rate'"),
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
        ({"": 0.1}, "name must be a string"),
        ({3: 0.1}, "name must be a string"),
        ({"my_weight": "high"}, "a number .* or a `keras_dha.Range`"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must stay below 1"),
        ({"label_smoothing": -0.1}, "`label_smoothing` must be positive"),
        ({"mixup": 0.0}, "`mixup` must be positive"),
        ({"mixup": {"*": 0.1}}, "groups of layers is for"),
        ({"learning_rate": {}}, "groups of layers is for"),
        ({"learning_rate": {"*": -1.0}}, "`learning_rate` must be positive"),
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
