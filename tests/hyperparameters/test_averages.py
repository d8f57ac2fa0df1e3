"""Over how many steps hypergradients average, and what that keeps them from."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.hypergradient import Tangents
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.joint_model import JointModel
from keras_dha.update_rules import SGD


@pytest.mark.parametrize(
    "step, steps, reach",
    [
        # A tenth of the run, a quarter of what there was, the least.
        (5000, 10_000, 1000),
        (2000, 10_000, 500),
        (5000, np.inf, 1250),
        (100, 10_000, 100),
        (0, np.inf, 100),
        (500, 600, 100),
    ],
)
def test_averages_reach_over_a_share_of_the_run(step, steps, reach):
    beta = Horizon(averaging=0.99, window=0.1).averaging_at(step, steps, True)
    assert 1.0 / (1.0 - beta) == pytest.approx(reach)


def test_without_a_window_averages_are_what_was_asked_for():
    for horizon in (hypergradient.ONE_STEP, Horizon(averaging=0.3)):
        for step in (0, 10_000):
            for is_normalised in (False, True):
                beta = horizon.averaging_at(step, 20_000, is_normalised)
                assert beta == horizon.averaging


def test_without_normalisation_there_are_no_averages():
    assert hypergradient.DISCOUNTED.averaging_at(5000, 10_000, False) == 0.0


@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize(("along", "beta"), [(0.0, 0.99), (1.0, 0.0)])
def test_what_is_normalised_is_read_off_search_gradients(along, beta, expected):
    """Two outer steps, of gradients at right angles to weights or along."""
    horizon = hypergradient.DISCOUNTED
    layer = LearnedHyperparameters({"learning_rate": Range(1e-3, 1.0)}, horizon)
    sizes, paths = [2, 3], ["kernel", "other"]
    layer.allocate(SGD(), sizes, paths, expects_normalised=expected)
    layer.expect_run(100, 1000)
    assert float(layer.averaging) == pytest.approx(0.99 if expected else 0.0)
    layer.averaged.assign([1.0, 0.0, 0.0, 2.0, 0.0])
    gradient = np.array([along, 1.0, 1.0, along, 0.0], "f")
    none = tf.zeros(5)
    at = Inputs(none, (none,), none, 0.1, 0.0, 0.9)
    for _ in range(2):
        layer.update(tf.constant(gradient), at)
    layer.expect_run(100, 1000)
    assert float(layer.averaging) == pytest.approx(beta)


class Valley:
    """Steep walls, along which steps shake, and a bottom that falls slowly.

    Args:
        noise: Float, standard deviation of the gradients at the walls.
    """

    walls, slope, steps = 16, 1e-3, 8000

    def __init__(self, noise):
        self.curvature = np.array([1.0] * self.walls + [self.slope])
        rng = np.random.default_rng(0)
        size = (self.steps, len(self.curvature))
        self.noise = noise * rng.normal(size=size)
        self.noise[:, -1] = 0.0
        self.start = np.array([0.0] * self.walls + [10.0])

    def schedule(self, t):
        return 0.5 * (1.0 + np.cos(np.pi * t / self.steps))

    def loss_at_the_end(self, rate):
        w = self.start
        for t in range(self.steps):
            gradient = self.curvature * w + self.noise[t]
            w = w - rate * self.schedule(t) * gradient
        return 0.5 * w @ (self.curvature * w)

    def cosine(self, rate, horizon):
        """What the first half of a run says of its rate, in the mean."""
        double = lambda x: tf.constant(x, "float64")  # noqa: E731
        curvature = double(self.curvature)
        extent = Extent(tf.ones_like(curvature), None, [], double(1.0))
        rule = SGD()

        @tf.function(autograph=False)
        def follow(w, averaged, tangents, noise, schedule, beta):
            zero = double(0.0)
            at = Inputs(
                w, (tf.zeros_like(w),), curvature * w + noise, rate * schedule,
                zero, zero,
            )  # fmt: skip
            tangents = hypergradient.advance(
                *(rule, at, extent, "learning_rate", schedule, tangents),
                horizon._replace(averaging=beta),
            )
            w = rule.step(at, extent).weights
            return w, beta * averaged + (1.0 - beta) * w, tangents

        w = averaged = double(self.start)
        zeros = tf.zeros_like(w)
        tangents, said = Tangents(zeros, (zeros,), zeros, zeros), []
        for t in range(self.steps // 2):
            w, averaged, tangents = follow(
                w,
                averaged,
                tangents,
                double(self.noise[t]),
                double(self.schedule(t)),
                double(horizon.averaging_at(t, self.steps, True)),
            )
            if t % 10 == 0:
                said.append(
                    hypergradient.alignment(curvature * averaged, tangents, 1.0)
                )
        return float(np.mean(said))


def test_judged_at_long_averages_a_rate_is_not_lowered_for_its_noise():
    """Twice the rate is better in the end, whatever short averages say."""
    valley, rate = Valley(noise=0.3), 0.1
    once, twice = (valley.loss_at_the_end(k * rate) for k in (1, 2))
    assert twice < 0.6 * once
    assert valley.cosine(rate, Horizon()) > 0.05
    assert valley.cosine(rate, hypergradient.DISCOUNTED) < -0.05


def test_judged_at_long_averages_a_rate_that_is_too_high_is_lowered():
    valley, rate = Valley(noise=5.0), 0.4
    once, twice = (valley.loss_at_the_end(k * rate) for k in (1, 2))
    assert twice > 1.1 * once
    assert valley.cosine(rate, hypergradient.DISCOUNTED) > 0.05


@pytest.mark.parametrize("normalised", [True, False])
def test_averages_are_there_from_the_first_step_behind_normalisations(
    normalised,
):
    """A search is short: what its first updates miss is missed for good."""
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 3)(inputs)
    if normalised:
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    joint = JointModel(
        keras.Model(inputs, x),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": Range(1e-3, 1.0)}
        ),
    )
    assert joint.hyperparameters.is_normalised == normalised
