"""Calibration: normalisation statistics that fit the weights.

Moving statistics of batch normalisation lag behind the weights, and those of
a searched network describe many paths. After a network is derived, and once
training ends, they are replaced by the mean of the statistics of a number of
batches; of clean or of augmented ones, whichever the search split prefers.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from keras_dha.hyperparameters import own
from keras_dha.nested_layers import find_layers

# Over how many batches statistics are averaged; and where training goes on,
# whose own soon take their place.
BATCHES, BATCHES_BETWEEN = 32, 8


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
    before = [keras.ops.convert_to_numpy(v) for v in statistics]
    found = None
    sums = [0.0] * len(statistics)
    try:
        with contextlib.ExitStack() as stack:
            passes = [stack.enter_context(_averaging(x)) for x in layers]

            def forward(x):
                for begin in passes:
                    begin()
                network(x, training=True)

            forward = tf.function(forward, jit_compile=False, autograph=False)
            for _ in range(batches):
                forward(next(images))
                sums = [
                    s + keras.ops.convert_to_numpy(v).astype(np.float64)
                    for s, v in zip(sums, statistics, strict=True)
                ]
        found = [s / batches for s in sums]
    finally:
        # Interrupted, a run has those that it had rather than one batch's.
        for variable, value in zip(statistics, found or before, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _averaging(layer):
    """The scope in which a pass leaves its own statistics in a layer.

    Without momentum they are those of the last call. A layer may be called
    several times, and then the mean of all calls is what fits them.

    Args:
        layer: A batch normalisation.

    Yields:
        A function to be called where a pass begins.
    """
    call, momentum, calls = layer.call, layer.momentum, 0

    def begin():
        nonlocal calls
        calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        layer.momentum = calls / (calls + 1)
        calls += 1
        return call(*args, **kwargs)

    layer.call = counted
    try:
        yield begin
    finally:
        del layer.call
        layer.momentum = momentum


def fit_statistics(joint, batches, count=BATCHES):
    """Fits the statistics of a joint model to its weights as they are.

    Args:
        joint: `keras_dha.joint_model.JointModel`.
        batches: Training batches, which are augmented by its policy.
        count: Integer, over how many of them to average.
    """
    augment = tf.function(
        lambda images, seed: joint.augment(images, (seed, seed))[1],
        jit_compile=False,
        autograph=False,
    )

    def augmented_images():
        for number, (images, _) in enumerate(batches.dataset()):
            yield augment(images, tf.constant([joint.seed, number]))

    if joint.policy.augments:
        images = augmented_images()
    else:
        images = (x for x, _ in batches.dataset())
    with _as_in_training(joint):
        recalibrate(joint.network, images, count)


def _as_in_training(joint):
    """The scope in which layers have what is learned, as a dropout rate."""
    return own.given(joint.hyperparameters.in_loss())


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
    with _as_in_training(joint):
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
