"""Calibration: normalisation statistics that fit the weights.

Moving statistics of batch normalisation lag behind the weights, and those of
a searched network describe many paths. After a network is derived, and once
training ends, they are replaced by the mean of the statistics of a number of
batches; of clean or of augmented ones, whichever the search split prefers.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_dha.nested_layers import find_layers

# Over how many batches statistics are averaged.
BATCHES = 32


def recalibrate(network, images, batches=BATCHES):
    """Recomputes the moving statistics of every batch normalisation.

    Args:
        network: A `keras.Model`; only its moving statistics change.
        images: Iterator of image batches.
        batches: Integer, over how many batches to average.
    """
    layers = find_layers(network, keras.layers.BatchNormalization)
    layers = [layer for layer in layers if layer.trainable]
    if not layers:
        return
    statistics = [
        v
        for layer in layers
        for v in (layer.moving_mean, layer.moving_variance)
    ]
    # Without momentum a forward pass leaves that batch's own statistics.
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    sums = [0.0] * len(statistics)
    try:
        forward = tf.function(
            lambda x: network(x, training=True), jit_compile=False
        )
        for _ in range(batches):
            forward(next(images))
            sums = [
                s + keras.ops.convert_to_numpy(v).astype(np.float64)
                for s, v in zip(sums, statistics, strict=True)
            ]
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    for variable, value in zip(statistics, sums, strict=True):
        variable.assign(value / batches)


def fit_statistics(joint, batches):
    """Fits the statistics of a joint model to its weights as they are.

    Args:
        joint: `keras_dha.joint_model.JointModel`.
        batches: Training batches, which are augmented by its policy.
    """

    def augmented_images():
        for number, (images, _) in enumerate(batches.dataset()):
            seed = tf.constant([joint.seed, number])
            yield joint.augment(images, (seed, seed))[1]

    recalibrate(joint.network, augmented_images())


def choose_statistics(joint, batches, search_batches):
    """Takes statistics of clean images if the search split prefers them.

    The weights were trained on augmented images, the network will see clean
    ones: which statistics do better depends on the data.

    Args:
        joint: Joint model with statistics of augmented images.
        batches, search_batches: Training batches, and those that judge.
    """
    network = joint.network
    augmented, loss = network.get_weights(), search_loss(joint, search_batches)
    recalibrate(network, (x for x, _ in batches.dataset()))
    if search_loss(joint, search_batches) > loss:
        network.set_weights(augmented)


def search_loss(joint, search_batches):
    """Returns the loss on the search split as an exported model has it."""
    network, losses = joint.network, []
    forward = tf.function(
        lambda x: network(x, training=False), jit_compile=False
    )
    for images, labels in search_batches.dataset().take(search_batches.steps):
        loss = joint.loss_object.call(labels, forward(images))
        losses.append(float(tf.reduce_mean(loss)))
    return np.mean(losses)
