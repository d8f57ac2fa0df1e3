"""Mixup and CutMix: images, labels, losses, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import pairing
from keras_dha.augmentation import mixing
from keras_dha.augmentation.layer import DifferentiableAugmentation
from tests.augmentation import references

IDENTITY = {"operations": ["Identity"], "flip": None, "shift": None}


def flat_images(count):
    """Image k is filled with the value k."""
    values = tf.range(count, dtype=tf.float32)
    return values[:, None, None, None] * tf.ones([count, 20, 30, 3])


def mixed(count, names, mixer, strength, position=0.3):
    mix = mixing.plan(
        names,
        tf.constant(mixer),
        tf.fill([count], strength),
        tf.fill([count, 2], position),
        20,
        30,
    )
    return mixing.mix_images(flat_images(count), mix), mix.share.numpy()


def test_mixup_blends_with_what_the_partner_was():
    images, share = mixed(5, ("mixup",), [1, 1, 0, 1, 1], 0.5)
    # The last one has no partner, the third was not chosen.
    np.testing.assert_allclose(share, [0.25, 0.25, 0.0, 0.25, 0.0])
    values = images[:, 0, 0, 0]
    np.testing.assert_allclose(values, [0.25, 0.75, 2.0, 2.75, 4.0])
    np.testing.assert_allclose(images - images[:, :1, :1, :1], 0.0)


@pytest.mark.parametrize("strength", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("position", [0.0, 0.37, 1.0])
def test_cutmix_pastes_the_share_that_labels_get(strength, position):
    images, share = mixed(
        4, ("mixup", "cutmix"), [2, 0, 2, 2], strength, position
    )
    pixels = images.numpy()[..., 0]
    for k, partner in ((0, 1), (2, 3), (3, 2)):
        pasted = pixels[k] == partner
        assert share[k] == pytest.approx(pasted.mean())
        assert abs(pasted.mean() - strength / 2) < 0.06
        # One rectangle, inside of the image.
        rows, columns = np.where(pasted)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == pasted.sum()
        assert np.all(pixels[k][~pasted] == k)
    assert share[1] == 0.0 and np.all(pixels[1] == 1)


def test_labels_and_losses_agree():
    # The soft mean of losses is the loss of the soft label.
    generator = np.random.default_rng(0)
    labels = tf.constant(generator.integers(0, 4, 6))
    share = tf.constant([0.1, 0.5, 0.0, 0.3, 0.2, 0.0])
    predictions = tf.nn.softmax(tf.constant(generator.normal(size=[6, 4])))
    sparse = keras.losses.SparseCategoricalCrossentropy()
    losses = pairing.mixed_losses(
        lambda truth: sparse.call(truth, predictions), labels, share
    )
    soft = mixing.mix_labels(tf.one_hot(labels, 4), share)
    np.testing.assert_allclose(tf.reduce_sum(soft, axis=1), 1.0, rtol=1e-6)
    expected = keras.losses.CategoricalCrossentropy().call(
        tf.cast(soft, tf.float64), predictions
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("key", ["labels", "targets"])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_layer_mixes_images_and_labels_alike(key, name):
    layer = DifferentiableAugmentation(
        **IDENTITY, levels=(1.0,), **{name: 0.6}, seed=2
    )
    images, labels = flat_images(40), tf.one_hot(tf.range(40), 40)
    output = layer({"images": images, key: labels}, training=True)
    soft, pixels = output[key].numpy(), output["images"].numpy()
    assert 5 < np.sum(soft.max(axis=1) < 1.0) < 35
    # A label's expected index is the image's mean value.
    np.testing.assert_allclose(
        soft @ np.arange(40), pixels.mean(axis=(1, 2, 3)), atol=1e-4
    )


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_what_is_mixed_are_the_augmented_images(name):
    layer = DifferentiableAugmentation(
        **{**IDENTITY, "operations": ["Invert"]},
        levels=(1.0,),
        **{name: 0.6},
        seed=2,
    )
    inputs = {"images": flat_images(40), "labels": tf.eye(40)}
    output = layer(inputs, training=True)
    np.testing.assert_allclose(
        output["images"].numpy().mean(axis=(1, 2, 3)),
        output["labels"].numpy() @ (255.0 - np.arange(40)),
        atol=1e-3,
    )


def test_each_of_several_labels_is_mixed():
    layer = DifferentiableAugmentation(**IDENTITY, mixup=0.9, seed=2)
    labels = {"kind": tf.one_hot(tf.range(6), 6), "side": tf.eye(6, 2)}
    inputs = {"images": flat_images(6), "labels": labels}
    output = layer(inputs, training=True)
    values = output["images"].numpy().mean(axis=(1, 2, 3))
    assert np.any(values != np.arange(6))
    kind, side = output["labels"]["kind"], output["labels"]["side"]
    np.testing.assert_allclose(kind.numpy() @ np.arange(6), values, atol=1e-5)
    np.testing.assert_allclose(side, kind[:, :2], atol=1e-6)


def test_without_training_nothing_is_mixed():
    layer = DifferentiableAugmentation(mixup=0.9)
    inputs = {"images": flat_images(4), "labels": tf.eye(4)}
    output = layer(inputs)
    np.testing.assert_array_equal(output["labels"], inputs["labels"])
    np.testing.assert_array_equal(output["images"], inputs["images"])


def test_mixing_in_a_pipeline_with_a_model():
    layer = DifferentiableAugmentation(mixup=0.5, cutmix=0.4, seed=1)
    images = references.noise_images(12, 10, 14).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((images, tf.eye(12))).batch(6)
    data = data.map(
        lambda x, y: layer({"images": x, "labels": y}, training=True)
    )
    mixed = 0
    for batch in data:
        assert batch["images"].shape == (6, 10, 14, 3)
        np.testing.assert_allclose(
            tf.reduce_sum(batch["labels"], axis=1), 1.0, rtol=1e-5
        )
        mixed += int(np.sum(np.max(batch["labels"], axis=1) < 0.999))
    assert mixed > 3
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(12)])
    model.compile("sgd", "mse")
    pairs = data.map(lambda batch: (batch["images"] / 255, batch["labels"]))
    history = model.fit(pairs, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"][0])


def test_a_single_image_has_no_partner():
    layer = DifferentiableAugmentation(**IDENTITY, mixup=0.99)
    inputs = {"images": flat_images(2)[1], "labels": tf.constant([0.0, 1.0])}
    output = layer(inputs, training=True)
    np.testing.assert_array_equal(output["images"], inputs["images"])
    np.testing.assert_array_equal(output["labels"], inputs["labels"])


def test_labels_that_cannot_be_mixed_are_refused():
    layer = DifferentiableAugmentation(mixup=0.5)
    with pytest.raises(ValueError, match="Received: labels of shape"):
        layer({"images": flat_images(4), "labels": tf.range(4)}, training=True)
    with pytest.raises(ValueError, match="Received: inputs with"):
        layer(flat_images(4), training=True)
    with pytest.raises(ValueError, match="Received: mixup=1"):
        DifferentiableAugmentation(mixup=1.0)
