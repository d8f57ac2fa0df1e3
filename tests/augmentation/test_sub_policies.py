"""Pairs, sequences with probabilities: sampling, gradient, one warp each."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_dha.augmentation import geometric
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.augmentation.operations import OPERATIONS
from keras_dha.augmentation.policy import Policy
from keras_dha.augmentation.sub_policies import sub_policies
from tests.augmentation import references

NAMES = ("Rotate", "Invert", "ShearX", "Posterize")
SEED = tf.constant([21, 22])
# DHA's: all but Invert and Cutout.
DHA_OPERATIONS = [
    op.name for op in OPERATIONS if op.name not in ("Invert", "Cutout")
]
EVERYTHING = {
    "length": 2,
    "application": 0.6,
    "mixup": 0.3,
    "cutmix": 0.2,
    "clean": 0.25,
    "levels": 3,
}
SPACES = [
    {},
    {"length": 2},
    {"length": 2, "application": 0.6},
    {"length": 3, "sub_policies": 7, "application": 0.3},
    {"mixup": 0.4},
    {"clean": 0.3},
    EVERYTHING,
]


def built(channels=3, **arguments):
    layer = DifferentiableAugmentation(
        **{"operations": NAMES, "seed": 1, **arguments}
    )
    layer.build((None, 10, 14, channels))
    return layer


def randomised(layer):
    generator = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    return layer


def test_dha_has_196_pairs():
    layer = built(operations=DHA_OPERATIONS, length=2)
    policy = layer.policy()
    assert len(policy.operations) == 14
    assert policy.steps == tuple(itertools.product(range(14), repeat=2))
    assert [tuple(v.shape) for v in layer.trainable_variables] == [
        *((196,), (14, 10)),
        (2,),
    ]


def test_drawn_sub_policies_have_steps_of_their_own():
    layer = built(length=2, sub_policies=6, application=0.5)
    policy = layer.policy()
    assert len(policy.operations) == 12
    assert policy.steps == tuple((2 * k, 2 * k + 1) for k in range(6))
    for first, second in policy.steps:
        assert policy.operations[first] != policy.operations[second]
    assert built(length=2, sub_policies=6).policy().operations == (
        policy.operations
    )
    assert built(length=2, sub_policies=6, seed=2).policy().operations != (
        policy.operations
    )
    shapes = [tuple(v.shape) for v in layer.trainable_variables]
    assert shapes == [(6,), (12, 10), (2,), (12,)]


def test_spaces_that_are_too_large_or_too_small_are_refused():
    with pytest.raises(ValueError, match="Received: length=4"):
        sub_policies([str(k) for k in range(16)], 4, None, 0)
    with pytest.raises(ValueError, match="Received: length=3"):
        sub_policies(["Rotate", "Invert"], 3, 5, 0)


def test_pairs_follow_the_policy():
    # Chi-square over all pairs, of what was drawn and then carried out.
    layer = randomised(built(length=2, application=0.6, levels=3))
    policy, count = layer.policy(), 40_000
    choices = layer.sample(count, SEED)
    observed = np.bincount(choices.sub_policy, minlength=16)
    expected = count * np.array(policy.probabilities)
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    steps = np.array(policy.steps)[choices.sub_policy.numpy()]
    applied, level = choices.applied.numpy(), choices.level.numpy()
    for k, n in itertools.product(range(4), range(2)):
        rows = steps[:, n] == k
        hits = int(applied[rows, n].sum())
        chance = policy.application[k]
        assert stats.binomtest(hits, int(rows.sum()), chance).pvalue > 1e-3
        observed = np.bincount(level[rows, n], minlength=3)
        expected = rows.sum() * np.array(policy.level_probabilities[k])
        assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_mixing_and_clean_share_follow_the_policy():
    layer = randomised(built(**EVERYTHING))
    policy, count = layer.policy(), 40_000
    choices = layer.sample(count, SEED)
    observed = np.bincount(choices.mixer, minlength=3)
    mixed = [policy.mixup, policy.cutmix]
    expected = count * np.array([1 - sum(mixed), *mixed])
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    for k in (1, 2):
        rows = choices.mixer.numpy() == k
        observed = np.bincount(choices.mix_level[rows], minlength=3)
        row = np.array(policy.level_probabilities[3 + k])
        assert stats.chisquare(observed, rows.sum() * row).pvalue > 1e-3
    hits = int(np.sum(choices.clean))
    assert stats.binomtest(hits, count, 0.25).pvalue > 1e-3


@pytest.mark.parametrize("arguments", SPACES, ids=str)
def test_score_gradient_equals_the_tape(arguments):
    layer = randomised(built(**arguments))
    choices = layer.sample(60, SEED)
    generator = np.random.default_rng(1)
    rewards = tf.constant(generator.normal(size=60), tf.float32)
    with tf.GradientTape() as tape:
        objective = tf.reduce_sum(rewards * layer.log_prob(choices))
    variables = [v.value for v in layer.trainable_variables]
    expected = tape.gradient(objective, variables)
    closed = layer.score_gradient(choices, rewards)
    assert len(closed) == len(variables)
    for a, b in zip(closed, expected, strict=True):
        np.testing.assert_allclose(a, tf.convert_to_tensor(b), atol=3e-5)


@pytest.mark.parametrize("arguments", SPACES, ids=str)
def test_policy_round_trip(arguments):
    policy = randomised(built(**arguments)).policy()
    again = Policy.from_json(policy.to_json())
    assert again == policy
    layer = built(operations=None, policy=again)
    assert layer.policy().steps == policy.steps
    for name in ("probabilities", "application", "level_probabilities"):
        ours = getattr(layer.policy(), name)
        expected = getattr(policy, name)
        if expected is None:
            assert ours is None
        else:
            np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert layer.policy().mixers == policy.mixers


def test_steps_are_done_in_order():
    # Posterize, then invert: not the other way round.
    layer = built(length=2, levels=1, flip=None, shift=None)
    images = references.noise_images(4, 10, 14)
    steps = layer.policy().steps
    choices = layer.sample(4, SEED)
    pair = steps.index((NAMES.index("Posterize"), NAMES.index("Invert")))
    choices = choices._replace(sub_policy=tf.fill([4], pair))
    posterized = np.floor(images / 128.0) * 128.0
    np.testing.assert_allclose(
        layer.apply(images, choices, SEED), 255.0 - posterized, atol=1e-3
    )
    choices = choices._replace(applied=tf.constant([[True, False]] * 4))
    np.testing.assert_allclose(
        layer.apply(images, choices, SEED), posterized, atol=1e-3
    )


def affine(name, magnitude, sign):
    """The matrix of an operation, from output to input, in NumPy."""
    strength = sign * magnitude
    if name == "Rotate":
        angle = np.deg2rad(30.0) * strength
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return np.array([[1, 0.3 * strength, 0], [0, 1, 0], [0, 0, 1]])


def test_warps_that_follow_each_other_are_one(monkeypatch):
    layer = built(length=2, levels=2, flip=None, shift=None)
    warped = []

    def spy(images, matrices, whole=False, warp=geometric.warp):
        warped.append((len(images), matrices.numpy()))
        return warp(images, matrices, whole)

    monkeypatch.setattr(geometric, "warp", spy)
    steps = layer.policy().steps
    pairs = [("Rotate", "ShearX"), ("Rotate", "Invert"), ("ShearX", "Rotate")]
    picked = [steps.index(tuple(map(NAMES.index, pair))) for pair in pairs]
    choices = layer.sample(3, SEED)._replace(sub_policy=tf.constant(picked))
    draws = layer.draw(3, SEED)
    images = references.noise_images(3, 10, 14)
    output = layer.transform(images, choices, draws)
    # Before the second step only what is inverted had to be warped.
    warped = [found for found in warped if found[0]]
    assert [count for count, _ in warped] == [1, 2]
    magnitude = layer.magnitude_of(choices).numpy()
    for k, row in ((0, 0), (2, 1)):
        first, second = (
            affine(name, magnitude[k, n], draws.sign.numpy()[k, n])
            for n, name in enumerate(pairs[k])
        )
        np.testing.assert_allclose(warped[1][1][row], first @ second, atol=1e-5)
    # And the one that was warped first was then inverted.
    alone = choices._replace(applied=tf.constant([[True, False]] * 3))
    rotated = layer.transform(images, alone, draws)[1]
    inverted = rotated + magnitude[1, 1] * (255.0 - 2.0 * rotated)
    np.testing.assert_allclose(output[1], inverted, atol=1e-2)


@pytest.mark.parametrize("length", [2, 3])
def test_a_batch_equals_its_images_one_by_one(length):
    layer = built(operations=None, length=length, application=0.7)
    count = 40
    images = references.noise_images(count, 10, 14)
    choices, draws = layer.sample(count, SEED), layer.draw(count, SEED)
    together = layer.transform(images, choices, draws)
    for k in range(count):
        one = [
            tf.nest.map_structure(lambda t, k=k: t[k : k + 1], drawn)
            for drawn in (choices, draws)
        ]
        alone = layer.transform(images[k : k + 1], *one)
        np.testing.assert_allclose(alone[0], together[k], atol=1e-3)


def test_clean_images_stay_as_they_are():
    layer = built(operations=None, clean=0.5, mixup=0.5, cutmix=0.3)
    images = tf.constant(references.noise_images(60, 10, 14))
    choices, draws = layer.sample(60, SEED), layer.draw(60, SEED)
    output = layer.transform(images, choices, draws).numpy()
    clean = choices.clean.numpy()
    assert 10 < clean.sum() < 50
    np.testing.assert_array_equal(output[clean], images.numpy()[clean])
    share = layer.mix(images, choices, draws).share.numpy()
    assert not np.any(share[clean]) and np.any(share[~clean])
    assert np.all(layer.operation_of(choices).numpy()[clean] == -1)


def test_usage_counts_what_is_expected():
    policy = Policy(
        operations=("Rotate", "Invert", "Rotate"),
        probabilities=(0.25, 0.75),
        magnitudes=(0.5, 1.0),
        level_probabilities=((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)),
        sub_policies=((0, 1), (1, 2)),
        application=(0.4, 1.0, 0.2),
    )
    usage = policy.usage()
    assert usage["Invert"] == pytest.approx((1.0, 0.75))
    share = 0.25 * 0.4 + 0.75 * 0.2
    assert usage["Rotate"] == pytest.approx((share, (0.1 * 0.5 + 0.15) / share))
    assert "Rotate" in policy.summary()


def test_policy_without_an_operation():
    policy = Policy(
        operations=("Color", "Invert", "Rotate"),
        probabilities=(0.5, 0.3, 0.2),
        magnitudes=(1.0,),
        level_probabilities=((1.0,),) * 4,
        sub_policies=((0, 1), (1, 2), (2, 2)),
        application=(0.1, 0.2, 0.3),
        mixup=0.1,
    )
    left = policy.without(["Color"])
    assert left.operations == ("Invert", "Rotate")
    assert left.sub_policies == ((0, 1), (1, 1))
    assert left.probabilities == pytest.approx((0.6, 0.4))
    assert left.application == (0.2, 0.3)
    assert left.mixup == 0.1
    with pytest.raises(ValueError, match="Received: names="):
        policy.without(["Color", "Rotate", "Invert"])
