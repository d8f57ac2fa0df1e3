"""That the augmentation is traced once a run, and does what it did inline."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_dha
from keras_dha.augmentation import one_graph
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.augmentation.learned import LearnedPolicy
from tests.architecture.test_custom_gradient import network
from tests.augmentation.test_estimators import built

SEEDS = tf.constant([1, 2]), tf.constant([3, 4])


def traced(policy):
    return policy.graph.augmented.experimental_get_tracing_count()


MIXERS = {"mixup": 0.5, "cutmix": 0.5}


# Each two of these in all four ways.
@pytest.mark.parametrize(
    "mixers, dtype, shape, trainable",
    [
        ({}, "float32", (50, 8, 9, 3), True),
        ({}, "uint8", (50, 8, 9), False),
        (MIXERS, "float32", (50, 8, 9), False),
        (MIXERS, "uint8", (50, 8, 9, 3), False),
        (MIXERS, "uint8", (50, 8, 9), True),
    ],
)
def test_it_draws_and_does_the_same(mixers, dtype, shape, trainable):
    layer = DifferentiableAugmentation(
        levels=3, clean=0.1, trainable=trainable, **mixers
    )
    layer.build((None, *(*shape, 1)[1:4]))
    learned = LearnedPolicy(layer, 0.1)
    images = tf.random.stateless_uniform(shape, [5, 6], maxval=255.0)
    images = tf.cast(images, dtype)
    # In the functions of two steps, which begin with other logits.
    for shift in (0.0, 1.0):
        for variable in layer.trainable_variables:
            variable.assign_add(shift * np.arange(variable.shape[-1]))

        @tf.function(autograph=False)
        def within_a_step(images):
            return learned.augment(images, SEEDS)

        @tf.function(autograph=False)
        def inline(images):
            clean = tf.convert_to_tensor(learned.clean)
            return one_graph.augmented(layer, images, SEEDS, clean, trainable)

        found, expected = within_a_step(images), inline(images)
        assert (found[2] is None) == (not mixers)
        assert len(tf.nest.flatten(found)) == len(tf.nest.flatten(expected))
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
        assert not np.array_equal(found[1], images)
    assert traced(learned) == 1


def test_a_layer_that_is_frozen_between_two_runs_is_traced_anew():
    layer = built("relaxed")
    learned, images = LearnedPolicy(layer, 0.1), tf.ones([4, 8, 9, 3])
    # Derivatives by the way that images were made are taken of them.
    learned.augment(images, SEEDS)
    assert traced(learned) == 0
    layer.trainable = False
    learned.augment(images, SEEDS)
    learned.augment(images, SEEDS)
    assert traced(learned) == 1


def test_each_of_several_replicas_draws_its_own_part():
    learned = LearnedPolicy(built("influence"), 0.1)
    images = tf.random.stateless_uniform([6, 8, 9, 3], [5, 6], maxval=255.0)
    whole = learned.augment(images, SEEDS)[1]
    parts = [
        learned.augment(images[k : k + 3], SEEDS, k // 3, 2) for k in (0, 3)
    ]
    np.testing.assert_array_equal(
        tf.concat([part[1] for part in parts], axis=0), whole
    )
    assert traced(learned) == 1


def test_a_run_traces_it_once():
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 1), "float32"), rng.integers(0, 2, 64)
    model = keras_dha.AutoModel(network, seed=0)
    joints = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: joints.append(model.joint)
    )
    model.fit(x, y, epochs=4, batch_size=16, verbose=0, callbacks=[look])
    # Steps of either kind, of the network in search and of the derived one.
    assert joints[0] is not model.joint
    assert joints[0].policy.graph is model.joint.policy.graph
    assert model.joint.policy.is_learned
    assert traced(model.joint.policy) == 1


def test_it_is_no_part_of_what_is_saved():
    learned = LearnedPolicy(built("influence"), 0.1)
    learned.augment(tf.ones([4, 8, 9, 3]), SEEDS)
    children = tf.train.TrackableView(learned).children(learned)
    assert "augmentation" in children and "graph" not in children
