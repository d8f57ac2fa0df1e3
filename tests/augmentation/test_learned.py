"""The policy of a run, fed with rewards of the test's own."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import inner_pass
from keras_dha import methods
from keras_dha.augmentation import estimators
from keras_dha.augmentation import learned as module
from keras_dha.augmentation.learned import LearnedPolicy
from keras_dha.joint_model import JointModel
from tests.augmentation.test_estimators import built


@pytest.mark.parametrize("name", ["influence", "relax"])
def test_update_finds_what_is_rewarded(name):
    learned = LearnedPolicy(built(name), 0.1)
    layer = learned.augmentation

    @tf.function(autograph=False)
    def step(k):
        seed = tf.stack([1, k])
        choices = layer.sample(64, seed)
        good = (choices.sub_policy == 1) & (choices.level[:, 0] == 0)
        learned.update(
            *(choices, tf.cast(good, tf.float32), tf.zeros([64], tf.int32)),
            *(tf.zeros([64]), [], seed, lambda tensor: tensor),
        )

    for k in tf.range(80):
        step(k)
    policy = layer.policy()
    assert policy.probabilities[1] > 0.8
    assert policy.level_probabilities[1][0] > 0.8
    statistics = learned.statistics()
    assert (
        statistics["Invert"]["influence"]
        > 0
        > (statistics["Rotate"]["influence"])
    )
    assert sum(s["share"] for s in statistics.values()) == pytest.approx(1.0)
    assert statistics["Invert"]["probability"] == policy.probabilities[1]
    # Asked again, nothing has been seen since.
    assert learned.statistics()["Invert"]["share"] == 0.0


def test_equal_losses_make_no_policy_of_dhas_objective():
    """By Adam one pair of 196 had nearly all of p after so many steps."""
    learned = LearnedPolicy(
        built(
            "dha",
            operations=methods.DHA_POLICY["operations"],
            levels=1,
            length=2,
        ),
        0.06,
    )
    layer = learned.augmentation

    @tf.function(autograph=False)
    def step(k):
        seed = tf.stack([1, k])
        learned.update(
            *(layer.sample(64, seed), tf.zeros([64])),
            *(tf.zeros([64], tf.int32), 2.0 * tf.ones([64]), [], seed),
            lambda tensor: tensor,
        )

    before = learned.start.numpy()
    for k in tf.range(500):
        step(k)
    after = np.concatenate([v.numpy().ravel() for v in learned._logits()])
    assert 0.0 < np.max(np.abs(after - before)) < 0.05


def test_what_is_augmented_fades_out():
    layer = built("influence", operations=("Invert",), clean=0.2)
    learned = LearnedPolicy(layer, 0.1)
    images = tf.random.stateless_uniform([2000, 8, 9, 3], [1, 2])
    seeds = (tf.constant([1, 2]), tf.constant([3, 4]))
    augment = tf.function(lambda: learned.augment(images, seeds)[:2])

    def clean():
        choices, augmented = augment()
        unchanged = tf.reduce_all(augmented == images, axis=[1, 2, 3])
        np.testing.assert_array_equal(unchanged, choices.clean)
        return choices

    before = clean()
    assert np.mean(before.clean) == pytest.approx(0.2, abs=0.03)
    learned.refine(0.5)
    later = clean()
    assert np.mean(later.clean) == pytest.approx(0.6, abs=0.03)
    # Of an image that still is augmented, as before.
    assert np.all(later.clean | ~before.clean)
    np.testing.assert_array_equal(before.level, later.level)
    # A run that is undone has its variables put back.
    learned.clean.assign(0.2)
    learned.refine(0.5)
    np.testing.assert_array_equal(clean().clean, later.clean)
    learned.refine(1.0)
    assert np.all(clean().clean)
    learned.refine(0.0)
    np.testing.assert_array_equal(clean().clean, before.clean)


@pytest.mark.parametrize(
    "clean, passes, progress, expected",
    [
        ("auto", 5, 0.0, 0.75),
        ("auto", 5, 0.5, 0.875),
        ("auto", 17, 0.0, 0.15),
        ("auto", 19, 0.0, 0.1),
        ("auto", 1000, 0.0, 0.1),
        ("auto", math.inf, 1.0, 1.0),
        # What is a number is a number.
        (0.2, 5, 0.0, 0.2),
        (0.0, 1, 0.0, 0.0),
    ],
)
def test_in_few_passes_less_is_augmented(clean, passes, progress, expected):
    layer = built("influence", clean=clean)
    learned = LearnedPolicy(layer, 0.1)
    learned.refine(progress, passes)
    assert learned.clean.numpy() == pytest.approx(expected)
    # A copy of it is asked for the same.
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config()["clean"] == clean


def test_without_a_layer_nothing_fades_out():
    learned = LearnedPolicy(None, 0.1)
    learned.refine(0.5)
    images = tf.ones([3, 4, 4, 1])
    assert learned.augment(images, None)[1] is images


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_losses_of_mixed_images_are_those_of_mixed_labels(name):
    layer = built(
        "influence",
        **{"operations": ("Identity",), "levels": (0.6,), name: 0.99},
    )
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10, 10, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    dense = layers.Dense(3, bias_initializer="normal")
    joint = JointModel(
        keras.Model(inputs, dense(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        augmentation=layer,
    )
    # Each image is of one grey, so that its mean tells what it was mixed of.
    grey, labels = np.array([0.0, 250, 30, 140, 200, 90]), [0, 2, 1, 0, 2, 1]
    partner = [1, 0, 3, 2, 5, 4]
    images = np.ones([6, 10, 10, 1]) * grey[:, None, None, None]
    batch = tf.constant(images, tf.float32), tf.constant(labels)
    passed = inner_pass.run(
        *(joint, joint.weight_vector.read(), batch, tf.constant([1, 2]), {})
    )
    seen = passed.inputs.numpy().reshape(6, 100)
    share = (seen.mean(axis=1) - grey) / (grey[partner] - grey)
    assert np.all((share > 0.2) & (share < 0.4))
    truth = np.eye(3)[labels]
    truth += share[:, None] * (truth[partner] - truth)
    z = seen / 255 @ dense.kernel.numpy() + dense.bias.numpy()
    logarithms = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    expected = -(truth * logarithms).sum(axis=1)
    np.testing.assert_allclose(passed.losses, expected, rtol=1e-4)


@pytest.mark.parametrize("by_turns", [False, True])
def test_search_gradients_are_averaged(by_turns):
    learned = LearnedPolicy(built("influence"), 0.1, size=2)
    generator = np.random.default_rng(4)
    seen = []
    for k in range(5):
        found = generator.normal(size=2)
        # Those between are taken elsewhere.
        seen += [] if by_turns and k % 2 else [found]
        turn = learned.has_turn() if by_turns else None
        ours = learned.smoothed(tf.constant(found, tf.float32), turn)
        weights = 0.9 ** np.arange(len(seen))[::-1]
        expected = weights @ np.array(seen) / weights.sum()
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
        learned.count.assign_add(1.0)


class Remembering(estimators.Influence):
    """Keeps the rewards that it was given."""

    def __init__(self):
        self.seen = []

    def gradient(self, layer, choices, evidence, state):
        self.seen.append(evidence.rewards.numpy())
        return super().gradient(layer, choices, evidence, state)


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_rewards_are_compared_within_their_class(form):
    estimator = Remembering()
    layer = built(estimator)
    learned = LearnedPolicy(layer, 0.1, num_classes=4)
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 3, (4, 40))
    # Images of the second class are worth more, whatever is done to them.
    influence = generator.normal(size=(4, 40)) + 3.0 * (labels == 1)
    for k in range(4):
        given = {
            "integers": labels[k],
            "column": labels[k][:, None],
            "one-hot": np.eye(4, dtype="float32")[labels[k]],
        }[form]
        learned.update(
            layer.sample(40, tf.constant([k, 0])),
            *(tf.constant(influence[k], tf.float32), tf.constant(given)),
            *(tf.zeros([40]), [], tf.constant([k, 0]), lambda tensor: tensor),
        )

    # From first principles, image by image.
    scores = (influence - influence.mean(1, keepdims=True)) / influence.std(
        1, keepdims=True
    )
    for k in range(4):
        for i in range(40):
            earlier = [
                (0.9 ** (k - 1 - j), scores[j, m])
                for j in range(k)
                for m in range(40)
                if labels[j, m] == labels[k, i]
            ]
            baseline = sum(w * score for w, score in earlier) / (
                sum(w for w, _ in earlier) + 4.0
            )
            assert estimator.seen[k][i] == pytest.approx(
                scores[k, i] - baseline, abs=1e-4
            )
    # What they are compared with explains most of what differs here.
    assert np.var(estimator.seen[3]) < 0.5 * np.var(estimator.seen[0])


@pytest.mark.parametrize("count", [3, 7, 100])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.7, -123.4])
def test_equal_influences_say_nothing(value, count):
    estimator = Remembering()
    learned = LearnedPolicy(built(estimator), 0.1)
    learned.update(
        learned.augmentation.sample(count, tf.constant([1, 2])),
        *(tf.fill([count], value), tf.zeros([count], tf.int32)),
        *(tf.zeros([count]), [], tf.constant([1, 2]), lambda tensor: tensor),
    )
    np.testing.assert_allclose(estimator.seen[0], 0.0, atol=1e-3)


def after(gradients, learned):
    """Logits of operations after Adam has seen these gradients, upwards."""
    variable = learned.augmentation.distribution.variables.sub_policy
    rest = learned.first.shape[0] - variable.shape[0]
    for gradient in gradients:
        both = np.concatenate([gradient, np.zeros(rest)])
        learned._ascend(tf.constant(both, tf.float32))
    return variable.numpy()


def test_steady_evidence_moves_logits_so_far_and_no_further():
    learned = LearnedPolicy(built("influence"), 0.06)
    start = learned.augmentation.distribution.variables.sub_policy.numpy()
    # Adam goes by signs here, so the size of the evidence is nothing.
    reached = after([[2.0, -0.1, 0.0]] * 5000, learned) - start
    np.testing.assert_allclose(
        reached * module.TO_START, [5200 / 5000, -5200 / 5000, 0.0], atol=0.03
    )


def test_a_short_run_is_hardly_drawn_back():
    learned = LearnedPolicy(built("influence"), 0.06)
    start = learned.augmentation.distribution.variables.sub_policy.numpy()
    expected = 0.0
    for t in range(150):
        pull = 0.35 * t / (t + 200) * expected
        expected += 0.06 / np.sqrt(1 + t / 100) * (1 - pull)
    reached = after([[1.0, -1.0, 0.0]] * 150, learned) - start
    np.testing.assert_allclose(
        reached, [expected, -expected, 0.0], rtol=1e-3, atol=1e-6
    )


def test_steps_of_an_eighth_go_as_far_in_eight_times_as_many():
    reached = []
    for share, count in ((1.0, 50), (0.125, 400)):
        learned = LearnedPolicy(built("influence"), 0.06, step_share=share)
        start = learned.augmentation.distribution.variables.sub_policy.numpy()
        reached.append(after([[1.0, -1.0, 0.0]] * count, learned) - start)
    assert reached[0][0] > 1.0
    np.testing.assert_allclose(reached[1], reached[0], rtol=0.02, atol=1e-6)


def test_without_evidence_logits_go_back_to_where_they_began():
    learned = LearnedPolicy(built("influence"), 0.06)
    start = learned.augmentation.distribution.variables.sub_policy.numpy()
    away = after([[1.0, -1.0, 1.0]] * 100, learned) - start
    assert np.abs(away).min() > 1.0
    back = after([[0.0, 0.0, 0.0]] * 3000, learned) - start
    assert np.abs(back).max() < 0.1


def test_long_runs_of_noise_do_not_make_a_policy():
    learned = LearnedPolicy(built("influence"), 0.06)
    start = learned.augmentation.distribution.variables.sub_policy.numpy()
    noise = np.random.default_rng(0).normal(size=(3000, 3))
    assert np.abs(after(noise, learned) - start).max() < 0.3
