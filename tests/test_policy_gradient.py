"""The policy gradient of a joint step against full enumeration."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import inner_pass
from keras_dha.augmentation import estimators
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.augmentation.learned import SMOOTHING
from keras_dha.hyperparameters.hypergradient import ONE_STEP
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from keras_dha.joint_step import search_gradient
from tests.references import central_difference

OPERATIONS = ("Identity", "Invert", "Brightness")
BATCH, RATE = 2, 1e-3


def joint_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = layers.Rescaling(1 / 128, offset=-1)(inputs)
    x = layers.Conv2D(4, 3, activation="tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    augmentation = DifferentiableAugmentation(
        operations=OPERATIONS, levels=1, flip=None, shift=None
    )
    augmentation.build((None, 6, 6, 1))
    augmentation.distribution.variables.sub_policy.assign([0.3, -0.2, 0.1])
    return JointModel(
        keras.Model(inputs, layers.Dense(3)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        augmentation=augmentation,
        hyperparameters=LearnedHyperparameters(
            {
                "learning_rate": RATE,
                "weight_decay": 0.0,
                "momentum": 0.0,
            },
            horizon=ONE_STEP,
        ),
    )


def data(seed, size):
    rng = np.random.default_rng(seed)
    return (
        tf.constant(rng.uniform(0, 255, (size, 6, 6, 1)).astype("float32")),
        tf.constant(rng.integers(0, 3, size)),
    )


def test_mean_over_choices_is_the_gradient_of_the_expected_search_loss(
    monkeypatch,
):
    joint = joint_model()
    layer, batch, search = (
        joint.policy.augmentation,
        data(0, BATCH),
        data(1, 16),
    )
    weights = joint.weight_vector.read()
    logits = layer.distribution.variables.sub_policy.numpy().astype("float64")
    p = np.exp(logits) / np.exp(logits).sum()
    draws = layer.draw(BATCH, tf.constant([1, 2]))
    estimate, loss = np.zeros(3), {}
    seen = {}
    monkeypatch.setattr(
        joint.policy,
        "update",
        lambda choices, influence, *rest: seen.update(
            influence=influence.numpy()
        ),
    )
    for picked in itertools.product(range(3), repeat=BATCH):
        choices = layer.sample(BATCH, tf.constant([0, 0]))._replace(
            sub_policy=tf.constant(picked)
        )
        monkeypatch.setattr(
            inner_pass,
            "_augment",
            lambda model, images, seed, c=choices: (
                c,
                layer.transform(images, c, draws),
                None,
            ),
        )
        joint.weight_vector.write(weights)
        # Each of these is a first step: nothing was averaged before.
        joint.policy.direction.assign(tf.zeros_like(joint.policy.direction))
        joint.train_step(batch, 1.0, search)
        outputs = joint.network(search[0])
        loss[picked] = float(
            tf.reduce_mean(joint.loss_object.call(search[1], outputs))
        )
        # What the step learns from, before it is standardised: the influence
        # of each image on the mean loss, times the score of its choice.
        score = np.eye(3)[list(picked)] - p
        gradient = -RATE * (seen["influence"][:, None] * score).sum(axis=0)
        estimate += p[list(picked)].prod() * gradient

    # Outside truth: the expected search loss after the step, differentiated
    # over all combinations of operations. d log p(picked) = sum of scores.
    exact = sum(
        p[list(picked)].prod()
        * value
        * (np.eye(3)[list(picked)] - p).sum(axis=0)
        for picked, value in loss.items()
    )
    assert np.linalg.norm(exact) > 1e-6
    np.testing.assert_allclose(estimate, exact, rtol=0.05, atol=2e-7)


@pytest.fixture
def float64():
    # The policy is kept from the first layer on, whatever floatx becomes.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


class Given(estimators.Estimator):
    """Magnitudes that are a function of the logits, without any draw."""

    follows_path = True

    def augment(self, layer, images, choices, draws, noise):
        logits = layer.distribution.logits().sub_policy
        magnitude = tf.cast(tf.sigmoid(logits), images.dtype)
        magnitude = tf.gather(magnitude, choices.sub_policy)[:, None]
        return layer.transform(
            images, choices, draws, magnitude, differentiable=True
        )

    def gradient(self, layer, choices, evidence, state):
        return layer.distribution.fill(evidence.path), state


def test_path_is_the_derivative_of_the_search_loss_after_the_step(
    float64, monkeypatch
):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 7, 1))
    x = layers.Rescaling(1 / 128, offset=-1)(inputs)
    x = layers.Conv2D(4, 3, activation="tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    rate = 0.3
    layer = DifferentiableAugmentation(
        operations=("Rotate", "Invert", "Brightness"),
        levels=1,
        shift=None,
        estimator=Given(),
    )
    layer.build((None, 6, 7, 1))
    joint = JointModel(
        keras.Model(inputs, layers.Dense(3)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        augmentation=layer,
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": rate, "weight_decay": 0.0, "momentum": 0.0},
            horizon=ONE_STEP,
        ),
    )
    rng = np.random.default_rng(3)
    # Values that no operation pushes out of 0..255.
    images = tf.constant(rng.uniform(100, 130, (8, 6, 7, 1)))
    batch = images, tf.constant(rng.integers(0, 3, 8))
    search = (
        tf.constant(rng.uniform(0, 255, (16, 6, 7, 1))),
        tf.constant(rng.integers(0, 3, 16)),
    )
    seen = {}
    update = joint.policy.update

    def watched(choices, influence, labels, losses, path, *rest):
        seen.update(path=path, influence=influence)
        update(choices, influence, labels, losses, path, *rest)

    monkeypatch.setattr(joint.policy, "update", watched)
    weights = joint.weight_vector.read()
    start = np.array([0.2, -0.4, 0.1], "float32")
    choices = layer.sample(8, tf.constant([1, 2]))
    choices = choices._replace(sub_policy=tf.constant([0, 1, 2, 0, 1, 2, 0, 2]))
    monkeypatch.setattr(
        layer,
        "draw_part",
        lambda size, seeds, *_: (choices, layer.draw(size, seeds[1])),
    )

    def search_loss(logits, *searched):
        layer.distribution.variables.sub_policy.assign(logits)
        joint.weight_vector.write(weights)
        joint.step.assign(0)
        joint.policy.direction.assign(tf.zeros_like(joint.policy.direction))
        joint.train_step(batch, 1.0, *searched)
        outputs = joint.network(search[0])
        return float(tf.reduce_mean(joint.loss_object.call(search[1], outputs)))

    search_loss(start, search)
    ours = -rate * seen["path"][0].numpy()
    # Adam descends along a tenth of what it is given in its first step, which
    # is in the unit of the rewards.
    unit = rate * 8 * np.std(seen["influence"])
    descended = 10.0 * unit * joint.policy.first.numpy()
    for k in range(3):
        unit = np.eye(3, dtype="float32")[k]
        expected = central_difference(
            lambda e, u=unit: search_loss(start + np.float32(e) * u),
            0.0,
            eps=2**-10,
        )
        assert abs(expected) > 1e-7
        np.testing.assert_allclose(ours[k], expected, rtol=1e-3)
        np.testing.assert_allclose(descended[k], expected, rtol=1e-3)
    # The other variables have no part in it.
    assert all(not np.any(p) for p in seen["path"][1:])
    assert not np.any(descended[3:])


def fitting(estimator, hyperparameters=None, normalised=True, **arguments):
    """A joint model of a small network that learns a policy."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.Rescaling(1 / 128, offset=-1)(inputs)
    x = layers.Conv2D(4, 3, activation="tanh")(x)
    if normalised:
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    layer = DifferentiableAugmentation(
        levels=3, estimator=estimator, **arguments
    )
    layer.build((None, 6, 6, 3))
    return JointModel(
        keras.Model(inputs, layers.Dense(3)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        augmentation=layer,
        hyperparameters=hyperparameters,
    )


SPACES = {
    "single": {},
    "sub-policies": {
        "length": 2,
        "sub_policies": 5,
        "application": 0.5,
        "clean": 0.2,
    },
    "mixing": {
        "mixup": 0.4,
        "cutmix": 0.3,
        "operations": ("Invert", "Rotate"),
    },
}


@pytest.mark.parametrize(
    "estimator, name",
    [
        ("influence", "mixing"),
        ("dha", "single"),
        ("relaxed", "sub-policies"),
        ("relax", "sub-policies"),
    ],
)
def test_every_estimator_moves_a_policy(estimator, name):
    joint = fitting(estimator, **SPACES[name])
    layer = joint.policy.augmentation
    before = [v.numpy() for v in layer.trainable_variables]
    rng = np.random.default_rng(0)

    def draw(count):
        return (
            tf.constant(rng.uniform(0, 255, (count, 6, 6, 3)), tf.float32),
            tf.constant(rng.integers(0, 3, count)),
        )

    step = tf.function(joint.train_step, autograph=False, jit_compile=False)
    for _ in range(3):
        loss = step(draw(24), tf.constant(1.0), draw(12))
    assert np.isfinite(loss)
    moved = [
        np.abs(v.numpy() - b).max() > 1e-4
        for v, b in zip(layer.trainable_variables, before, strict=True)
    ]
    if estimator == "dha":
        # The paper learns probabilities of sub-policies only.
        assert moved == [True] + [False] * (len(moved) - 1)
    else:
        assert all(moved)
    assert all(
        np.all(np.isfinite(v.numpy())) for v in layer.trainable_variables
    )
    statistics = joint.policy.statistics()
    assert sum(s["share"] for s in statistics.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("estimator", ["influence", "relaxed"])
def test_weights_that_diverged_leave_a_policy_to_make_images_by(estimator):
    joint = fitting(estimator)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (16, 6, 6, 3)), tf.float32)
    batch = images, tf.constant(rng.integers(0, 3, 16))
    joint.weight_vector.write(np.nan * joint.weight_vector.read())
    for _ in range(2):
        loss = joint.train_step(batch, 1.0, batch)
    assert np.isnan(loss)
    for logits in joint.policy.augmentation.trainable_variables:
        assert np.all(np.isfinite(logits.numpy()))


@pytest.mark.parametrize("estimator", ["relax", "relaxed"])
def test_a_saved_policy_goes_on_as_if_nothing_had_happened(estimator, tmp_path):
    joint = fitting(estimator, length=2, sub_policies=4, mixup=0.3)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (16, 6, 6, 3)), tf.float32)
    batch = images, tf.constant(rng.integers(0, 3, 16))
    joint.train_step(batch, 1.0, batch)
    joint.save(tmp_path / "joint.keras")
    again = keras.models.load_model(tmp_path / "joint.keras")
    for model in (joint, again):
        model.train_step(batch, 1.0, batch)
    assert type(again.policy.augmentation.estimator) is type(
        joint.policy.augmentation.estimator
    )
    for ours, theirs in zip(
        joint.policy.weights,
        again.policy.weights,
        strict=True,
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    "estimator",
    # At its own rate that of DHA hardly moves in two steps.
    ["influence", estimators.DHA(learning_rate=0.5), "relaxed", "relax"],
    ids=["influence", "dha", "relaxed", "relax"],
)
def test_two_replicas_learn_the_policy_of_one_device(estimator):
    arguments = {
        "estimator": estimator,
        # They take turns with the policy.
        "hyperparameters": {"learning_rate": Range(1e-3, 1.0, start=0.1)},
        "normalised": False,
        "length": 2,
        "sub_policies": 4,
        "application": 0.6,
        "mixup": 0.3,
        "clean": 0.1,
    }
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    values = arguments.pop("hyperparameters")
    with strategy.scope():
        two = fitting(
            hyperparameters=LearnedHyperparameters(values), **arguments
        )
    one = fitting(hyperparameters=LearnedHyperparameters(values), **arguments)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(0, 255, (16, 6, 6, 3)), tf.float32)
    batch = images, tf.constant(rng.integers(0, 3, 16))
    # Each replica has whole pairs, which are mixed with each other.
    halves = [
        tf.nest.map_structure(lambda t, k=k: t[8 * k : 8 * k + 8], batch)
        for k in range(2)
    ]

    @tf.function(autograph=False, jit_compile=False)
    def step(part):
        return strategy.run(two.train_step, args=(part, 1.0, part))

    parts = tf.nest.map_structure(
        lambda *values: strategy.experimental_distribute_values_from_function(
            lambda context: values[context.replica_id_in_sync_group]
        ),
        *halves,
    )
    for _ in range(2):
        step(parts)
        one.train_step(batch, 1.0, batch)
    policies = [model.policy.augmentation for model in (one, two)]
    for ours, theirs in zip(
        *(policy.trainable_variables for policy in policies), strict=True
    ):
        np.testing.assert_allclose(theirs.numpy(), ours.numpy(), atol=2e-3)
    before = fitting(**arguments).policy.augmentation.trainable_variables
    learned = policies[0].trainable_variables
    assert np.abs(before[0].numpy() - learned[0].numpy()).max() > 0.02
    np.testing.assert_allclose(two.policy.seen, one.policy.seen, atol=1e-2)


@pytest.mark.parametrize("learned", [True, False])
def test_the_policy_looks_from_an_average_of_its_own(learned):
    """Rates are judged over a hundred steps, images over fifty."""
    rate = Range(1e-3, 1.0, start=0.1) if learned else 0.1
    joint = fitting(
        "influence",
        hyperparameters=LearnedHyperparameters({"learning_rate": rate}),
    )
    rng = np.random.default_rng(0)
    batches = [
        (
            tf.constant(rng.uniform(0, 255, (8, 6, 6, 3)), tf.float32),
            tf.constant(rng.integers(0, 3, 8)),
        )
        for _ in range(5)
    ]
    expected = joint.weight_vector.read().numpy()
    for k, batch in enumerate(batches[:4]):
        joint.train_step(batch, 1.0, batches[4] if k == 3 else None)
        now = joint.weight_vector.read().numpy()
        expected = 0.98 * expected + 0.02 * now
    np.testing.assert_allclose(joint.policy.averaged, expected, atol=1e-6)
    ours = joint.policy.direction / (1.0 - SMOOTHING)
    at_ours = search_gradient(joint, batches[4], joint.policy.averaged.value)
    np.testing.assert_allclose(ours, at_ours, rtol=1e-4, atol=1e-6)
    theirs = search_gradient(joint, batches[4])
    assert np.max(np.abs(theirs - at_ours)) > 1e-4


def test_policy_and_rates_are_judged_by_turns(monkeypatch):
    """Every other search gradient is the policy's, those between the rates'."""
    rate = Range(1e-3, 1.0, start=0.1)
    joint = fitting(
        "influence",
        hyperparameters=LearnedHyperparameters({"learning_rate": rate}),
    )
    learned, policy, updates = joint.hyperparameters, joint.policy, []
    update = learned.update

    def followed(direction, at, through_loss, outer_steps, implicit):
        assert implicit is None
        before = [v.numpy() for v in learned.variables]
        start = learned.position.numpy()
        update(direction, at, through_loss)
        once = learned.position.numpy() - start
        for variable, value in zip(learned.variables, before, strict=True):
            variable.assign(value)
        update(direction, at, through_loss, outer_steps)
        np.testing.assert_allclose(
            learned.position - start, 2.0 * once, rtol=1e-5
        )
        updates.append((direction.numpy(), once))

    monkeypatch.setattr(learned, "update", followed)
    rng = np.random.default_rng(0)
    for k in range(4):
        batch, search = (
            (
                tf.constant(rng.uniform(0, 255, (8, 6, 6, 3)), tf.float32),
                tf.constant(rng.integers(0, 3, 8)),
            )
            for _ in range(2)
        )
        before = policy.direction.numpy()
        joint.train_step(batch, 1.0, search)
        assert len(updates) == (k + 1) // 2
        if k % 2:
            np.testing.assert_array_equal(policy.direction, before)
            judged = search_gradient(joint, search, learned.averaged.value)
            direction, moved = updates[-1]
            np.testing.assert_allclose(direction, judged, rtol=1e-4, atol=1e-6)
            assert np.abs(moved) > 1e-4
        else:
            judged = search_gradient(joint, search, policy.averaged.value)
            expected = SMOOTHING * before + (1.0 - SMOOTHING) * judged
            np.testing.assert_allclose(
                policy.direction, expected, rtol=1e-4, atol=1e-6
            )
        assert int(policy.count.numpy()) == k + 1
