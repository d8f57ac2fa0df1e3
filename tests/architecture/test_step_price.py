import json
import time

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_dha import data
from keras_dha import phases
from keras_dha import trust
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.step_price import StepPrice
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.assembly import assemble
from keras_dha.batches import ArrayBatches
from keras_dha.pace import ClockPace
from keras_dha.run_record import RunRecord
from keras_dha.stepping import Stepper
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.test_pace import Clock
from tests.test_pace import set_clock


def noted(decisions, seconds_of, steps=400, loss=1.5):
    """A `StepPrice` that has seen random paths."""
    price = StepPrice(decisions)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        path = [int(generator.integers(d.num_candidates)) for d in decisions]
        for decision, index in zip(decisions, path, strict=True):
            decision.sampled.assign(index)
        price.note(seconds_of(path), loss)
    return price


def test_a_candidate_pays_for_how_much_it_slows_a_step():
    decisions = [Decision(3, name="a"), Decision(2, name="b")]
    extra = np.array([0.0, 1.0, 2.0])
    price = noted(decisions, lambda path: 3.0 + extra[path[0]])
    prices = price.prices()
    # The mean step has one second more than 3; half of the loss of 1.5.
    slower = np.log((3.0 + extra) / 4.0)
    np.testing.assert_allclose(prices[:3], 0.5 * 1.5 * slower, atol=0.02)
    # What the other decision runs makes no difference.
    np.testing.assert_allclose(prices[3], prices[4], atol=0.01)


def test_what_is_slower_costs_where_the_loss_is_negative_as_well():
    prices = [
        noted([Decision(2, name="a")], lambda p: 1.0 + p[0], loss=loss).prices()
        for loss in (0.8, -0.8)
    ]
    np.testing.assert_allclose(*prices)
    assert prices[1][1] > 0 > prices[1][0]


def test_a_step_that_diverged_is_not_noted():
    price = noted([Decision(3, name="a")], lambda path: 1.0 + path[0])
    before = price.prices()
    price.note(50.0, float("nan"))
    price.note(50.0, float("inf"))
    np.testing.assert_array_equal(price.prices(), before)


def test_few_steps_say_nothing():
    decisions = [Decision(3, name="a")]
    np.testing.assert_array_equal(
        noted(decisions, lambda path: path[0], steps=6).prices(), np.zeros(3)
    )
    assert StepPrice(decisions).prices().shape == (3,)


def test_the_gradient_is_that_of_the_expected_price():
    decisions = [Decision(3, name="a"), Decision(2, name="b")]
    learned = LearnedArchitecture(decisions, DSNAS())
    assert learned.can_be_priced
    prices = np.array([0.3, -0.2, 0.1, 0.5, -0.5])
    logits = np.array([0.5, -1.0, 0.2, 0.3, 0.0])
    learned.prices.assign(prices)

    def expected(values):
        parts = np.split(values, [3])
        shares = np.concatenate([np.exp(p) / np.exp(p).sum() for p in parts])
        return np.sum(shares * prices)

    step = 1e-6
    numeric = [
        (expected(logits + step * row) - expected(logits - step * row))
        / (2 * step)
        for row in np.eye(5)
    ]
    values = tf.constant(logits, "float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(learned._price_gradient(values)),
        numeric,
        atol=1e-6,
    )


def test_what_runs_all_candidates_has_no_prices():
    decisions = [Decision(3, name="a")]
    assert not LearnedArchitecture(decisions, DARTS()).can_be_priced
    assert not LearnedArchitecture(decisions, None).can_be_priced
    several = [Decision(6, edges=2, name="b")]
    assert not LearnedArchitecture(several, DSNAS()).can_be_priced


@pytest.mark.parametrize("dear", [0, 1])
def test_a_run_of_seconds_takes_what_is_cheap(monkeypatch, dear):
    set_clock(monkeypatch, Clock(each=1.0))
    prices = np.zeros(2)
    prices[dear] = 100.0
    monkeypatch.setattr(StepPrice, "prices", lambda self: np.tile(prices, 2))
    model = joint_auto_model(
        augmentation=None, hyperparameters={"learning_rate": 0.01}
    )
    fit(model, epochs=None, time_limit=300.0)
    chosen = {gene["choice"] for gene in model.result.genotype.values()}
    assert chosen == {f"{('one', 'three')[dear]}{k}" for k in range(2)}


def test_prices_are_kept_where_the_joint_model_goes_back(monkeypatch):
    """To a copy of its warm-up, by a divergence or in another process."""
    found = np.array([0.5, -0.5, 0.0, 0.25], "float32")
    monkeypatch.setattr(StepPrice, "prices", lambda self: found)
    batches = ArrayBatches(X, Y, 16, seed=0)
    distribution = tf.distribute.get_strategy()
    pace = ClockPace(1000.0, time.monotonic())
    settings = quick_auto_model(strategy=DSNAS(until=0.5)).settings
    joint, _ = assemble(
        *(settings, data.inspect(X, Y), distribution, pace, batches)
    )
    plan = phases.plan(pace.total, joint.architecture.strategy)

    def stepper():
        return Stepper(
            *(joint, batches, None, distribution, pace, plan, 2, "constant"),
            RunRecord(pace.total, time.monotonic()),
        )

    first, copy = stepper(), trust.copy_of(joint)
    first.begin()
    state = json.loads(json.dumps(first.state()))
    resumed = stepper()
    resumed.resume(state, phases.SEARCH)
    for each in (first, resumed):
        each.open_streams()
        for step in range(2):
            trust.restore(joint, copy)
            each.take(step, phases.SEARCH, is_outer=False)
            np.testing.assert_array_equal(joint.architecture.prices, found)
