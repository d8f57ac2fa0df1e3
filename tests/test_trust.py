import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import trust
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.range_test import RangeTest
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW

RATE = {"learning_rate": Range(1e-3, 10.0, start=1.0)}
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def joint_model(values=RATE, loss=CROSS_ENTROPY):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    return JointModel(
        network, loss, hyperparameters=LearnedHyperparameters(values)
    )


def train(joint, steps=1):
    rng = np.random.default_rng(0)
    batch = (
        tf.constant(rng.normal(size=(8, 4)), "float32"),
        tf.zeros(8, "int32"),
    )
    for _ in range(steps):
        joint.train_step(batch, 1e-3)


def rate(joint):
    return float(joint.hyperparameters.current("learning_rate"))


def feed(guard, losses):
    return [guard.check(tf.constant(loss)) for loss in losses]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 50.0])
def test_a_divergence_is_undone(bad):
    joint = joint_model()
    guard = trust.Guard(joint, every=5)
    before = [v.numpy() for v in joint.network.variables]
    train(joint, 3)
    with pytest.warns(UserWarning, match="diverged .* learning_rate=1. The"):
        undone = feed(guard, [1.2, 1.1, bad, bad, bad])
    assert undone == [0, 0, 0, 0, 5]
    for old, new in zip(before, joint.network.variables, strict=True):
        np.testing.assert_array_equal(new, old)
    assert rate(joint) == pytest.approx(0.5)
    assert joint.hyperparameters.bounds("learning_rate")[1] == pytest.approx(
        0.5
    )
    assert guard.undone == 1


def test_where_all_was_undone_the_loss_is_that_of_the_start():
    guard = trust.Guard(joint_model(), every=2)
    with pytest.warns(UserWarning, match="diverged"):
        feed(guard, [4.0, float("nan"), float("nan"), float("nan")])
    assert guard.loss == 4.0


def test_the_loss_of_the_start_is_that_of_any_loss():
    joint = joint_model(loss=keras.losses.MeanAbsoluteError())
    guard = trust.Guard(joint, every=2)
    with pytest.warns(UserWarning, match="diverged"):
        feed(guard, [4.0, float("nan")])
    assert guard.loss == 4.0


def test_a_later_good_state_is_gone_back_to():
    joint = joint_model()
    guard = trust.Guard(joint, every=5, keep_every=10)
    train(joint, 4)
    feed(guard, [1.0] * 10)
    kept = joint.weight_vector.read().numpy()
    train(joint, 2)
    assert np.any(joint.weight_vector.read().numpy() != kept)
    with pytest.warns(UserWarning, match="diverged"):
        feed(guard, [90.0] * 5)
    np.testing.assert_array_equal(joint.weight_vector.read(), kept)


@pytest.mark.parametrize(
    "losses",
    [
        [3.0, 2.0, 4.0, 3.0, 2.5] * 4,  # noise about the start
        [0.01, 0.4, 1.2, 1.5, 0.9],  # from a trained network, below guessing
    ],
)
def test_what_is_no_divergence(losses):
    joint = joint_model()
    guard = trust.Guard(joint, every=5)
    assert not any(feed(guard, losses))
    assert rate(joint) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "losses, is_behind",
    [
        ([0.95, 1.2], True),  # guessing among three is 1.099
        ([0.95, 1.1], False),  # the noise of a few steps
        ([1.05, 1.2], False),  # never clearly better
    ],
)
def test_later_a_run_must_not_fall_behind_guessing(losses, is_behind):
    joint = joint_model()
    train(joint)  # it is no beginning
    guard = trust.Guard(joint, every=1, keep_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert any(feed(guard, [1.4, *losses])) == is_behind


def test_a_network_that_has_died_is_brought_back():
    """It guesses, and is no worse than that."""
    joint = joint_model()
    before = [v.numpy() for v in joint.network.variables]
    train(joint)
    guard = trust.Guard(joint, every=1, keep_every=1)
    guessing = float(np.log(3))
    with pytest.warns(UserWarning, match="diverged"):
        undone = feed(guard, [1.2, 0.9, *[guessing] * 3])
    assert undone == [0, 0, 0, 0, 1]
    # Not to a state that guessed.
    for old, new in zip(before, joint.network.variables, strict=True):
        assert not np.array_equal(new, old)


@pytest.mark.parametrize(
    "losses",
    [
        [1.2, 1.099, 1.099, 1.099, 1.099],  # never better
        [1.2, 0.9, 1.099, 1.099, 1.0, 1.099, 1.099],  # not three in a row
        [1.2, 0.9, 1.05, 1.06, 1.05, 1.06],  # better still
    ],
)
def test_what_guesses_for_a_while_has_not_died(losses):
    joint = joint_model()
    train(joint)
    guard = trust.Guard(joint, every=1, keep_every=1)
    assert not any(feed(guard, losses))


def test_what_is_gone_back_to_goes_on_with_no_higher_rate():
    joint = joint_model()
    guard = trust.Guard(joint, every=1)
    joint.hyperparameters.set_value("learning_rate", 8.0)
    with pytest.warns(UserWarning, match="diverged"):
        assert any(feed(guard, [1.2, 50.0]))
    assert rate(joint) == pytest.approx(1.0)
    bounds = joint.hyperparameters.bounds("learning_rate")
    assert bounds[1] == pytest.approx(4.0)


def test_classes_that_are_hard_to_tell_apart_are_no_divergence():
    """Means of ten batches are by chance on both sides of guessing."""
    joint = joint_model()
    train(joint)
    guard = trust.Guard(joint)
    guessing = np.log(3)
    rng = np.random.default_rng(0)
    losses = rng.normal(0.92 * guessing, 0.12 * guessing, [300, 10])
    means = losses.mean(axis=1)
    assert means.min() < 0.9 * guessing and means.max() > 1.03 * guessing
    assert not any(feed(guard, losses.ravel()))
    with pytest.warns(UserWarning, match="diverged"):
        assert any(feed(guard, losses[0] + 0.3 * guessing))


def test_what_was_undone_is_no_measure_of_what_follows():
    guard = trust.Guard(joint_model(), every=1)
    with pytest.warns(UserWarning, match="diverged"):
        assert any(feed(guard, [1.4, 0.9, 1.3]))
    # Back at the start, which is worse than guessing.
    assert not any(feed(guard, [1.4, 1.3, 1.2]))
    assert guard.undone == 1


def test_of_other_losses_only_what_is_not_finite():
    joint = joint_model(loss=keras.losses.MeanAbsoluteError())
    guard = trust.Guard(joint, every=5)
    assert not any(feed(guard, [1e-3, 5.0, 90.0, 90.0, 90.0]))
    with pytest.warns(UserWarning, match="diverged"):
        assert any(feed(guard, [float("nan")] * 5))


def test_a_fixed_rate_is_the_users():
    joint = joint_model({"learning_rate": 1.0})
    guard = trust.Guard(joint, every=5)
    assert not any(feed(guard, [float("nan")] * 20))


def test_it_is_said_once_and_given_up_at_last():
    joint = joint_model()
    guard = trust.Guard(joint, every=2, limit=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(
            FloatingPointError, match=r"diverged 4 times.*\b0\.125\b"
        ):
            feed(guard, [float("nan")] * 20)
    assert sum(w.category is UserWarning for w in caught) == 1
    # What is left is the last good state, not the one that diverged.
    assert rate(joint) == pytest.approx(1.0)


@pytest.mark.parametrize("found, high", [(0.1, 0.2), (0.3, 0.5), (0.8, 0.8)])
def test_at_the_beginning_a_range_test_says_where_to_go_on(found, high):
    joint = joint_model({**RATE, "weight_decay": Range(1e-6, 0.5, start=0.4)})
    tested = []

    def test():
        tested.append(True)
        joint.hyperparameters.set_value("learning_rate", 0.02, high=found)
        return RangeTest(0.02, found)

    guard = trust.Guard(joint, every=2, keep_every=100, test=test)
    # No worse than at first, and no better for long.
    assert not any(feed(guard, [1.5] * 6))
    # What a divergence makes of it does not count.
    joint.hyperparameters.position.assign([np.nan, np.nan])
    with pytest.warns(UserWarning, match="diverged"):
        assert feed(guard, [1.5] * 2) == [0, 2]
    assert rate(joint) == pytest.approx(0.02)
    # Half of the rate it began at, within one and two times the test's.
    assert joint.hyperparameters.bounds("learning_rate")[1] == pytest.approx(
        high
    )
    decay = float(joint.hyperparameters.current("weight_decay"))
    assert decay == pytest.approx(0.02 * (1 - 0.9) / high, rel=1e-4)
    # Once: what follows must be worse to be undone, and halves the rate.
    assert not any(feed(guard, [1.5] * 20))
    assert any(feed(guard, [99.0] * 2))
    assert rate(joint) == pytest.approx(0.01)
    assert len(tested) == 1


@pytest.mark.parametrize(
    "losses, undone",
    [
        # The untrained network is bad, what ten steps make of it is no worse
        # than guessing (1.1), and there it stays.
        ([4.0, 1.2] + [1.5] * 4 + [2.7] * 2, True),
        # The first steps made it worse, and it is no better than before them.
        ([1.5, 2.4] + [1.6] * 6, True),
        # It gets better, however slowly.
        ([1.8, 1.7, 1.6, 1.6, 1.5, 1.5, 1.45, 1.4, 1.35, 1.3], False),
        # It was better than guessing, and is worse again; or hardly.
        ([4.0, 1.2] + [1.0] * 4 + [1.2] * 2, True),
        ([4.0, 1.2] + [1.0] * 4 + [1.11] * 2, False),
    ],
)
def test_what_is_a_failed_beginning(losses, undone):
    joint = joint_model()
    guard = trust.Guard(
        joint, every=2, keep_every=100, test=lambda: RangeTest(0.02, 0.1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert any(feed(guard, losses)) == undone


@pytest.mark.parametrize("high", [10.0, 0.02])
def test_after_a_range_test_decay_is_what_the_highest_rate_allows(high):
    """The highest one that there will be, not that which the test bears."""
    values = {
        "learning_rate": Range(1e-3, high),
        "weight_decay": Range(1e-6, 0.5, start=0.4),
    }
    joint = joint_model(values)
    rng = np.random.default_rng(0)
    batch = (
        tf.constant(rng.normal(size=(8, 4)), "float32"),
        tf.zeros(8, "int32"),
    )
    found = trust.test_range(joint, joint.train_step, itertools.repeat(batch))
    # Two per cent a step, at a momentum of 0.9.
    assert float(
        joint.hyperparameters.current("weight_decay")
    ) == pytest.approx(
        min(0.4, 0.02 * (1 - 0.9) / min(found.high, high)), rel=1e-4
    )
    assert found.high > 0.02


def test_a_rate_that_is_not_finite_is_halved_all_the_same():
    """An outer step of weights that are not finite makes the rate so."""
    joint = joint_model()
    train(joint)  # it is no beginning
    guard = trust.Guard(joint, every=1, limit=3)
    guard.check(tf.constant(1.0))
    found = []
    for _ in range(3):
        joint.hyperparameters.position.assign([np.nan])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            guard.check(tf.constant(np.nan))
        bound = joint.hyperparameters.bounds("learning_rate")[1]
        found.append((rate(joint), float(bound)))
    expected = [(x, x) for x in (0.5, 0.25, 0.125)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_giving_up_leaves_the_last_good_state():
    joint = joint_model()
    guard = trust.Guard(joint, every=1, limit=0)
    before = joint.weight_vector.read().numpy()
    train(joint, 3)
    with pytest.raises(FloatingPointError, match="diverged 1 times"):
        feed(guard, [1.0, 90.0])
    np.testing.assert_array_equal(joint.weight_vector.read(), before)


@pytest.mark.parametrize(
    "rule, low, high", [(SGD(), 1e-3, 3.0), (AdamW(), 1e-5, 0.1)]
)
def test_a_range_test_tries_rates_on_one_path(rule, low, high):
    inputs = keras.Input((4,))
    choice = Choice([layers.Dense(3, name=name) for name in "abcd"])
    joint = JointModel(
        keras.Model(inputs, choice(inputs)),
        CROSS_ENTROPY,
        strategy=DSNAS(),
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": Range(1e-3, 10.0, start=0.2)}
        ),
        rule=rule,
    )
    batch = (tf.ones([8, 4]), tf.zeros(8, "int32"))
    train_step = tf.function(joint.train_step, autograph=False)
    seen = []

    def step(batch, schedule):
        number = int(joint.step)
        train_step(batch, schedule)
        path = int(choice.decision.sampled)
        seen.append((float(schedule) * rate(joint), number, path))
        return tf.constant(1.0)  # at no rate it diverges

    trust.test_range(joint, step, itertools.repeat(batch))
    rates, numbers, paths = zip(*seen, strict=True)
    expected = np.geomspace(low, high, trust.RANGE_TEST_STEPS)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert set(numbers) == {0}
    assert len(set(paths)) == 1


def test_a_range_test_knows_the_loss_of_guessing():
    """Among three classes 1.1: to come to that, from 2.5, is not to learn."""
    batch = (tf.ones([8, 4]), tf.zeros(8, "int32"))

    def found(lowest):
        joint = joint_model({"learning_rate": Range(1e-3, 10.0)})
        losses = iter(np.linspace(2.5, lowest, trust.RANGE_TEST_STEPS))
        return trust.test_range(
            joint, lambda *_: tf.constant(next(losses)), itertools.repeat(batch)
        )

    # Of a fall in a straight line the same share is at the same rate.
    assert found(1.1).high < 0.5 * found(0.5).high


def test_a_range_test_that_fails_leaves_everything_as_it_was():
    joint = joint_model({"learning_rate": Range(1e-3, 10.0)})
    before = [v.numpy() for v in joint.variables]

    def full(batch, schedule):
        joint.train_step(batch, schedule)
        raise MemoryError

    batch = (tf.ones([8, 4]), tf.zeros(8, "int32"))
    with pytest.raises(MemoryError):
        trust.test_range(joint, full, itertools.repeat(batch))
    for old, new in zip(before, joint.variables, strict=True):
        np.testing.assert_array_equal(new, old)


def test_groups_are_lowered_together():
    groups = {
        "*dense*": Range(1e-3, 10.0, start=2.0),
        "*": Range(1e-3, 10.0, start=1.0),
    }
    joint = joint_model({"learning_rate": groups})
    guard = trust.Guard(joint, every=2)
    with pytest.warns(UserWarning, match="diverged"):
        feed(guard, [1.0, 99.0])
    current = joint.hyperparameters.current
    assert float(current("learning_rate[*dense*]")) == pytest.approx(1.0)
    assert float(current("learning_rate[*]")) == pytest.approx(0.5)


def learned(high=None):
    layer = LearnedHyperparameters(RATE)
    layer.allocate(SGD(), [2], ["dense/kernel"])
    if high is not None:
        layer.set_value("learning_rate", high, high=high)
    return layer


def advice(layer, counts, updates):
    shares = trust.bound_shares(layer, np.array(counts)[:, None], updates)
    return shares, trust.bound_advice(layer, shares, updates)


def test_what_stays_at_a_bound_is_reported():
    shares, said = advice(learned(), (0.0, 27.0), 30)
    assert shares == {"learning_rate": (0.0, 0.9)}
    assert "90% of its updates at its upper bound 10" in said["learning_rate"]
    _, said = advice(learned(), (24.0, 0.0), 30)
    assert "80% of its updates at its lower bound 0.0" in said["learning_rate"]


@pytest.mark.parametrize("counts, updates", [((0, 12), 30), ((0, 9), 10)])
def test_what_was_there_now_and_then_is_not(counts, updates):
    assert advice(learned(), counts, updates)[1] == {}


def test_a_bound_that_a_range_test_set_is_not():
    assert advice(learned(high=0.5), (0.0, 29.0), 30)[1] == {}
