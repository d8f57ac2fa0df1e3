"""Planted truth, as far as it is quick: the rest is benchmarks/planted."""

import numpy as np
import pytest

import keras_dha
from benchmarks.planted.architecture import architecture

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "strategy", ["auto", "DSNAS", "GDAS", "DARTS", "ISTA", "Reinforce"]
)
def test_the_useful_branch_is_found(strategy):
    seeds = 3 if strategy in ("auto", "DSNAS") else 2
    found = architecture(seeds=seeds, epochs=20, strategy=strategy)
    assert found["right"] == seeds, found["picked"]


def test_a_rate_started_ten_times_too_low_recovers():
    data = keras_dha.datasets.load("digits")

    def run(rate):
        model = keras_dha.AutoModel(
            strategy=None,
            augmentation=None,
            hyperparameters={"learning_rate": rate},
            seed=0,
        )
        model.fit(data.x_train, data.y_train, epochs=12, verbose=0)
        accuracy = model.evaluate(data.x_test, data.y_test)[1]
        return accuracy, model.result.history.get("learning_rate")

    good, _ = run(0.1)
    recovered, rates = run(keras_dha.Range(1e-4, 1.0, start=0.01))
    assert np.max(rates) > 0.03
    assert recovered >= good - 0.01
