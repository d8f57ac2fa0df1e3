"""Sampling, dispatch and the score gradient of the layer."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_dha.augmentation import geometric
from keras_dha.augmentation.choices import Choices
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.augmentation.operations import OPERATIONS
from keras_dha.augmentation.policy import Policy
from tests.augmentation import references

NAMES = [operation.name for operation in OPERATIONS]
SEED = tf.constant([11, 12])
POLICY = Policy(
    operations=("Rotate", "Invert", "Cutout"),
    probabilities=(0.2, 0.7, 0.1),
    magnitudes=(0.25, 0.5, 0.75, 1.0),
    level_probabilities=(
        (0.1, 0.2, 0.3, 0.4),
        (0.7, 0.1, 0.1, 0.1),
        (0.25, 0.25, 0.0, 0.5),
    ),
    flip=0.3,
    shift=0.6,
)


def built(channels=3, **arguments):
    layer = DifferentiableAugmentation(**{"seed": 1, **arguments})
    layer.build((None, 10, 14, channels))
    return layer


def choose(operation, level, flip=False, shift=False):
    """Choices of one image for each entry of `operation`."""
    n = len(operation)
    level = np.broadcast_to(level, n)[:, None]
    return Choices(
        sub_policy=tf.constant(operation, tf.int32),
        level=tf.constant(level, tf.int32),
        applied=tf.fill([n, 1], True),
        flip=tf.constant(np.broadcast_to(flip, n), tf.bool),
        shift=tf.constant(np.broadcast_to(shift, n), tf.bool),
        mixer=tf.zeros([n], tf.int32),
        mix_level=tf.zeros([n], tf.int32),
        clean=tf.fill([n], False),
    )


# Sampling.


def test_sampled_choices_follow_the_policy():
    count = 20_000
    choices = built(policy=POLICY).sample(count, SEED)
    operation, level = choices.sub_policy.numpy(), choices.level[:, 0].numpy()
    observed = np.zeros([3, 4])
    np.add.at(observed, (operation, level), 1)
    joint = np.array(POLICY.probabilities)[:, None]
    joint = joint * np.array(POLICY.level_probabilities)
    possible = joint > 0
    assert observed[~possible].sum() == 0
    test = stats.chisquare(observed[possible], count * joint[possible])
    assert test.pvalue > 1e-3
    for chosen, probability in [(choices.flip, 0.3), (choices.shift, 0.6)]:
        hits = int(np.sum(chosen))
        assert stats.binomtest(hits, count, probability).pvalue > 1e-3


def test_flip_shift_and_operation_are_independent():
    choices = built(policy=POLICY).sample(20_000, SEED)
    columns = [choices.sub_policy == 1, choices.flip, choices.shift]
    correlation = np.corrcoef(np.array(columns, "float64"))
    assert np.abs(correlation - np.eye(3)).max() < 0.03


def test_sample_is_a_function_of_its_seed():
    layer = built()
    first, again = layer.sample(64, SEED), layer.sample(64, SEED)
    other = layer.sample(64, SEED + 1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(first.sub_policy != other.sub_policy)
    assert first.sub_policy.dtype == first.level.dtype == tf.int32
    assert first.flip.dtype == first.shift.dtype == tf.bool


def test_unused_base_transforms_are_never_drawn():
    choices = built(flip=None, shift=None).sample(512, SEED)
    assert not np.any(choices.flip) and not np.any(choices.shift)


# Application.


@pytest.mark.parametrize("case", references.CASES, ids=str)
@pytest.mark.parametrize("level", [0, 4, 9])
def test_apply_runs_the_chosen_operation_at_its_level(case, level):
    layer = built(operations=[case.name])
    count = 3
    images = references.noise_images(count, 10, 14)
    output = layer.apply(images, choose([0] * count, level), SEED)
    seed = tf.random.experimental.stateless_fold_in(SEED, 1)
    uniform = tf.random.stateless_uniform([count, 7], seed).numpy()[:, 4:]
    for k in range(count):
        sign = -1.0 if uniform[k, 0] < 0.5 else 1.0
        expected = case.reference(
            images[k], (level + 1) / 10, sign, uniform[k, 1:3]
        )
        np.testing.assert_allclose(output[k], expected, atol=case.tolerance)


def test_each_image_gets_its_own_operation():
    # All operations at once equal each by itself.
    layer = built()
    count = 48
    images = references.noise_images(count, 10, 14)
    mixed = layer.sample(count, SEED)
    output = layer.apply(images, mixed, SEED)
    for k in range(16):
        alone = mixed._replace(sub_policy=tf.fill([count], k))
        expected = layer.apply(images, alone, SEED)
        rows = mixed.sub_policy == k
        np.testing.assert_allclose(output[rows], expected[rows], atol=1e-3)


def test_operations_see_only_the_images_that_chose_them():
    layer = built(flip=None, shift=None)
    seen = {}

    def spy(operation):
        def record(images, *arguments):
            seen[operation.name] = images[:, 0, 0, 0].numpy().tolist()
            return operation.function(images, *arguments)

        return dataclasses.replace(operation, function=record)

    layer.active_operations = tuple(map(spy, layer.active_operations))
    choices = layer.sample(64, SEED)
    # Image i is filled with the value i.
    images = tf.range(64.0)[:, None, None, None] * tf.ones([64, 10, 14, 3])
    layer.apply(images, choices, SEED)
    pixelwise = [
        op.name
        for op in OPERATIONS
        if not op.geometric and op.name != "Identity"
    ]
    assert sorted(seen) == sorted(pixelwise)
    for name, values in seen.items():
        chosen = np.flatnonzero(choices.sub_policy == NAMES.index(name))
        assert values == chosen.tolist()


def test_images_that_need_no_warp_are_not_touched_by_it():
    layer = built(operations=["Rotate", "Identity"])
    images = np.random.default_rng(2).uniform(0, 255, [4, 10, 14, 3])
    images = images.astype("float32")
    output = layer.apply(images, choose([0, 1, 0, 1], 9), SEED).numpy()
    np.testing.assert_array_equal(output[1::2], images[1::2])
    assert np.all(np.abs(output[::2] - images[::2]).max(axis=(1, 2, 3)) > 1)


def test_flip_and_shift():
    layer = built(operations=["Identity"])
    images = references.noise_images(200, 16, 24).astype("float32")
    flipped = layer.apply(images, choose([0] * 200, 0, flip=True), SEED)
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    shifted = layer.apply(images, choose([0] * 200, 0, shift=True), SEED)
    padded = np.pad(
        images, [(0, 0), (2, 2), (3, 3), (0, 0)], constant_values=128.0
    )
    found = set()
    for image, output in zip(padded, shifted.numpy(), strict=True):
        windows = {
            (i, j)
            for i, j in itertools.product(range(5), range(7))
            if np.array_equal(image[i : i + 16, j : j + 24], output)
        }
        assert len(windows) == 1
        found |= windows
    # Every offset up to an eighth of the size, and no other.
    assert found == set(itertools.product(range(5), range(7)))


def test_flip_mirrors_what_the_operation_made():
    # A flip first would turn a rotation into one the other way.
    layer = built(operations=["Rotate"])
    images = references.noise_images(8, 10, 14)
    plain = layer.apply(images, choose([0] * 8, 9), SEED)
    flipped = layer.apply(images, choose([0] * 8, 9, flip=True), SEED)
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=0.01)


def test_only_images_that_move_are_warped(monkeypatch):
    layer = built(operations=["Rotate", "Invert"])
    warped = []

    def spy(images, matrices, whole=False, warp=geometric.warp):
        warped.append((whole, images[:, 0, 0, 0].numpy().tolist()))
        return warp(images, matrices, whole)

    monkeypatch.setattr(geometric, "warp", spy)
    images = tf.range(6.0)[:, None, None, None] * tf.ones([6, 10, 14, 3])
    choices = choose(
        [0, 1, 1, 1, 0, 1],
        0,
        flip=[False, False, True, False, True, False],
        shift=[False, False, False, True, False, False],
    )
    layer.apply(255.0 - images, choices, SEED)
    # Images 2 and 3 were inverted first, at a magnitude of 0.1; they are
    # only flipped or shifted.
    (whole, some), (interpolated, others) = warped
    assert whole and not interpolated
    expected = [0.9 * 253.0 + 0.2, 0.9 * 252.0 + 0.3]
    np.testing.assert_allclose(some, expected, atol=1e-3)
    assert others == [255.0, 251.0]


def test_operation_comes_before_flip_and_shift():
    # So the grey border of the shift is not inverted.
    layer = built(channels=1, operations=["Invert"], levels=1)
    images = tf.fill([8, 16, 16, 1], 10.0)
    output = layer.apply(images, choose([0] * 8, 0, shift=True), SEED)
    assert set(np.unique(output)) == {128.0, 245.0}


@pytest.mark.parametrize(
    "channels, shape",
    [
        (1, (7, 10, 14)),
        (3, (None, 10, 14)),
        (3, (None, None, None)),
        (5, (None, None, None)),
    ],
)
def test_graph_equals_eager(channels, shape):
    layer = built(channels)
    images = references.noise_images(7, 10, 14, channels)
    specification = tf.TensorSpec([*shape, channels], tf.uint8)

    @tf.function(input_signature=[specification])
    def graph(batch):
        choices = layer.sample(tf.shape(batch)[0], SEED)
        output = layer.apply(batch, choices, SEED)
        assert output.shape.as_list() == [*shape, channels]
        return output

    choices = layer.sample(7, SEED)
    np.testing.assert_allclose(
        graph(tf.constant(images)),
        layer.apply(images, choices, SEED),
        atol=1e-3,
    )


def test_channels_of_unknown_number_are_those_of_build():
    # Grey is luma for three channels, for others their mean.
    layer = built(operations=["Color", "Contrast"])
    images = references.noise_images(6, 10, 14).astype("float32")
    choices = layer.sample(6, SEED)

    @tf.function(input_signature=[tf.TensorSpec([None] * 4)])
    def graph(batch):
        return layer.apply(batch, choices, SEED)

    expected = layer.apply(images, choices, SEED)
    np.testing.assert_allclose(graph(images), expected, atol=1e-3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        graph(images[..., :2])


# The score gradient.


@pytest.mark.parametrize(
    "arguments",
    [{}, {"flip": None}, {"shift": None}, {"flip": None, "shift": None}],
    ids=str,
)
def test_score_gradient_equals_the_tape(arguments):
    layer = built(**{"levels": 4, "flip": 0.3, **arguments})
    generator = np.random.default_rng(0)
    for variable in layer.trainable_variables[:2]:
        variable.assign(generator.normal(size=variable.shape))
    choices = layer.sample(50, SEED)
    rewards = tf.constant(generator.normal(size=50), tf.float32)
    with tf.GradientTape() as tape:
        objective = tf.reduce_sum(rewards * layer.log_prob(choices))
    expected = tape.gradient(
        objective, [v.value for v in layer.trainable_variables]
    )
    closed = layer.score_gradient(choices, rewards)
    for a, b in zip(closed, expected, strict=True):
        assert a.dtype == tf.float32
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_frozen_layer_has_no_score_gradient():
    layer = built(trainable=False)
    choices = layer.sample(5, SEED)
    assert layer.score_gradient(choices, tf.ones(5)) == []


def test_log_prob_is_that_of_the_policy():
    layer = built(policy=POLICY)
    choices = choose([1, 0, 2], [0, 3, 1], [True, False, False], True)
    expected = [
        0.7 * 0.7 * 0.3 * 0.6,
        0.2 * 0.4 * 0.7 * 0.6,
        0.1 * 0.25 * 0.7 * 0.6,
    ]
    np.testing.assert_allclose(
        layer.log_prob(choices), np.log(expected), rtol=1e-5
    )


def test_log_prob_goes_by_the_share_of_clean_images_of_the_draw():
    layer = built(policy=POLICY)
    choices = layer.sample(40, SEED, clean=0.5)
    clean = choices.clean.numpy()
    assert 10 < clean.sum() < 30
    found = layer.log_prob(choices, clean=0.5).numpy()
    np.testing.assert_allclose(found[clean], np.log(0.5), rtol=1e-6)
    everything_augmented = layer.log_prob(
        choices._replace(clean=tf.fill([40], False))
    ).numpy()
    np.testing.assert_allclose(
        found[~clean],
        np.log(0.5) + everything_augmented[~clean],
        rtol=1e-6,
    )


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def expected_reward(operation, magnitude, base, table):
    """The sum over all choices of probability times reward, in NumPy."""
    bernoulli = [(1 - s, s) for s in 1 / (1 + np.exp(-base))]
    return np.einsum(
        "k,kl,f,s,klfs->",
        softmax(operation),
        softmax(magnitude),
        *map(np.array, bernoulli),
        table,
    )


def test_score_gradient_is_unbiased_by_enumeration():
    generator = np.random.default_rng(8)
    logits = [generator.normal(size=shape) for shape in [(3,), (3, 4), (2,)]]
    table = generator.normal(size=[3, 4, 2, 2])
    layer = built(operations=["Rotate", "Invert", "Cutout"], levels=4)
    for variable, value in zip(layer.trainable_variables, logits, strict=True):
        variable.assign(value)
    everything = np.array(list(np.ndindex(table.shape)))
    choices = choose(*everything.T)
    probability = np.exp(layer.log_prob(choices).numpy())
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-5)
    # Weighting each choice by its probability makes the sum an expectation.
    rewards = probability * table.reshape(-1)
    exact = layer.score_gradient(choices, tf.constant(rewards, tf.float32))
    step = 1e-5
    for k, gradient in enumerate(exact):
        for index in np.ndindex(logits[k].shape):
            sides = []
            for direction in (step, -step):
                moved = [value.copy() for value in logits]
                moved[k][index] += direction
                sides.append(expected_reward(*moved, table))
            numeric = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose(gradient[index], numeric, atol=1e-5)


def test_ascent_on_the_score_gradient_finds_the_rewarded_operation():
    layer = built(operations=["Rotate", "Invert", "Cutout"], levels=2)

    @tf.function
    def step(seed):
        choices = layer.sample(64, seed)
        good = (
            (choices.sub_policy == 1)
            & (choices.level[:, 0] == 0)
            & choices.flip
        )
        rewards = tf.cast(good, tf.float32)
        rewards -= tf.reduce_mean(rewards)
        gradients = layer.score_gradient(choices, rewards)
        for variable, gradient in zip(
            layer.trainable_variables, gradients, strict=True
        ):
            variable.assign_add(0.1 * gradient)

    for k in range(150):
        step(tf.constant([5, k]))
    policy = layer.policy()
    assert policy.probabilities[1] > 0.9
    assert policy.level_probabilities[1][0] > 0.9
    assert policy.flip > 0.9
    assert 0.1 < policy.shift < 0.9
