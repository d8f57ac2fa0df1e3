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


def test_several_inputs_are_blended_by_the_same_shares():
    rng = np.random.default_rng(1)
    images, vectors = rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 4))
    share = np.array([0.2, 0.5, 0.7])
    other = [1, 0, 2]
    found = pairing.blended(
        {"a": tf.constant(images), "b": tf.constant(vectors)},
        tf.constant(share),
    )
    for name, given in [("a", images), ("b", vectors)]:
        s = share.reshape([3] + [1] * (given.ndim - 1))
        expected = (1 - s) * given + s * given[other]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_labels_of_all_outputs_are_mixed():
    labels = (tf.constant([0.0, 1.0, 2.0]), tf.constant([5.0, 7.0, 9.0]))
    share = tf.constant([0.2, 0.5, 0.7])
    found = pairing.mixed_losses(lambda y: y[0] + 10.0 * y[1], labels, share)
    each = np.array([50.0, 71.0, 92.0])
    expected = [0.8 * 50 + 0.2 * 71, 0.5 * 71 + 0.5 * 50, each[2]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
