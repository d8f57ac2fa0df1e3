"""Derivatives by magnitude and image, against central differences."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dha.augmentation import dispatch
from keras_dha.augmentation import geometric
from keras_dha.augmentation import surrogates
from keras_dha.augmentation.operations import OPERATIONS
from tests.augmentation import references
from tests.references import central_difference

# Their values jump, so their derivatives are those of a surrogate.
JUMPING = {"Solarize", "Posterize", "Cutout"}
SMOOTH = [op for op in OPERATIONS if op.name not in {"Identity", *JUMPING}]
MAGNITUDES = np.array([0.23, 0.61, 0.87])


def images():
    """Images of real values well inside 0..255, so that nothing is cut off."""
    smooth = references.smooth_images(3, 12, 17).astype("float64")
    noise = np.random.default_rng(1).uniform(-5, 5, smooth.shape)
    return tf.constant(100.0 + 0.3 * smooth + noise)


def weights(shape):
    return np.random.default_rng(2).normal(size=shape)


def draws(count, steps=1):
    generator = np.random.default_rng(3)
    return dispatch.Draws(
        sign=tf.constant(generator.choice([-1.0, 1.0], [count, steps])),
        position=tf.constant(generator.uniform(size=[count, steps, 2])),
        shift=tf.constant(generator.uniform(size=[count, 2])),
        mix=tf.constant(generator.uniform(size=[count, 2])),
    )


def run(operations, magnitude, batch, moved=False):
    """Each image gets all the operations, one after the other."""
    count, steps = len(batch), len(operations)
    work = dispatch.Work(
        tf.tile(tf.range(steps)[None], [count, 1]),
        magnitude,
        tf.fill([count], moved),
        tf.fill([count], moved),
    )
    return dispatch.augment(
        batch, operations, work, draws(count, steps), differentiable=True
    )


def slopes(operations, magnitude, moved=False):
    """Our derivative by each magnitude, and the central differences."""
    batch = images()
    fixed = weights(batch.shape)

    def value(m):
        return tf.reduce_sum(fixed * run(operations, m, batch, moved))

    at = tf.constant(magnitude)
    with tf.GradientTape() as tape:
        tape.watch(at)
        output = value(at)
    ours = tape.gradient(output, at).numpy()
    expected = np.zeros_like(ours)
    for index in np.ndindex(ours.shape):
        unit = np.zeros_like(magnitude)
        unit[index] = 1.0
        expected[index] = central_difference(
            lambda e, u=unit: float(value(tf.constant(magnitude + e * u))),
            0.0,
        )
    return ours, expected


@pytest.mark.parametrize("operation", SMOOTH, ids=lambda op: op.name)
@pytest.mark.parametrize("moved", [False, True])
def test_derivative_by_magnitude(operation, moved):
    ours, expected = slopes((operation,), MAGNITUDES[:, None], moved)
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_derivatives_of_a_sequence():
    # A composed warp, then a photometric operation, then a warp again.
    by_name = {op.name: op for op in OPERATIONS}
    sequence = tuple(
        by_name[n] for n in ("Rotate", "ShearX", "Brightness", "TranslateY")
    )
    magnitude = np.random.default_rng(4).uniform(0.2, 0.8, [3, 4])
    ours, expected = slopes(sequence, magnitude)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.name)
def test_derivatives_cost_no_value(operation):
    batch = tf.cast(images(), tf.float32)
    magnitude = tf.constant(MAGNITUDES, tf.float32)
    ones = tf.ones([3])
    position = tf.fill([3, 2], 0.4)
    plain = operation(batch, magnitude, ones, position)
    slope = operation(batch, magnitude, ones, position, differentiable=True)
    np.testing.assert_allclose(slope, plain, atol=1e-4)


def test_differentiable_warp_equals_the_kernel():
    batch = tf.constant(references.noise_images(40), tf.float32)
    generator = np.random.default_rng(5)
    matrices = np.tile(np.eye(3), [40, 1, 1])
    matrices[:, :2] += generator.normal(size=[40, 2, 3]) * [0.4, 0.4, 6.0]
    matrices = tf.constant(matrices, tf.float32)
    np.testing.assert_allclose(
        geometric.differentiable_warp(batch, matrices),
        geometric.warp(batch, matrices),
        atol=5e-3,
    )


def test_warp_passes_derivatives_to_the_image():
    batch = images()[:1]
    matrices = geometric.affine_matrix(
        tf.constant([[0.1, 0.0, 0.0, 0.0, 0.2]], tf.float64), 12, 17
    )
    fixed = weights(batch.shape)
    with tf.GradientTape() as tape:
        tape.watch(batch)
        warped = geometric.differentiable_warp(batch, matrices)
        value = tf.reduce_sum(fixed * warped)
    ours = tape.gradient(value, batch).numpy()
    direction = np.random.default_rng(6).normal(size=batch.shape)
    expected = central_difference(
        lambda e: float(
            tf.reduce_sum(
                fixed
                * geometric.differentiable_warp(batch + e * direction, matrices)
            )
        ),
        0.0,
    )
    np.testing.assert_allclose((ours * direction).sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(JUMPING))
def test_jumping_operations_have_their_surrogates_slope(name):
    (operation,) = (op for op in OPERATIONS if op.name == name)
    batch = images()
    extra = [tf.fill([3, 2], tf.constant(0.4, tf.float64))]
    extra = extra if operation.positioned else []
    fixed = weights(batch.shape)

    def slope_of(function, batch):
        magnitude = tf.constant(MAGNITUDES)
        with tf.GradientTape() as tape:
            tape.watch(magnitude)
            value = tf.reduce_sum(fixed * function(batch, magnitude))
        return tape.gradient(value, magnitude)

    def straight_through(batch, magnitude):
        return operation(
            batch, magnitude, position=(extra or [None])[0], differentiable=True
        )

    ours = slope_of(straight_through, batch).numpy()
    surrogate = getattr(surrogates, name.lower())
    smooth = slope_of(lambda x, m: surrogate(x, m, *extra), batch).numpy()
    np.testing.assert_allclose(ours, smooth, rtol=1e-9)
    assert np.abs(ours).max() > 1.0


@pytest.mark.parametrize(
    "name, pixels, magnitude, eps, rtol",
    [
        ("Solarize", np.arange(256.0), 0.3, 1 / 32, 0.05),
        # From one number of bits to the next steps are twice as large, so
        # that differences are coarse: of 2^k by sinh(ln 2) / ln 2, or 8%.
        ("Posterize", np.arange(256.0), 5 / 7, 1 / 7, 0.15),
        # From two pixels a side to six.
        ("Cutout", np.zeros(256), 0.5, 1 / 4, 0.05),
    ],
    ids=["Solarize", "Posterize", "Cutout"],
)
def test_slopes_of_jumps_are_right_on_average(
    name, pixels, magnitude, eps, rtol
):
    # Over all grey levels, or all pixels, the jumps add up to a slope.
    batch = tf.constant(pixels.reshape(1, 16, 16, 1))
    operation = next(op for op in OPERATIONS if op.name == name)
    position = tf.constant([[0.5, 0.5]], tf.float64)

    def mean(magnitude, **arguments):
        output = operation(batch, magnitude, position=position, **arguments)
        return tf.reduce_mean(output)

    at = tf.constant([magnitude], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(at)
        value = mean(at, differentiable=True)
    ours = float(tape.gradient(value, at)[0])
    expected = central_difference(lambda m: float(mean(m)), at, eps=eps)
    assert abs(expected) > 10.0
    np.testing.assert_allclose(ours, expected, rtol=rtol)


def test_images_pass_through_equalize_and_posterize():
    batch = images()
    for name in ("Equalize", "Posterize"):
        operation = next(op for op in OPERATIONS if op.name == name)
        with tf.GradientTape() as tape:
            tape.watch(batch)
            output = operation(
                batch, tf.constant(MAGNITUDES), differentiable=True
            )
        np.testing.assert_allclose(tape.gradient(output, batch), 1.0)
