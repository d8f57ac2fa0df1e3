"""The temporary step: what it takes, what it leaves, and what it teaches."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha import inner_pass
from keras_dha import temporary_step
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.strategies import Reinforce
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.hyperparameters.autohas import SampledHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from keras_dha.losses import OutputLosses
from keras_dha.reward import Reward
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW
from tests.references import central_difference
from tests.test_joint_model import float64  # noqa: F401
from tests.test_joint_model import restore
from tests.test_joint_model import snapshot

CLASSES = 3
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PLAIN = OutputLosses.of(CROSS_ENTROPY)
VALUES = {
    "learning_rate": Range(0.05, 5.0),
    "weight_decay": Range(1e-3, 1.0),
    "momentum": 0.8,
}


def data(seed, size, dtype="float32"):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(size, 6, 6, 1))
    labels = np.digitize(images[:, 0, 0, 0], [-0.4, 0.4])
    return tf.constant(images.astype(dtype)), tf.constant(labels)


def network(normalised=True, dropout=False, constraint=None, chooses=True):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(
        3,
        3,
        activation="tanh",
        activity_regularizer="l2",
        kernel_constraint=constraint,
    )(x)
    if normalised:
        x = layers.BatchNormalization()(x)
    if dropout:
        x = keras_dha.Dropout(0.2, seed=1)(x)
    if chooses:
        branch = Choice(
            [
                layers.Conv2D(3, 3, padding="same", name="three"),
                layers.Conv2D(3, 1, activation="tanh", name="one"),
                layers.Rescaling(0.0, name="nothing"),
            ],
            name="choice",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def joint_model(values=VALUES, space=None, basis=3, reward="accuracy", **more):
    joint = JointModel(
        space or network(),
        CROSS_ENTROPY,
        metrics=["accuracy"],
        strategy=Reinforce(reward=reward),
        hyperparameters=SampledHyperparameters(values, basis, reward=reward),
        seed=5,
        **more,
    )
    joint.architecture.start()
    return joint


def everything(augmented, chooses=True, rule=None, steps=2):
    """A model with all that a step may draw or keep, after some steps."""
    values = {
        **VALUES,
        "label_smoothing": Range(0.01, 0.3),
        "dropout_rate": Range(0.05, 0.6),
    }
    augmentation = None
    if augmented:
        augmentation = DifferentiableAugmentation(
            ["Identity", "Rotate", "Invert"], value_range=(-3, 3)
        )
        augmentation.build((None, 6, 6, 1))
    else:
        values["mixup"] = Range(0.1, 2.0)
    space = network(dropout=True, constraint="unit_norm", chooses=chooses)
    joint = joint_model(values, space, augmentation=augmentation, rule=rule)
    joint.hyperparameters.learning_rate = 0.0
    for k in range(steps):  # so that there is a velocity to speak of
        joint.train_step(data(k, 12), 0.5)
    return joint


@pytest.mark.parametrize(
    "augmented, chooses, rule, steps",
    [
        (False, True, SGD(), 2),
        (True, True, SGD(), 2),
        # Without choices the number of a step is that of all its weights.
        (False, False, AdamW(), 0),
        (False, False, AdamW(), 2),
        (False, True, AdamW(), 2),
    ],
)
def test_it_is_the_step_that_would_be_taken(
    augmented, chooses, rule, steps, monkeypatch
):
    joint = everything(augmented, chooses, rule, steps)
    seed = tf.stack([tf.constant(joint.seed), joint.step.value])
    inner_pass.sample(joint, seed, True)
    before = snapshot(joint)
    weights = temporary_step.temporary_weights(joint, data(3, 12), 0.5, seed)
    for variable, old in zip(joint.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old, err_msg=variable.path)
    assert np.all(joint.hyperparameters.combination.numpy().max(axis=1) == 1)

    monkeypatch.setattr(inner_pass, "sample", lambda *_: None)
    start = joint.weight_vector.read().numpy()
    joint.train_step(data(3, 12), 0.5)
    taken = joint.weight_vector.read().numpy()
    np.testing.assert_array_equal(weights, taken)
    assert np.abs(taken - start).max() > 1e-3


def test_nothing_of_it_is_left():
    """A step after it is, bit for bit, the step without it."""
    found = []
    for search in (None, data(9, 6)):
        joint = everything(augmented=False)
        joint.architecture.rate.assign(1e-30)
        joint.train_step(data(3, 12), 0.5, search)
        (decision,) = find_decisions(joint.network)
        architecture = {id(v) for v in decision.variables}
        kept = [
            *(v for v in joint.network.variables if id(v) not in architecture),
            *joint.slots,
            *(m for x in joint.network.metrics for m in x.variables),
        ]
        found.append(([v.numpy() for v in kept], float(joint.reward.count)))
    (without, none), (after, once) = found
    assert (none, once) == (0.0, 1.0)
    for a, b in zip(without, after, strict=True):
        np.testing.assert_array_equal(b, a)


def test_a_policy_is_learned_beside_it():
    """By the search gradient, at weights that are averaged for it alone."""
    joint = everything(augmented=True)
    assert joint.learns_by_reward and joint.learns_through_average
    layer = joint.policy.augmentation
    before = layer.distribution.variables.sub_policy.numpy()
    averaged = joint.policy.averaged.numpy()
    joint.train_step(data(3, 12), 0.5, data(9, 6))
    after = layer.distribution.variables.sub_policy.numpy()
    assert np.all(np.abs(after - before) > 1e-3)
    kept = 0.98 * averaged + 0.02 * joint.weight_vector.read().numpy()
    np.testing.assert_allclose(joint.policy.averaged, kept, atol=1e-6)
    assert float(joint.hyperparameters.count) == 1


@pytest.mark.parametrize("reward", ["accuracy", "loss"])
def test_mean_over_all_samples_is_the_gradient_of_the_expected_reward(
    float64,  # noqa: F811
    reward,
    monkeypatch,
):
    joint = joint_model(space=network(normalised=False), reward=reward)
    batch, search = data(0, 24, "float64"), data(1, 48, "float64")
    learned, (decision,) = joint.hyperparameters, find_decisions(joint.network)
    rng = np.random.default_rng(3)
    learned.logits.assign(rng.normal(size=(2, 3)))
    decision.logits.assign(rng.normal(size=3))
    joint.train_step(batch, 1.0)
    joint.reward.average.assign(0.1)  # a baseline that knows nothing
    joint.reward.count.assign(4.0)
    before = snapshot(joint)
    logits = np.vstack([decision.logits.numpy(), learned.logits.numpy()])
    logits = logits.astype("float64")
    seed = tf.constant([0, 0])

    def sample(picked):
        decision.take(tf.constant(picked[:1]))
        learned.combination.assign(np.eye(3)[list(picked[1:])])

    rewards, estimates = {}, {}
    for picked in itertools.product(range(3), repeat=3):
        monkeypatch.setattr(
            inner_pass, "sample", lambda *_, p=picked: sample(p)
        )
        restore(joint, before)
        temporary_step.learn_from_reward(joint, batch, 1.0, search, seed)
        # Adam's first moment after its first step is a tenth of the gradient.
        estimates[picked] = (
            -np.vstack(
                [
                    joint.architecture.first.numpy(),
                    learned.first.numpy(),
                ]
            )
            / 0.1
        )
        # Outside truth: the step is taken, and the search split asked.
        restore(joint, before)
        joint.train_step(batch, 1.0)
        outputs = joint.network(search[0], training=True)
        if reward == "accuracy":
            hits = np.argmax(outputs, axis=-1) == search[1].numpy()
            rewards[picked] = hits.mean()
        else:
            rewards[picked] = -float(CROSS_ENTROPY(search[1], outputs))
    assert np.ptp(list(rewards.values())) > 0.1

    def probabilities(theta):
        e = np.exp(theta - theta.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def expected_reward(theta):
        p = probabilities(theta)
        return sum(
            p[range(3), list(picked)].prod() * value
            for picked, value in rewards.items()
        )

    p = probabilities(logits)
    mean = sum(
        p[range(3), list(picked)].prod() * found
        for picked, found in estimates.items()
    )
    for row, column in np.ndindex(3, 3):

        def at(shift, row=row, column=column):
            moved = logits.copy()
            moved[row, column] += shift
            return expected_reward(moved)

        exact = central_difference(at, 0.0)
        # The decision's logits, and so its score, are float32.
        np.testing.assert_allclose(
            mean[row, column], exact, rtol=1e-5 if row else 1e-3, atol=1e-6
        )
    assert np.abs(mean).max() > 1e-3


def test_one_advantage_moves_architecture_and_values():
    joint = joint_model(space=network(normalised=False))
    joint.reward.average.assign(0.5)
    joint.reward.count.assign(1e4)  # so that the baseline is this average
    temporary_step.learn_from_reward(
        joint, data(0, 24), 1.0, data(1, 48), tf.constant([0, 3])
    )
    reward = (joint.reward.average.numpy() - 0.45) / 0.1
    assert abs(reward - 0.5) > 0.02
    (decision,) = find_decisions(joint.network)
    for first, onehot in (
        (joint.architecture.first, np.eye(3)[int(decision.sampled)]),
        (joint.hyperparameters.first, joint.hyperparameters.combination),
    ):
        np.testing.assert_allclose(
            first, -0.1 * (reward - 0.5) * (onehot - 1 / 3), rtol=1e-3
        )


def test_the_baseline_is_the_mean_of_rewards_before():
    reward, seen = Reward(), [0.2, 0.7, 0.4, 0.9]
    found = [float(reward.advantage(tf.constant(r))) for r in seen]
    expected = [0.0]
    for k in range(1, 4):
        weights = 0.9 ** np.arange(k)[::-1]
        expected.append(seen[k] - weights @ seen[:k] / weights.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", ["integers", "column", "one-hot"])
def test_the_reward_is_the_accuracy(shape):
    labels = np.array([0, 2, 1, 1])
    outputs = np.eye(3)[[0, 2, 2, 1]] + 0.1
    given = {
        "integers": labels,
        "column": labels[:, None],
        "one-hot": np.eye(3)[labels],
    }[shape]
    found = Reward().of_each(PLAIN, tf.constant(given), tf.constant(outputs))
    np.testing.assert_array_equal(found, [1, 1, 0, 1])


def test_the_search_split_is_judged_without_what_acts_in_training():
    """Smoothing and mixup are of the training loss; the reward has neither."""
    joint = joint_model(
        {**VALUES, "label_smoothing": 0.9, "mixup": 1.0}, reward="loss"
    )
    images, labels = data(1, 12)
    weights = joint.weight_vector.read()
    reward = temporary_step.reward_at(joint, weights, (images, labels))
    plain = CROSS_ENTROPY(labels, joint.network(images, training=True))
    assert float(reward) == pytest.approx(-float(plain), rel=1e-5)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_the_best_value_is_found(best):
    """A squared error is gone after one step at the best rate, at no other."""
    rates = 0.5 * 2.0 ** (np.arange(3) - best)
    inputs = keras.Input((4,))
    outputs = layers.Dense(
        1, kernel_initializer="zeros", use_bias=False, name="line"
    )(inputs)
    joint = JointModel(
        keras.Model(inputs, outputs),
        keras.losses.MeanSquaredError(),
        hyperparameters=SampledHyperparameters(
            {
                "learning_rate": Range(rates[0], rates[2]),
                "weight_decay": 0.0,
                "momentum": 0.0,
            },
            basis=3,
            learning_rate=0.1,
            reward="loss",
        ),
    )
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 4)))[0]
    x = tf.constant(x * np.sqrt(32), "float32")
    batch = x, tf.reduce_sum(x, axis=1, keepdims=True)
    learn = tf.function(temporary_step.learn_from_reward, autograph=False)
    for k in range(150):
        learn(joint, batch, 1.0, batch, tf.stack([1, k]))
    found = joint.hyperparameters.probabilities().numpy()[0]
    assert found[best] > 0.9, found
    value = float(joint.hyperparameters.current("learning_rate"))
    assert value == pytest.approx(0.5, rel=0.1)


def test_one_sample_has_one_reward():
    with pytest.raises(ValueError, match="same `reward`.*'loss'.*'accuracy'"):
        JointModel(
            network(),
            CROSS_ENTROPY,
            strategy=Reinforce(reward="loss"),
            hyperparameters=SampledHyperparameters(VALUES),
        )


def test_the_reward_of_several_outputs_is_their_mean_accuracy():
    outputs = [
        np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]),
        np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]),
    ]
    labels = tf.constant([0, 1, 0]), tf.constant(np.eye(3)[[2, 0, 1]])
    found = Reward().of_each(PLAIN, labels, outputs)
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0])
