"""The policy gradient of a joint step against full enumeration."""

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dha import joint_step
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.hyperparameters.hypergradient import ONE_STEP
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.joint_model import JointModel

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
            joint_step,
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
