import json

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.strategies import DSNAS

LOGITS = np.array([0.5, -1.0, 2.0], "float32")


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def decision():
    made = Decision(3, name="kernel")
    made.logits.assign(LOGITS)
    return made


def test_a_new_decision_is_free_and_undecided():
    made = Decision(4)
    assert not made.is_frozen
    np.testing.assert_allclose(made.probabilities(), [0.25] * 4)


def test_probabilities_are_the_softmax_of_the_logits():
    np.testing.assert_allclose(
        decision().probabilities(), softmax(LOGITS), rtol=1e-6
    )


def test_free_runs_the_sampled_in_training_and_the_best_in_inference():
    made = decision()
    for sampled in range(3):
        made.sampled.assign(sampled)
        assert int(made.indices(training=True)[0]) == sampled
        assert int(made.indices(training=False)[0]) == 2


@pytest.mark.parametrize("given, expected", [(0, 0), (1, 1), (None, 2)])
def test_frozen_runs_the_chosen_whatever_is_sampled_or_learned(given, expected):
    made = decision()
    made.freeze(given)
    made.sampled.assign((expected + 1) % 3)
    made.logits.assign(np.roll(LOGITS, 1))
    assert made.is_frozen
    assert int(made.indices(training=True)[0]) == expected
    assert int(made.indices(training=False)[0]) == expected
    np.testing.assert_array_equal(made.probabilities(), np.eye(3)[expected])


@pytest.mark.parametrize("index", [-1, 3])
def test_freeze_refuses_what_is_no_candidate(index):
    with pytest.raises(ValueError, match=f"in 0..2.*index={index}"):
        decision().freeze(index)


def test_factors_are_one_and_there_only_with_a_strategy():
    made = decision()
    assert made.factors(training=True) is None
    made.strategy = DSNAS()
    np.testing.assert_array_equal(made.factors(training=True), [1.0])
    assert made.factors(training=False) is None
    # Nor where nobody asks for their gradient.
    assert made.factors(training=True, credits=False) is None


@pytest.mark.parametrize("size", [1, 0, -2, 2.0, "3", None, True])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="`num_cand.*at least 2.*Received"):
        Decision(size)


def test_numbers_of_numpy_are_integers():
    made = Decision(np.int64(6), edges=np.int32(3), keep=np.int64(2))
    config = made.get_config()
    assert json.loads(json.dumps(config)) == config
    assert (made.num_candidates, made.edges, made.keep) == (6, 3, 2)


def test_config_round_trip():
    saved = keras.saving.serialize_keras_object(decision())
    copy = keras.saving.deserialize_keras_object(saved)
    assert (copy.name, copy.num_candidates) == ("kernel", 3)


def test_all_decisions_are_found_once_wherever_they_are():
    shared = Decision(2, name="shared")

    def choice(name, decision=None):
        return Choice(
            [layers.Dense(4, name=f"{name}_{k}") for k in range(2)],
            decision=decision,
            name=name,
        )

    nested = keras.Sequential([keras.Input((4,)), choice("nested")])
    around = Choice(
        [keras.Sequential([choice("inside")]), layers.Dense(4)], name="around"
    )
    inputs = keras.Input((4,))
    x = choice("second", shared)(choice("first", shared)(inputs))
    model = keras.Model(inputs, around(nested(x)))
    found = find_decisions(model)
    assert {d.name for d in found} == {
        "shared",
        "nested_decision",
        "inside_decision",
        "around_decision",
    }
    assert len(found) == 4
    assert [id(d) for d in find_decisions(model)] == [id(d) for d in found]
