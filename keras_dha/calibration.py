"""Calibration: normalisation statistics that fit the weights.

Moving statistics of batch normalisation lag behind the weights, and those of
a searched network describe many paths. After a network is derived, and once
training ends, they are replaced by the mean of the statistics of a number of
batches; of clean or of augmented ones, whichever the search split prefers.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_dha.architecture.decision import find_layers


def recalibrate(network, images, batches=32):
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
