import numpy as np
import tensorflow as tf

from keras_dha import pairing

PARTNERS = [1, 0, 3, 2, 4]


def test_neighbours_are_partners():
    np.testing.assert_array_equal(pairing.partners(5), PARTNERS)
    np.testing.assert_array_equal(pairing.partners(1), [0])


def test_images_are_blended_with_their_partner():
    images = np.arange(5 * 4).reshape(5, 2, 2).astype("uint8")
    share = np.array([0.0, 0.25, 0.5, 1.0, 0.7], "float32")
    x, s = images.astype("float32"), share[:, None, None]
    np.testing.assert_allclose(
        pairing.blended(tf.constant(images), tf.constant(share)),
        (1 - s) * x + s * x[PARTNERS],
        rtol=1e-6,
    )


def test_losses_are_those_of_soft_labels():
    rng = np.random.default_rng(0)
    labels = np.array([0, 2, 1, 1, 0])
    logs = np.log(rng.dirichlet(np.ones(3), 5)).astype("float32")
    share = rng.random(5).astype("float32")
    one_hot = np.eye(3, dtype="float32")[labels]
    soft = (1 - share)[:, None] * one_hot
    soft += share[:, None] * one_hot[PARTNERS]

    def loss(truth):
        return -tf.gather(logs, truth, axis=1, batch_dims=1)

    np.testing.assert_allclose(
        pairing.mixed_losses(loss, tf.constant(labels), tf.constant(share)),
        -np.sum(soft * logs, axis=1),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(
        pairing.mixed_losses(loss, tf.constant(labels), None),
        loss(tf.constant(labels)),
    )
