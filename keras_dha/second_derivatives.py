"""Second derivatives that TensorFlow goes without, or has at a high price.

Influences, and what acts through the training loss, are derivatives of a
backward pass (`keras_dha.outer_tape`). TensorFlow has none of that of resizing:
of the bilinear one it takes them for 0, in silence, so that the weights below
have no part in an influence; of others, and of softsign, there is an error.
Resizing is linear, so the derivative of its backward pass, by what comes in
from above, is resizing again. That of max pooling is wrong where sizes stay, as
with `strides=1` and `padding="same"`: TensorFlow writes it over the direction
that it has yet to read.

Of fused batch normalisation it writes the backward pass out, and derives it by
the images and the scale as well, in some fifty operations a layer. Influences
need the derivative by what comes in from above, dy, alone. By that the pass is
linear: with n the normalised images, s the scale and d the deviation,

    dx = P dy = s/d (dy - mean dy - n mean(n dy)),  ds = sum n dy,  do = sum dy

and P is symmetric. So the derivative along (u, u_s, u_o) is P u + n u_s + u_o,
two fused kernels: the backward pass of u, and normalising x to scale u_s and
offset u_o.

Statistics, of which Keras' normalisations are made, stop a gradient in their
variance: right once, and wrong twice by all that comes from below, as images,
weights and the architecture. Where this is asked for, they are taken with all
of it.
"""

import collections
import contextlib

import tensorflow as tf
from tensorflow.python.framework import ops

from keras_dha.architecture.custom_gradient import custom_gradient

_RESIZING, _NORMALISATION = "ResizeBilinear", "FusedBatchNormGradV3"
# Of images, as which signals count as well, and of volumes.
_POOLINGS = {
    "MaxPoolGrad": tf.raw_ops.MaxPoolGradGrad,
    "MaxPool3DGrad": tf.raw_ops.MaxPool3DGradGrad,
}
_TENSORFLOWS_MOMENTS = tf.nn.moments
_TENSORFLOWS = {
    name: ops.gradient_registry.lookup(name)
    for name in (_RESIZING, _NORMALISATION, *_POOLINGS)
}

# How many scopes of a name have been entered and not left.
_inside = collections.Counter()


def rules():
    """Returns the names of the scopes of this module that hold, a frozenset.

    What is traced in some of them has other derivatives than in others.
    """
    return frozenset(name for name, count in _inside.items() if count)


@contextlib.contextmanager
def put_right():
    """Puts those right that TensorFlow has wrong.

    Of what is traced inside, where a pass is recorded as well as where its
    backward pass is differentiated. There is no public way: the private hook
    is here.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_replaced(_RESIZING, _bilinear_backward))
        for name in _POOLINGS:
            stack.enter_context(_replaced(name, _pooling))
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
def exact_statistics():
    """Lets normalisations that are traced inside be differentiated twice.

    Keras takes mean and variance by `tf.nn.moments`, which stops the gradient
    of the mean in the variance; there is no way to tell it otherwise. What it
    does for statistics of all replicas, or with a mask, has no such stop.
    """

    def put(exact):
        tf.nn.moments = _moments if exact else _TENSORFLOWS_MOMENTS

    with _until_all_left("moments", put):
        yield


def _moments(x, axes, shift=None, keepdims=False, name=None):
    """Does as `tf.nn.moments`, with all of the gradient."""
    del shift, name  # The former is not used there either.
    values = tf.cast(x, tf.float32) if x.dtype.size < 4 else x
    mean = tf.reduce_mean(values, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(values - mean), axes, keepdims=True)
    found = [tf.cast(moment, x.dtype) for moment in (mean, variance)]
    return found if keepdims else [tf.squeeze(m, axes) for m in found]


@contextlib.contextmanager
def _replaced(name, function):
    """The scope in which a kind of operation has another derivative."""
    entry = ops.gradient_registry._registry[name]

    def put(other):
        entry["type"] = function if other else _TENSORFLOWS[name]

    with _until_all_left(name, put):
        yield


@contextlib.contextmanager
def _until_all_left(name, put):
    """The scope of what holds for the whole process.

    Replicas take turns where they exchange something, so several may be inside
    at once, and scopes within each other as well: the last one that leaves puts
    back what was there.

    Args:
        name: String, what the scope is of.
        put: Function of a boolean: whether to put it in place, or back.
    """
    _inside[name] += 1
    put(True)
    try:
        yield
    finally:
        _inside[name] -= 1
        if not _inside[name]:
            put(False)


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


def _pooling(op, direction):
    images, pooled, _ = op.inputs
    sizes, strides = op.get_attr("ksize"), op.get_attr("strides")
    padding = op.get_attr("padding")
    if max(sizes) == max(strides) == 1:
        return None, None, direction
    if padding == b"SAME" and max(strides) == 1:
        # With edges, as the windows see them, the sizes differ.
        edges = [[(size - 1) // 2, size // 2] for size in sizes]
        images = tf.pad(images, edges, constant_values=images.dtype.min)
        direction = tf.pad(direction, edges)
        padding = b"VALID"
    along = _POOLINGS[op.type](
        orig_input=images,
        orig_output=pooled,
        grad=direction,
        ksize=sizes,
        strides=strides,
        padding=padding,
        data_format=op.get_attr("data_format"),
    )
    return None, None, along


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
