"""Slopes of the relaxed choices, against central differences."""

import numpy as np
import tensorflow as tf

from keras_dha.augmentation.estimators import gumbel
from tests.augmentation import references
from tests.augmentation.test_estimators import SEED
from tests.augmentation.test_estimators import built
from tests.augmentation.test_estimators import softmax
from tests.references import central_difference


def held_noise(choices, noise, start):
    """The noise that made the choices of two operations at these logits."""
    uniform = noise.uniform(0, [6, 2]), noise.uniform(1, [6, 1, 3])
    log_p = tf.nn.log_softmax(start["sub_policy"])[None]
    held = {
        "sub_policy": gumbel.conditional(log_p, choices.sub_policy, uniform[0])
        - log_p
    }
    log_p = tf.gather(tf.nn.log_softmax(start["magnitude"]), choices.sub_policy)
    log_p = log_p[:, None]
    held["magnitude"] = (
        gumbel.conditional(log_p, choices.level, uniform[1]) - log_p
    )
    logits = tf.gather(start["application"], choices.sub_policy)[:, None]
    held["application"] = (
        gumbel.bernoulli_path(logits, choices.applied, noise.uniform(2, [6, 1]))
        - logits
    )
    return {name: value.numpy() for name, value in held.items()}


def relaxed_choice(logits, held, choices, temperature):
    """Softmax of each choice and its noise, the equations in NumPy."""
    picked = choices.sub_policy.numpy()
    z = np.log(softmax(logits["sub_policy"])) + held["sub_policy"]
    soft = np.exp(z / temperature)
    weight = (soft / soft.sum(axis=1, keepdims=True))[np.arange(6), picked]
    rows = np.exp(logits["magnitude"])
    rows = np.log(rows / rows.sum(axis=1, keepdims=True))
    soft = np.exp((rows[picked][:, None] + held["magnitude"]) / temperature)
    magnitude = (soft / soft.sum(axis=2, keepdims=True)) @ [1 / 3, 2 / 3, 1]
    z = logits["application"][picked][:, None] + held["application"]
    return weight, magnitude, 1 / (1 + np.exp(-z / temperature))


def test_slopes_of_all_logits_that_have_a_path():
    # Of an observable of the augmented images.
    layer = built(
        "relaxed", operations=("Rotate", "Brightness"), application=0.6
    )
    images = 60.0 + 0.5 * references.smooth_images(6, 8, 9).astype("float32")
    choices = layer.sample(6, SEED)
    draws, noise = layer.draw(6, SEED), gumbel.Noise(SEED)
    assert 0 < np.sum(choices.applied) < 6
    fixed = np.random.default_rng(1).normal(size=images.shape) / 100
    generator, start, watched = np.random.default_rng(2), {}, {}
    for name in ("magnitude", "sub_policy", "application"):
        variable = getattr(layer.distribution.variables, name)
        values = generator.normal(size=variable.shape).astype("float32")
        variable.assign(values)
        start[name], watched[name] = values, variable.value
    held = held_noise(choices, noise, start)
    at_start = relaxed_choice(start, held, choices, 0.5)

    def value(logits):
        weight, magnitude, applied = relaxed_choice(logits, held, choices, 0.5)
        # What was drawn counts 1, and as much more as its softmax grew.
        magnitude = magnitude * (1.0 + applied - at_start[2])
        weight = (1.0 + weight - at_start[0])[:, None, None, None]
        magnitude = tf.constant(magnitude, tf.float32)
        output = layer.transform(images, choices, draws, magnitude).numpy()
        output = images + weight * (output.astype("float64") - images)
        return float(np.sum(fixed * output))

    with tf.GradientTape() as tape:
        output = layer.estimator.augment(layer, images, choices, draws, noise)
        observed = tf.reduce_sum(tf.cast(fixed, tf.float32) * output)
    found = tape.gradient(observed, watched)
    for name, ours in found.items():
        ours = tf.convert_to_tensor(ours).numpy()
        assert np.abs(ours).max() > 0.1
        for index in np.ndindex(ours.shape):
            unit = np.zeros_like(start[name])
            unit[index] = 1.0
            slope = central_difference(
                lambda e, n=name, u=unit: value({**start, n: start[n] + e * u}),
                *(0.0, 1e-2),
            )
            np.testing.assert_allclose(ours[index], slope, atol=0.02, rtol=0.02)
