"""Beta decay of DARTS against central differences of what it adds."""

import numpy as np
from scipy.special import logsumexp

from keras_dha.architecture.decision import Decision
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.strategies import DARTS

LOGITS = np.array([[0.5, -1.0, 2.0], [0.0, 0.3, -0.4]])
BETA, PROGRESS = 0.7, 0.25


def searched(**arguments):
    """Two edges of three operations, a quarter of the search done."""
    decision = Decision(6, edges=2, keep=2)
    decision.logits.assign(LOGITS.ravel())
    learned = LearnedArchitecture([decision], DARTS(**arguments))
    learned.start()
    learned.advance_to(PROGRESS)
    return decision, learned


def added(logits):
    return BETA * PROGRESS * logsumexp(logits, axis=1).sum()


def central_differences(step=1e-5):
    found = np.zeros_like(LOGITS)
    for place in np.ndindex(*LOGITS.shape):
        change = np.zeros_like(LOGITS)
        change[place] = step
        found[place] = (added(LOGITS + change) - added(LOGITS - change)) / (
            2 * step
        )
    return found.ravel()


def test_its_gradient_is_that_of_the_sum_of_exponentials():
    decision, learned = searched(beta_decay=BETA)
    np.testing.assert_allclose(
        learned.strategy.penalty_gradient(decision),
        central_differences(),
        rtol=1e-5,
    )


def test_it_is_added_to_the_gradient_of_the_loss():
    credit = np.linspace(-0.1, 0.1, 6).astype("float32")
    _, with_decay = searched(beta_decay=BETA)
    _, without = searched()
    with_decay.update(credit)
    without.update(credit + central_differences().astype("float32"))
    # What Adam has seen of it.
    np.testing.assert_allclose(with_decay.first, without.first, rtol=1e-4)
    _, plain = searched()
    plain.update(credit)
    assert not np.allclose(with_decay.first, plain.first, rtol=0.1)


def test_there_is_none_before_the_search_and_by_default():
    decision, learned = searched(beta_decay=BETA)
    learned.advance_to(0.0)
    np.testing.assert_array_equal(
        learned.strategy.penalty_gradient(decision), np.zeros(6)
    )
    assert not DARTS().is_penalized
