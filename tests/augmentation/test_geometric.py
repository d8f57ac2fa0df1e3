"""The warp against PIL, and how matrices compose."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_dha.augmentation import geometric
from tests.augmentation import references

GEOMETRIC = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]
FUNCTIONS = [
    geometric.shear_x,
    geometric.shear_y,
    geometric.translate_x,
    geometric.translate_y,
    geometric.rotate,
]
HEIGHT, WIDTH = 20, 26


def matrices(flip, shift_x, shift_y):
    return geometric.flip_and_shift_matrix(
        tf.constant(flip),
        tf.constant(shift_x, tf.float32),
        tf.constant(shift_y, tf.float32),
    )


@pytest.mark.parametrize("magnitude", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("name", "function"), list(zip(GEOMETRIC, FUNCTIONS, strict=True))
)
def test_agrees_with_pil_inside(name, function, magnitude, sign):
    # PIL clamps at the border where the library mixes in the fill, so only
    # pixels whose four neighbours exist are compared: those that a white
    # image leaves white.
    image = references.noise_images(1, HEIGHT, WIDTH)[0]
    coefficients = references.coefficients(name, magnitude, sign, HEIGHT, WIDTH)
    expected = references.to_pil(image).transform(
        (WIDTH, HEIGHT),
        Image.Transform.AFFINE,
        coefficients,
        Image.Resampling.BILINEAR,
    )
    white = np.full_like(image, 255)
    inside = references.bilinear(white, coefficients)[..., 0] > 254.9
    assert inside.mean() > 0.3
    output = function(
        tf.constant(image[None], tf.float32),
        tf.constant([magnitude]),
        tf.constant([sign]),
    )[0].numpy()
    difference = np.abs(output - references.from_pil(expected))[inside]
    # PIL truncates to an integer.
    assert difference.max() < 1.01


@pytest.mark.parametrize("magnitude", [0.5, 1.0])
def test_rotation_agrees_with_pil_rotate(magnitude):
    image = references.smooth_images(1, HEIGHT, HEIGHT)[0]
    expected = references.to_pil(image).rotate(
        30.0 * magnitude, Image.Resampling.BILINEAR
    )
    output = geometric.rotate(
        tf.constant(image[None], tf.float32),
        tf.constant([magnitude]),
        tf.ones(1),
    )[0].numpy()
    inside = (slice(5, -5),) * 2
    np.testing.assert_allclose(
        output[inside], references.from_pil(expected)[inside], atol=1.0
    )


def test_whole_pixel_translation_is_a_copy():
    images = references.noise_images(1, 20, 20).astype("float32")
    magnitude = 3 / (0.45 * 20)
    moved = geometric.translate_x(
        tf.constant(images), tf.constant([magnitude]), tf.ones(1)
    ).numpy()
    np.testing.assert_allclose(moved[:, :, :-3], images[:, :, 3:], atol=1e-3)
    np.testing.assert_allclose(moved[:, :, -3:], 128.0, atol=1e-3)


def test_flip_is_numpys_flip():
    images = references.noise_images(2, 9, 14).astype("float32")
    flipped = geometric.warp(
        tf.constant(images), matrices([True, False], [0, 0], [0, 0])
    )
    np.testing.assert_array_equal(flipped[0], images[0, :, ::-1])
    np.testing.assert_array_equal(flipped[1], images[1])


def test_flip_comes_before_shift():
    images = references.noise_images(1, 9, 14).astype("float32")
    output = geometric.warp(tf.constant(images), matrices([True], [2], [-1]))
    expected = np.full_like(images, 128.0)
    expected[:, :-1, 2:] = images[:, 1:, ::-1][:, :, :-2]
    np.testing.assert_array_equal(output, expected)


def test_composed_warp_equals_two_warps():
    # One interpolation, so equal where the second warp is exact.
    images = references.noise_images(1, 15, 15).astype("float32")
    parameters = tf.constant([geometric.ROTATE])
    rotation = geometric.affine_matrix(parameters, 15, 15)
    base = matrices([True], [2], [1])
    once = geometric.warp(tf.constant(images), tf.matmul(rotation, base))
    twice = geometric.warp(geometric.warp(tf.constant(images), rotation), base)
    np.testing.assert_allclose(once[:, 1:, 2:], twice[:, 1:, 2:], atol=1e-3)


def test_gradient_reaches_the_images():
    images = tf.constant(references.noise_images(1, 8, 8), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(geometric.rotate(images, tf.ones(1), tf.ones(1)))
    # Each inner pixel is shared out among output pixels, about once in all.
    inner = tape.gradient(total, images)[0, 3:5, 3:5]
    np.testing.assert_allclose(inner, 1.0, atol=0.25)


def test_cutout_covers_the_declared_area():
    images = tf.zeros([1, 40, 60, 1])
    covered = geometric.cutout(
        images, tf.ones(1), tf.constant([[0.5, 0.5]])
    ).numpy()
    assert (covered == geometric.FILL).sum() == 20 * 20
