"""The two-level derivative: how the search loss depends on the architecture.

With L_T and L_S the training and the search loss, and the inner step
w'(a) = w - eta (momentum b + grad_w L_T(w, a) + decay w) where `active`:

    d/da L_S(w'(a), a) = grad_a L_S(w', a) - eta d/da <grad_w L_T(w, a), v>
    v                  = active * grad_w L_S(w', a)

exactly, for only grad_w L_T depends on a in w' (Liu et al., ICLR 2019, eq. 6
and 7). The last term is one more derivative of the backward pass that gave
grad_w L_T, in the direction v; finite differences are not needed.
"""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_dha.nested_layers import find_layers


def mixed_term(tape, gradient, parameters, direction):
    """Returns d/da <grad_w L_T(w, a), eta v>, one flat vector.

    Args:
        tape: `tf.GradientTape` that recorded how `gradient` came about.
        gradient: grad_w L_T, a tensor `(P,)`.
        parameters: List of the architecture's variables a.
        direction: eta v, a tensor `(P,)`.
    """
    parts = tape.gradient(
        gradient,
        parameters,
        output_gradients=direction,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return tf.concat(parts, axis=0)


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


def check_second_derivatives(network, asked, instead):
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
