"""What holds for every strategy; their mathematics have files of their own."""

import inspect

import keras
import numpy as np
import pytest

from keras_dha.architecture import strategies
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.strategies.strategy import SinglePath
from keras_dha.architecture.strategies.strategy import Strategy

ALL = [
    value
    for name, value in vars(strategies).items()
    if inspect.isclass(value) and value is not Strategy
]
# Other values than the defaults, for a round trip that could lose them.
OTHER = {
    "learning_rate": 0.5,
    "margin": 0.25,
    "warmup": 0.125,
    "until": 0.75,
    "temperatures": [5.0, 0.5],
    "order": 2,
    "beta_decay": 0.25,
    "size": 3,
    "measurement": "uniform",
    "penalty": 1e-3,
    "scale": 0.75,
    "exploration": 0.25,
    "tolerance": 1e-2,
    "reward": "loss",
    "levels": 1,
}


def test_the_table_is_complete():
    assert {kind.__name__ for kind in ALL} == set(strategies.__all__) - {
        "Strategy"
    }


@pytest.mark.parametrize("kind", ALL)
def test_config_round_trip(kind):
    parameters = inspect.signature(kind).parameters
    assert all(OTHER[n] != p.default for n, p in parameters.items())
    names = list(parameters)
    made = kind(**{name: OTHER[name] for name in names})
    saved = keras.saving.serialize_keras_object(made)
    copy = keras.saving.deserialize_keras_object(saved)
    assert type(copy) is kind
    assert copy.get_config() == {name: OTHER[name] for name in names}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": 0.0},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"warmup": -0.1},
        {"warmup": 0.5, "until": 0.5},
        {"warmup": 0.5, "until": 0.4},
        {"until": 1.5},
    ],
)
def test_bad_arguments_of_all(kind, arguments):
    name = next(iter(arguments))
    with pytest.raises(ValueError, match=f"`{name}`.*Received"):
        kind(**arguments)


@pytest.mark.parametrize(
    "kind, arguments",
    [
        ("DSNAS", {"margin": 0.0}),
        ("DSNAS", {"margin": 1.5}),
        ("DSNAS", {"exploration": 0.0}),
        ("DSNAS", {"exploration": 1.5}),
        ("GDAS", {"margin": 1.5}),
        ("GDAS", {"temperatures": (1.0,)}),
        ("GDAS", {"temperatures": (1.0, 0.0)}),
        ("GDAS", {"levels": 3}),
        ("DARTS", {"margin": -1.0}),
        ("DARTS", {"order": 3}),
        ("DARTS", {"beta_decay": -1.0}),
        ("DARTS", {"beta_decay": float("nan")}),
        ("ISTA", {"size": 0}),
        ("ISTA", {"size": 2.0}),
        ("ISTA", {"measurement": "bernoulli"}),
        ("ISTA", {"penalty": 0.0}),
        ("ISTA", {"scale": -1.0}),
        ("ISTA", {"exploration": 1.5}),
        ("ISTA", {"tolerance": 0.0}),
    ],
)
def test_bad_arguments_of_one(kind, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`.*Received"):
        getattr(strategies, kind)(**arguments)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("edges, keep", [(1, 1), (3, 2)])
def test_a_decision_runs_and_freezes(kind, edges, keep):
    decision = Decision(4 * edges, edges=edges, keep=keep)
    learned = LearnedArchitecture([decision], kind())
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        learned.sample(lambda k, n: rng.uniform(size=n).astype("float32"))
        runs = np.asarray(decision.runs())
        assert runs.shape == (4 * edges,)
        if decision.mixes(True):
            assert np.all(runs)
        else:
            assert runs.sum() == (keep if kind.__name__ == "ISTA" else edges)
        seen |= set(np.flatnonzero(runs))
        if not decision.mixes(True):
            factors = decision.factors(training=True)
            assert np.all(
                np.isclose(factors, 1.0, rtol=1e-6)
                | ~runs.reshape(edges, 4).any(axis=1)
            )
    # In the warm-up all candidates get their share.
    assert decision.mixes(True) or len(seen) > 3 * edges
    kept = decision.kept()
    assert len({k // 4 for k in kept}) == keep
    decision.freeze()
    assert decision.kept() == kept
    np.testing.assert_array_equal(np.flatnonzero(decision.runs()), kept)


@pytest.mark.parametrize("kind", ALL)
def test_frozen_decisions_do_not_move(kind):
    decisions = [Decision(4, name=f"d{k}") for k in range(2)]
    learned = LearnedArchitecture(decisions, kind())
    learned.start()
    learned.advance_to(0.5)
    size = sum(learned.sizes)
    for _ in range(3):  # there are moments now, which would move on alone
        learned.update(np.ones(size, "float32"))
    before = [d.parameter.numpy() for d in decisions]
    decisions[0].freeze()
    learned.update(np.ones(size, "float32"))
    np.testing.assert_array_equal(decisions[0].parameter, before[0])
    assert np.all(decisions[1].parameter.numpy() != before[1])


@pytest.mark.parametrize("progress, expected", [(-1, 0), (0.3, 0.3), (2, 1)])
def test_the_progress_is_kept_within_its_bounds(progress, expected):
    learned = LearnedArchitecture([], strategies.GDAS())
    learned.advance_to(progress)
    assert float(learned.strategy.progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    "verb, arguments",
    [
        ("sample", (None, None)),
        ("factors", (None,)),
        ("coefficients", (None,)),
        ("penalty_gradient", (None,)),
    ],
)
def test_a_strategy_must_implement_its_verbs(verb, arguments):
    class Half(Strategy):
        pass

    half = Half(0.1, None, 0.0, 1.0)
    with pytest.raises(NotImplementedError, match=f"`Half`.*`{verb}"):
        getattr(half, verb)(*arguments)


def test_a_single_path_strategy_must_implement_credit():
    class Half(SinglePath):
        pass

    with pytest.raises(NotImplementedError, match="`Half`.*`credit"):
        Half(0.1, None, 0.0, 1.0).credit(None, None, None)


def test_one_that_mixes_needs_no_sample():
    class Even(Strategy):
        mixes = True

        def coefficients(self, logits):
            return keras.ops.ones_like(logits) / logits.shape[-1]

    decision = Decision(3, name="d")
    learned = LearnedArchitecture([decision], Even(0.1, None, 0.0, 1.0))
    learned.sample(lambda k, size: np.full(size, 0.5, "float32"))
    assert learned.strategy.reward == "accuracy"


def test_which_inputs_are_kept_needs_operations_to_learn_it_by():
    inputs_alone = Decision(3, edges=3, keep=1, name="d")
    with pytest.raises(ValueError, match="a second one.*ISTA.*3 inputs"):
        LearnedArchitecture([inputs_alone], strategies.DSNAS())
    LearnedArchitecture([inputs_alone], strategies.ISTA())
