"""Reinforce: the score, and what moves the logits."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dha.architecture.decision import Decision
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import Reinforce
from tests.references import central_difference

LOGITS = np.array([0.5, -1.0, 2.0, 0.0, 0.3, -0.2])


def log_p(logits, index):
    table = logits.reshape(-1, 3)
    total = np.log(np.exp(table).sum(axis=1))
    return sum(table[e, k] - total[e] for e, k in enumerate(index))


@pytest.mark.parametrize("index", [(0, 0), (2, 1), (1, 2)])
def test_the_score_is_the_derivative_of_the_log_probability(index):
    decision = Decision(6, edges=2, keep=2)
    decision.logits.assign(LOGITS)
    decision.sampled.assign(index)
    score = Reinforce().score(decision).numpy()
    for k in range(6):
        exact = central_difference(
            lambda x, k=k: log_p(LOGITS + x * np.eye(6)[k], index), 0.0
        )
        assert score[k] == pytest.approx(exact, abs=1e-6)


def searched(strategy, frozen=False):
    decisions = [Decision(3, name="a"), Decision(4, name="b")]
    learned = LearnedArchitecture(decisions, strategy)
    if frozen:
        decisions[0].freeze(1)
    learned.start()
    return decisions, learned


def test_a_path_of_high_reward_becomes_likely_and_one_of_low_unlikely():
    for advantage in (0.3, -0.3):
        decisions, learned = searched(Reinforce(learning_rate=0.2))
        decisions[0].sampled.assign(2)
        decisions[1].sampled.assign(0)
        learned.follow_reward(tf.constant(advantage))
        for decision, index in zip(decisions, (2, 0), strict=True):
            size = decision.num_candidates
            expected = 0.2 * np.sign(advantage) * (2 * np.eye(size)[index] - 1)
            np.testing.assert_allclose(decision.logits, expected, rtol=1e-3)


def test_a_frozen_decision_stays():
    decisions, learned = searched(Reinforce(), frozen=True)
    learned.follow_reward(tf.constant(1.0))
    assert not np.any(decisions[0].logits.numpy())
    assert np.any(decisions[1].logits.numpy())


def test_other_strategies_do_not_follow_rewards():
    decisions, learned = searched(DSNAS())
    learned.follow_reward(tf.constant(1.0))
    assert learned.is_one_level and not learned.is_rewarded
    assert not any(np.any(d.logits.numpy()) for d in decisions)


def test_what_runs_has_no_gradient():
    """The training loss moves weights alone: no path back to the logits."""
    decisions, learned = searched(Reinforce())
    assert learned.is_rewarded
    assert not (learned.is_one_level or learned.is_bilevel)
    decision = decisions[0]
    with tf.GradientTape() as tape:
        factor = decision.factors(training=True)
    np.testing.assert_array_equal(factor, [1.0])
    assert tape.gradient(factor, decision.logits.value) is None
