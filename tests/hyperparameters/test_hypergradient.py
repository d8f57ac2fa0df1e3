import numpy as np
import pytest
import tensorflow as tf

from keras_dha import inner_update
from keras_dha.hyperparameters import hypergradient
from tests.references import central_difference
from tests.references import numpy_sgd

SIZE, STEPS = 7, 6
NAMES = hypergradient.LEARNABLE


def problem(momentum):
    """A loss that is linear in w: its Hessian is 0, as the method assumes."""
    rng = np.random.default_rng(0)
    return {
        "w": rng.normal(size=SIZE),
        "b": rng.normal(size=SIZE),
        "g": rng.normal(size=(STEPS, SIZE)),
        "v": rng.normal(size=SIZE),
        "schedule": np.linspace(1.0, 0.3, STEPS),
        "values": {
            "learning_rate": 0.1,
            "weight_decay": 0.0,
            "momentum": momentum,
        },
    }


def search_loss(p, values, averaging, steps=STEPS):
    """<v, wbar> after the steps, in NumPy alone."""
    w, b = p["w"], p["b"]
    averaged = w
    for t in range(steps):
        w, b = numpy_sgd(
            w,
            b,
            p["g"][t],
            values["learning_rate"],
            values["weight_decay"],
            values["momentum"],
            p["schedule"][t],
        )
        averaged = averaging * averaged + (1 - averaging) * w
    return p["v"] @ averaged


def followed(p, name, horizon, steps=STEPS):
    """The tangents that the library carries along the same steps."""
    w, b = tf.constant(p["w"]), tf.constant(p["b"])
    ones = tf.ones([SIZE], "float64")
    zeros = tf.zeros([SIZE], "float64")
    tangents = hypergradient.Tangents(zeros, zeros, zeros)
    rate, decay, momentum = (
        tf.constant(p["values"][n], "float64") for n in NAMES
    )
    for t in range(steps):
        schedule = tf.constant(p["schedule"][t], "float64")
        step = inner_update.sgd(
            w,
            b,
            tf.constant(p["g"][t]),
            schedule * rate,
            decay,
            momentum,
            ones,
            ones,
        )
        tangents = hypergradient.advance(
            name,
            tangents,
            w,
            b,
            step.direction,
            rate,
            momentum,
            ones,
            ones,
            schedule,
            horizon,
        )
        w, b = step.weights, step.velocity
    return tangents


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("averaging", [0.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_long_horizon_equals_central_differences(name, averaging, momentum):
    p = problem(momentum)
    horizon = hypergradient.Horizon(discount=1.0, averaging=averaging)
    ours = hypergradient.hypergradient(
        tf.constant(p["v"]), followed(p, name, horizon)
    )

    def loss(value):
        return search_loss(p, {**p["values"], name: value}, averaging)

    expected = central_difference(loss, p["values"][name])
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_one_step_sees_only_the_last_step(name, momentum):
    p = problem(momentum)
    ours = hypergradient.hypergradient(
        tf.constant(p["v"]), followed(p, name, hypergradient.ONE_STEP)
    )
    # The state before the last step is taken as given.
    w, b = p["w"], p["b"]
    for t in range(STEPS - 1):
        w, b = numpy_sgd(w, b, p["g"][t], 0.1, 0.0, momentum, p["schedule"][t])

    def loss(value):
        v = {**p["values"], name: value}
        moved, _ = numpy_sgd(
            w,
            b,
            p["g"][-1],
            v["learning_rate"],
            v["weight_decay"],
            v["momentum"],
            p["schedule"][-1],
        )
        return p["v"] @ moved

    expected = central_difference(loss, p["values"][name])
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_alignment_is_the_cosine():
    p = problem(0.9)
    tangents = followed(p, "learning_rate", hypergradient.Horizon())
    z = tangents.averaged.numpy()
    expected = p["v"] @ z / np.linalg.norm(p["v"]) / np.linalg.norm(z)
    ours = hypergradient.alignment(tf.constant(p["v"]), tangents)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_inactive_has_no_tangent(name):
    p = problem(0.9)
    zeros = tf.zeros([SIZE], "float64")
    ones = tf.ones([SIZE], "float64")
    start = hypergradient.Tangents(zeros, zeros, zeros)
    moved = hypergradient.advance(
        name,
        start,
        tf.constant(p["w"]),
        tf.constant(p["b"]),
        zeros,
        tf.constant(0.1, "float64"),
        tf.constant(0.9, "float64"),
        ones,
        zeros,
        tf.constant(1.0, "float64"),
        hypergradient.Horizon(),
    )
    for tangent in moved:
        np.testing.assert_array_equal(tangent, 0.0)
