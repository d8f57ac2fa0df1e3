"""Where evidence and a range's middle leave what Adam moves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.hyperparameters.ranges import Range
from tests.hyperparameters.test_learned import AT
from tests.hyperparameters.test_learned import SIZE
from tests.hyperparameters.test_learned import learned
from tests.hyperparameters.test_learned import value

RANGES = {
    "linear": Range(0.02, 0.1, scale="linear", start=0.09),
    "log": Range(1e-4, 1e-1, start=0.05),
}


def after(hypergradients, scale, steps=3000):
    """Returns where a value is in its range, -1 to 1, after many updates."""
    found = RANGES[scale]
    layer = learned({"label_smoothing": found})

    @tf.function(autograph=False)
    def update(hypergradient):
        layer.update(
            keras.ops.zeros(SIZE), AT, {"label_smoothing": hypergradient}
        )

    for hypergradient in hypergradients(np.random.default_rng(0), steps):
        update(tf.constant(hypergradient, "float32"))
    at = value(layer, "label_smoothing")
    ends = np.array([found.low, found.high])
    if scale == "log":
        at, ends = np.log(at), np.log(ends)
    return (2.0 * at - ends.sum()) / (ends[1] - ends[0])


@pytest.mark.parametrize("scale", sorted(RANGES))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_all_agree_on_leads_to_the_bound(scale, sign):
    at = after(lambda rng, steps: np.full(steps, 7.0 * sign), scale)
    assert at == pytest.approx(-sign, abs=0.01)


@pytest.mark.parametrize("scale", sorted(RANGES))
def test_noise_leads_to_the_middle(scale):
    at = after(lambda rng, steps: rng.normal(size=steps), scale)
    assert abs(at) < 0.2


def test_between_them_by_how_much_is_agreed():
    # Adam's direction is the mean over the root mean square.
    at = after(lambda rng, steps: rng.normal(0.75, 1.0, size=steps), "log")
    assert at == pytest.approx(-0.75 / np.sqrt(1 + 0.75**2), abs=0.15)
