"""Mixup whose strength is learned: its draws, its score, its hypergradient."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_dha.hyperparameters import training_loss
from tests.references import central_difference


@pytest.mark.parametrize("strength", [0.003, 0.02, 0.4, 1.0, 3.0])
def test_mixup_draws_beta(strength):
    draw = lambda *args: training_loss.draw_shares(  # noqa: E731
        tf.constant(strength), *args
    ).numpy()
    seed = tf.constant([3, 4])
    shares = draw(4000, seed)
    assert np.all(np.isfinite(shares))
    beta = stats.beta(strength, strength)
    points = np.array([0.01, 0.1, 0.49, 0.51, 0.9, 0.99])
    below = np.mean(shares < points[:, None], axis=1)
    # Four standard errors.
    np.testing.assert_allclose(below, beta.cdf(points), atol=2 / 4000**0.5)
    # Small strengths end at 0 or 1, in place of nearby.
    if strength > 0.1:
        assert stats.kstest(shares, beta.cdf).pvalue > 1e-3
    halves = [draw(2000, seed, replica, 2) for replica in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), shares)


def test_mixup_score_is_the_derivative_of_the_log_density():
    shares = np.array([0.03, 0.4, 0.97])
    expected = central_difference(
        lambda a: stats.beta(a, a).logpdf(shares), 0.6
    )
    ours = training_loss.mixup_score(
        tf.constant(shares), tf.constant(0.6, "float64")
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_mixup_hypergradient_finds_what_helps():
    """Influence that grows with the score: more of it lowers the loss."""
    strength = tf.constant(0.5)
    shares = training_loss.draw_shares(strength, 64, tf.constant([5, 6]))
    score = training_loss.mixup_score(shares, strength).numpy()
    noise = np.random.default_rng(0).normal(size=64).astype("float32")
    for sign in (1.0, -1.0):
        influence = tf.constant(3e-4 * (sign * score + noise + 2.0))
        ours = training_loss.mixup_hypergradient(
            influence, shares, strength, lambda x: x
        )
        expected = -np.corrcoef(influence.numpy(), score)[0, 1]
        np.testing.assert_allclose(ours, expected, rtol=1e-2)
        assert np.sign(ours) == -sign
