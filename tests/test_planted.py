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


def learned_policy(x, y, **fit):
    """The policy of a short run on digits, and its model."""
    augmentation = keras_dha.DifferentiableAugmentation(
        ["Identity", "Rotate", "Invert", "ShearX"],
        levels=(0.5, 1.0),
        value_range=(0, 16),
        flip=None,
        shift=None,
        clean=0.1,
    )
    model = keras_dha.AutoModel(
        lambda shape, classes: keras_dha.spaces.resnet(
            shape, classes, width=8, value_range=(0, 16)
        ),
        strategy=None,
        augmentation=augmentation,
        hyperparameters={"learning_rate": 0.1},
        outer_every=4,
        seed=0,
    )
    model.fit(x, y, epochs=12, batch_size=32, verbose=0, **fit)
    return model.result.policy, model


def test_a_policy_turns_to_what_the_search_split_shows():
    data = keras_dha.datasets.load("digits")
    x, y, held = data.x_train, data.y_train, 288
    policy, model = learned_policy(
        *(x[held:], y[held:]), search_data=(16.0 - x[:held], y[:held])
    )
    share, magnitude = policy.usage()["Invert"]
    assert share > 0.5  # from a quarter
    assert magnitude > 0.85  # from 0.75
    # Digits that are white on black in no training image.
    assert model.evaluate(16.0 - data.x_test, data.y_test)[1] > 0.9


def test_a_policy_turns_away_from_what_destroys_labels():
    data = keras_dha.datasets.load("digits")
    y = np.arange(len(data.y_train)) % 2
    x = np.where(y[:, None, None, None], 16.0 - data.x_train, data.x_train)
    policy, _ = learned_policy(x, y)
    assert policy.usage()["Invert"][0] < 0.1  # from a quarter


@pytest.mark.filterwarnings("ignore:Training diverged")
@pytest.mark.parametrize("start", [0.01, 3.0])
def test_a_rate_started_off_the_mark_recovers(start):
    data = keras_dha.datasets.load("digits")

    def run(rate, seed):
        model = keras_dha.AutoModel(
            strategy=None,
            augmentation=None,
            hyperparameters={"learning_rate": rate},
            seed=seed,
        )
        model.fit(data.x_train, data.y_train, epochs=12, verbose=0)
        accuracy = model.evaluate(data.x_test, data.y_test)[1]
        return accuracy, model.result.history.get("learning_rate")

    # In one run chance is worth as much as the bound.
    good, recovered = [], []
    for seed in range(3):
        good.append(run(0.1, seed)[0])
        accuracy, rates = run(keras_dha.Range(1e-4, 10.0, start=start), seed)
        recovered.append(accuracy)
        assert 0.03 < np.max(rates) < 2.0
    assert np.mean(recovered) >= np.mean(good) - 0.01
