"""Photometric operations beyond the shared promises."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import ImageOps

from keras_dha.augmentation import photometric
from tests.augmentation import references

by_levels = pytest.mark.parametrize(
    "function",
    [photometric.solarize, photometric.posterize, photometric.equalize],
)

LUMA = np.array([0.299, 0.587, 0.114])


def ones(images):
    return tf.ones(len(images))


def smooth3x3(image):
    """PIL's SMOOTH filter by nine shifted copies, borders kept."""
    height, width, _ = image.shape
    result = image.astype("float64")
    inner = np.zeros_like(result[1:-1, 1:-1])
    for i in range(3):
        for j in range(3):
            weight = 5 if (i, j) == (1, 1) else 1
            inner += weight * image[i : i + height - 2, j : j + width - 2]
    result[1:-1, 1:-1] = inner / 13.0
    return result


DEGENERATE = {
    "contrast": lambda x: np.full(x.shape, (x @ LUMA).mean()),
    "color": lambda x: np.repeat((x @ LUMA)[..., None], 3, axis=-1),
    "brightness": lambda x: np.zeros(x.shape),
    "sharpness": smooth3x3,
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.3, 1.0])
def test_enhancement_equals_its_formula_without_truncation(name, strength):
    image = references.noise_images(1, seed=4)[0].astype("float64")
    degenerate = DEGENERATE[name](image)
    expected = degenerate + (1 + 0.9 * strength) * (image - degenerate)
    output = getattr(photometric, name)(
        tf.constant(image[None], tf.float32),
        tf.constant([abs(strength)]),
        tf.constant([np.sign(strength)], tf.float32),
    )[0]
    np.testing.assert_allclose(output, expected.clip(0, 255), atol=1e-3)


def test_auto_contrast_equals_its_formula_without_truncation():
    image = references.smooth_images(1)[0].astype("float64")
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    expected = (image - low) / (high - low) * 255.0
    output = photometric.auto_contrast(
        tf.constant(image[None], tf.float32), tf.ones(1)
    )[0]
    np.testing.assert_allclose(output, expected, atol=1e-3)


@pytest.mark.parametrize(
    "function", [photometric.auto_contrast, photometric.equalize]
)
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_image_stays_as_it_is(function, level):
    images = tf.fill([2, 8, 9, 3], float(level))
    np.testing.assert_array_equal(function(images, tf.ones(2)), images)


@pytest.mark.parametrize("shape", [(4, 4), (16, 16), (40, 30), (64, 64)])
def test_equalize_is_pils_for_any_number_of_pixels(shape):
    # Below 255 pixels PIL's step is 0 and its table the identity.
    generator = np.random.default_rng(5)
    image = generator.beta(2, 5, (*shape, 3)) * 255
    image = image.astype("uint8")
    expected = references.from_pil(ImageOps.equalize(references.to_pil(image)))
    output = photometric.equalize(
        tf.constant(image[None], tf.float32), tf.ones(1)
    )
    np.testing.assert_array_equal(output[0], expected)


@by_levels
def test_values_outside_the_range_are_of_the_nearest_level(function):
    images = tf.constant([-3.0, 0.0, 255.0, 260.0] * 100, shape=[1, 20, 20, 1])
    clipped = tf.clip_by_value(images, 0.0, 255.0)
    output = function(images, tf.ones(1))
    # Solarize inverts real numbers, and those outside stay outside.
    if function == photometric.solarize:
        np.testing.assert_array_equal(output, 255.0 - images)
        output = tf.clip_by_value(output, 0.0, 255.0)
    np.testing.assert_array_equal(output, function(clipped, tf.ones(1)))


@by_levels
def test_levels_do_not_depend_on_rounding_errors(function):
    images = references.noise_images(8, 20, 20).astype("float32")
    magnitude = tf.linspace(0.3, 1.0, 8)
    shaken = images + np.random.default_rng(6).uniform(
        -1e-3, 1e-3, images.shape
    )
    np.testing.assert_allclose(
        function(tf.constant(shaken, tf.float32), magnitude),
        function(tf.constant(images), magnitude),
        atol=2e-3,
    )


@pytest.mark.parametrize("channels", [2, 4])
def test_grey_is_the_mean_if_channels_are_not_rgb(channels):
    images = references.noise_images(2, channels=channels).astype("float32")
    output = photometric.contrast(
        tf.constant(images), ones(images), -ones(images)
    )
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(output, mean + 0.1 * (images - mean), atol=1e-2)
