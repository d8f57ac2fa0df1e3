import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import inner_update

RNG = np.random.default_rng(0)
START = RNG.normal(size=5).astype("float32")
GRADIENTS = RNG.normal(size=(8, 5)).astype("float32")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_keras(momentum):
    # Keras decouples weight decay, so the comparison is without it.
    variable = keras.Variable(START)
    optimizer = keras.optimizers.SGD(0.1, momentum=momentum)
    w, b = tf.constant(START), tf.zeros(5)
    for g in GRADIENTS:
        optimizer.apply([tf.constant(g)], [variable])
        w, b, _ = inner_update.sgd(
            w, b, g, 0.1, 0.0, momentum, tf.ones(5), tf.ones(5)
        )
    np.testing.assert_allclose(w, variable.numpy(), rtol=1e-5)


def test_weight_decay_is_the_gradient_of_an_l2_penalty():
    decay, decayed = 0.3, np.array([1, 1, 0, 1, 0], "float32")
    w, b = tf.constant(START), tf.zeros(5)
    reference, velocity = START.astype("float64"), np.zeros(5)
    for g in GRADIENTS:
        w, b, _ = inner_update.sgd(
            w, b, g, 0.1, decay, 0.9, decayed, tf.ones(5)
        )
        # d/dw (decay / 2 * |w|^2) = decay * w, where it applies.
        velocity = 0.9 * velocity + g + decay * decayed * reference
        reference = reference - 0.1 * velocity
    np.testing.assert_allclose(w, reference, rtol=1e-5)


def test_sgd_leaves_inactive_weights_and_their_velocity():
    active = np.array([1, 0, 1, 0, 1], "float32")
    velocity = tf.constant(GRADIENTS[1])
    step = inner_update.sgd(
        tf.constant(START),
        velocity,
        GRADIENTS[0],
        0.1,
        0.3,
        0.9,
        tf.ones(5),
        active,
    )
    still = active == 0
    np.testing.assert_array_equal(step.weights.numpy()[still], START[still])
    np.testing.assert_array_equal(
        step.velocity.numpy()[still], velocity.numpy()[still]
    )
    assert np.all(step.weights.numpy()[~still] != START[~still])


def test_adam_equals_keras():
    variable = keras.Variable(START)
    optimizer = keras.optimizers.Adam(0.05, epsilon=1e-8)
    w = tf.constant(START)
    state = inner_update.AdamState(tf.zeros(5), tf.zeros(5), tf.constant(0.0))
    for g in GRADIENTS:
        optimizer.apply([tf.constant(g)], [variable])
        w, state = inner_update.adam(w, g, state, 0.05)
    np.testing.assert_allclose(w, variable.numpy(), rtol=1e-5)
