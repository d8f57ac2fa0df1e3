"""Second derivatives that TensorFlow goes without.

Influences, and what acts through the training loss, are derivatives of a
backward pass (`keras_dha.outer_tape`). TensorFlow has none of that of resizing:
of the bilinear one it takes them for 0, in silence, so that the weights below
have no part in an influence; of others, and of softsign, there is an error.

Resizing is linear, so the derivative of its backward pass, by what comes in
from above, is resizing again.
"""

import contextlib

import tensorflow as tf
from tensorflow.python.framework import ops

from keras_dha.architecture.custom_gradient import custom_gradient


@contextlib.contextmanager
def of_bilinear_resizing():
    """Lets the backward pass of what is traced inside have a derivative.

    What TensorFlow takes for 0 has no public way to be put right: the private
    hook is here.
    """
    entry = ops.gradient_registry._registry["ResizeBilinear"]
    before, entry["type"] = entry["type"], _bilinear_backward
    try:
        yield
    finally:
        entry["type"] = before


def _bilinear_backward(op, upstream):
    @custom_gradient
    def backward(upstream):
        def gradient(direction):
            return tf.raw_ops.ResizeBilinear(
                images=direction, size=_size(upstream), **_alike(op)
            )

        found = tf.raw_ops.ResizeBilinearGrad(
            grads=upstream, original_image=op.inputs[0], **_alike(op)
        )
        return found, gradient

    return backward(upstream), None


def _of(name):
    """Returns a decorator that makes a function the derivative of an op.

    Args:
        name: String, the kind of operation. A derivative that it has stays.
    """

    def register(function):
        if name not in ops.gradient_registry._registry:
            tf.RegisterGradient(name)(function)
        return function

    return register


@_of("ResizeBicubicGrad")
def _bicubic(op, upstream):
    resized = tf.raw_ops.ResizeBicubic(
        images=upstream, size=_size(op.inputs[0]), **_alike(op)
    )
    return resized, None


@_of("ResizeNearestNeighborGrad")
def _nearest(op, upstream):
    resized = tf.raw_ops.ResizeNearestNeighbor(
        images=upstream, size=_size(op.inputs[0]), **_alike(op)
    )
    return resized, None


@_of("ScaleAndTranslateGrad")
def _scaled(op, upstream):
    resized = tf.raw_ops.ScaleAndTranslate(
        images=upstream,
        size=_size(op.inputs[0]),
        scale=op.inputs[2],
        translation=op.inputs[3],
        kernel_type=op.get_attr("kernel_type"),
        antialias=op.get_attr("antialias"),
    )
    return resized, None, None, None


@_of("SoftsignGrad")
def _softsign(op, upstream):
    # Of g / (1 + |x|)^2.
    gradient, features = op.inputs
    slope = 1.0 / (1.0 + tf.abs(features))
    by_gradient = upstream * slope**2
    return by_gradient, -2.0 * by_gradient * gradient * slope * tf.sign(
        features
    )


def _size(images):
    return tf.shape(images)[1:3]


def _alike(op):
    """Returns how the images were resized that an operation is about."""
    return {
        name: op.get_attr(name)
        for name in ("align_corners", "half_pixel_centers")
    }
