"""Second derivatives that TensorFlow goes without, or has at a high price.

Influences, and what acts through the training loss, are derivatives of a
backward pass (`keras_dha.outer_tape`). TensorFlow has none of that of resizing:
of the bilinear one it takes them for 0, in silence, so that the weights below
have no part in an influence; of others, and of softsign, there is an error.
Resizing is linear, so the derivative of its backward pass, by what comes in
from above, is resizing again.

Of fused batch normalisation it writes the backward pass out, and derives it by
the images and the scale as well, in some fifty operations a layer. Influences
need the derivative by what comes in from above, dy, alone. By that the pass is
linear: with n the normalised images, s the scale and d the deviation,

    dx = P dy = s/d (dy - mean dy - n mean(n dy)),  ds = sum n dy,  do = sum dy

and P is symmetric. So the derivative along (u, u_s, u_o) is P u + n u_s + u_o,
two fused kernels: the backward pass of u, and normalising x to scale u_s and
offset u_o.

Of Keras' batch normalisation, which stops a gradient in its variance, they are
wrong by the weights and the architecture; where these are asked for, it takes
statistics that have all of it.
"""

import contextlib
import functools

import keras
import tensorflow as tf
from tensorflow.python.framework import ops

from keras_dha.architecture.custom_gradient import custom_gradient
from keras_dha.nested_layers import find_layers

_RESIZING, _NORMALISATION = "ResizeBilinear", "FusedBatchNormGradV3"
_TENSORFLOWS = {
    name: ops.gradient_registry.lookup(name)
    for name in (_RESIZING, _NORMALISATION)
}


@contextlib.contextmanager
def of_bilinear_resizing():
    """Lets the backward pass of what is traced inside have a derivative.

    What TensorFlow takes for 0 has no public way to be put right: the private
    hook is here.
    """
    with _replaced(_RESIZING, _bilinear_backward):
        yield


@contextlib.contextmanager
def by_what_comes_from_above():
    """Lets derivatives of backward passes be those by what comes from above.

    Only for what nothing else depends on, as the factors of losses: neither
    the images that a layer sees nor its weights.
    """
    with _replaced(_NORMALISATION, _normalisation):
        yield


@contextlib.contextmanager
def exact_statistics(network):
    """Lets batch normalisation be differentiated twice, while it is traced.

    Keras takes the variance by `tf.nn.moments`, which stops the gradient of
    the mean in it: right once, wrong twice. What it does for synchronised
    statistics, or with a mask, has no such stop. There is no public way to
    statistics of one's own: the private hook, `_moments`, is here.

    Args:
        network: A `keras.Model`.
    """
    layers = [
        layer
        for layer in find_layers(network, keras.layers.BatchNormalization)
        if not layer.synchronized
    ]
    for layer in layers:
        layer._moments = functools.partial(_moments, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("_moments", None)


def _moments(layer, inputs, mask):
    """Returns mean and variance as Keras does, with all of the gradient."""
    if mask is not None:
        return type(layer)._moments(layer, inputs, mask)
    axes = layer._reduction_axes
    mean = tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(inputs - mean), axes)
    return tf.squeeze(mean, axes), variance


def check(network, asked, instead):
    """Refuses layers whose second derivative TensorFlow gets wrong.

    Args:
        network: A `keras.Model`.
        asked: String, the argument that asks for second derivatives.
        instead: String, the one that does without.
    """
    wrong = find_layers(
        network,
        (keras.layers.LayerNormalization, keras.layers.GroupNormalization),
    )
    if wrong:
        raise ValueError(
            f"{asked} needs second derivatives, which TensorFlow does not "
            "give for LayerNormalization and GroupNormalization: use "
            f"{instead}, or BatchNormalization. "
            f"Received: {asked} and {sorted(layer.name for layer in wrong)}"
        )


@contextlib.contextmanager
def _replaced(name, function):
    """The scope in which a kind of operation has another derivative."""
    entry = ops.gradient_registry._registry[name]
    entry["type"] = function
    try:
        yield
    finally:
        # Not what was there before: of several replicas each may be inside.
        entry["type"] = _TENSORFLOWS[name]


def _normalisation(op, by_images, by_scale, by_offset, *others):
    if not op.get_attr("is_training"):
        # By given statistics it is another function.
        written_out = _TENSORFLOWS[_NORMALISATION]
        return written_out(op, by_images, by_scale, by_offset, *others)
    options = {
        name: op.get_attr(name)
        for name in ("epsilon", "data_format", "is_training")
    }
    images, scale = op.inputs[1:3]
    forward = tf.raw_ops.FusedBatchNormV3(
        x=images,
        scale=by_scale,
        offset=by_offset,
        mean=[],
        variance=[],
        **options,
    )
    backward = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=by_images,
        x=images,
        scale=scale,
        reserve_space_1=forward.reserve_space_1,
        reserve_space_2=forward.reserve_space_2,
        reserve_space_3=forward.reserve_space_3,
        **options,
    )
    return backward.x_backprop + forward.y, *[None] * 5


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
