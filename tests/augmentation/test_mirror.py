"""How unlike images their mirror images are, against closed forms."""

import numpy as np
import pytest
import tensorflow as tf

import keras_dha
from keras_dha.augmentation import mirror

PATTERN = np.tile(np.arange(8.0, dtype="float32"), (8, 1))[..., None]


def noise(count, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, 8, 8, 1))


def asymmetry(images, labels, size=50):
    dataset = tf.data.Dataset.from_tensor_slices(
        (images.astype("float32"), labels)
    )
    return mirror.asymmetry(dataset.batch(size))


def one_class(images):
    return asymmetry(images, np.zeros(len(images), "int64"))


@pytest.mark.parametrize("scale", [1.0, 2.0, 6.0])
def test_a_pattern_in_noise_has_its_share_of_the_square(scale):
    # Of the odd part P - P' + e - e', noise has the variance 2 in a pixel.
    signal = np.sum((PATTERN - PATTERN[:, ::-1]) ** 2)
    images = PATTERN + scale * noise(2000)
    expected = signal / (signal + 2 * scale**2 * PATTERN.size)
    assert one_class(images) == pytest.approx(expected, rel=0.03)


def test_images_as_likely_as_their_mirror_images_have_none():
    images = PATTERN + noise(2000)
    images[::2] = images[::2, :, ::-1]
    assert one_class(images) < 0.01


def test_few_images_of_a_class_are_not_taken_for_a_pattern():
    # The square of a mean of four is a fourth of their mean square.
    labels = np.repeat(np.arange(200), 4)
    assert asymmetry(noise(800), labels) < 0.02
    # Of a class with one image nothing is known.
    assert asymmetry(PATTERN[None], np.zeros(1, "int64")) == 0.0


def test_classes_that_look_both_ways_are_told_apart():
    images = np.concatenate([PATTERN + noise(500), PATTERN + noise(500, 1)])
    images[500:] = images[500:, :, ::-1]
    labels = np.repeat([0, 1], 500)
    order = np.random.default_rng(2).permutation(1000)
    found = asymmetry(images[order], labels[order])
    assert found > 0.8
    one_hot = np.eye(2, dtype="float32")[labels[order]]
    assert asymmetry(images[order], one_hot) == found
    assert one_class(images[order]) < 0.01


def test_images_may_be_large_and_without_channels():
    large = np.kron(PATTERN[..., 0], np.ones((16, 16)))[None]
    assert one_class(np.repeat(large, 3, axis=0)) == pytest.approx(1.0)


def test_no_more_images_are_read_than_are_needed(monkeypatch):
    monkeypatch.setattr(mirror, "IMAGES", 20)
    read = []

    def batches():
        for k in range(9):
            read.append(k)
            yield tf.ones([8, 4, 4, 1]), tf.zeros([8], "int64")

    # Images of one value have no odd part at all.
    assert mirror.asymmetry(batches()) == 0.0
    assert read == [0, 1, 2]


def test_digits_are_unlike_their_mirror_images():
    digits = keras_dha.datasets.load("digits")
    found = asymmetry(digits.x_train, digits.y_train)
    assert found == pytest.approx(0.36, abs=0.01)
    assert mirror.flip_probability(found) == 0.01


def test_flips_are_as_common_as_mirror_images_are_like_the_images():
    assert mirror.flip_probability(0.0) == 0.5
    assert mirror.flip_probability(0.1) == pytest.approx(0.5 * 0.9**10)
    assert mirror.flip_probability(1.0) == 0.01
