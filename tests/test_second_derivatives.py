"""Derivatives of a backward pass, against backward passes of single images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha import inner_pass
from keras_dha import outer_tape
from keras_dha.architecture.choice import Choice
from keras_dha.joint_model import JointModel

COUNT = 3


def choice():
    return Choice(
        [
            layers.UpSampling2D(2, interpolation="bilinear", name="bilinear"),
            layers.Conv2DTranspose(2, 2, strides=2, name="learned"),
        ]
    )


def normalisation(**kwargs):
    return keras_dha.FusedBatchNormalization(
        gamma_initializer="random_normal",
        beta_initializer="random_normal",
        **kwargs,
    )


def by_given_statistics(x):
    return tf.compat.v1.nn.fused_batch_norm(
        *(x, [1.0, 2.0], [0.0, 1.0]),
        mean=[0.1, 0.2],
        variance=[1.0, 2.0],
        is_training=False,
    )[0]


CASES = {
    "normalisation": normalisation,
    "normalisations": lambda: keras.Sequential(
        [normalisation(), layers.Conv2D(3, 2, activation="relu")]
        + [normalisation(scale=False)]
    ),
    "normalisation_in_a_choice": lambda: Choice(
        [normalisation(center=False), layers.Conv2D(2, 1)]
    ),
    "given_statistics": lambda: layers.Lambda(by_given_statistics),
    "softsign": lambda: layers.Activation("softsign"),
    "choice": choice,
    **{
        f"{kind}_{method}": lambda made=made, method=method: made(method)
        for kind, made in {
            "up": lambda m: layers.UpSampling2D(2, interpolation=m),
            "to": lambda m: layers.Resizing(3, 5, interpolation=m),
        }.items()
        for method in ("nearest", "bilinear", "bicubic", "lanczos3")
    },
}


def joint_model(layer):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(2, 3, padding="same")(inputs)
    x = layers.Flatten()(layer(x))
    return JointModel(
        keras.Model(inputs, layers.Dense(3)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def functions(joint):
    """Of a direction: all influences at once, and those of some factors."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(COUNT, 6, 6, 1)).astype("float32")
    batch = tf.constant(images), tf.range(COUNT)
    weights = joint.weight_vector.read()
    direction = tf.constant(rng.normal(size=weights.shape), weights.dtype)
    seed = tf.constant([1, 2])

    def gradient(factors, once):
        return inner_pass.run(
            *(joint, weights, batch, seed, {}, factors), moves=False, once=once
        ).gradient

    def influences():
        factors = tf.ones(COUNT)
        outer = outer_tape.OuterTape(
            {outer_tape.FACTORS: factors}, joint.network, 1
        )
        with outer.recording():
            outer.gradient = gradient(factors, once=False)
        return outer.along(direction, outer_tape.FACTORS)[0]

    def influence(factors):
        return tf.reduce_sum(direction * gradient(factors, once=True))

    return [tf.function(f, autograph=False) for f in (influences, influence)]


@pytest.mark.parametrize("case", CASES)
def test_influences_of_the_weights_below(case):
    influences, influence = functions(joint_model(CASES[case]()))
    expected = [influence(tf.one_hot(k, COUNT)) for k in range(COUNT)]
    np.testing.assert_allclose(influences(), expected, rtol=1e-4, atol=1e-6)


def test_the_second_derivative_of_softsign():
    x = tf.constant([-2.0, -0.3, 0.5, 4.0], "float64")
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.softsign(x)
        slope = tape.gradient(y, x)
    expected = -2.0 * np.sign(x) / (1.0 + np.abs(x)) ** 3
    np.testing.assert_allclose(outer.gradient(slope, x), expected)


def test_an_operation_without_a_second_derivative():
    layer = layers.Lambda(tf.nn.local_response_normalization)
    influences, _ = functions(joint_model(layer))
    with pytest.raises(ValueError, match="augmentation=None.*Received.*LRN"):
        influences()
