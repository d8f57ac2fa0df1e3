"""Batch normalisation in one kernel: the same numbers in less time.

Keras writes batch normalisation out as mean, variance, scale and shift, each a
pass over the images, and as many again for every derivative. TensorFlow has
one kernel for all of it. On a processor a small residual network takes a fifth
to a third less time for a step with it (`benchmarks.normalization`).
"""

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("keras_dha")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` that trains by one fused kernel.

    Weights, results and derivatives are those of the base class, whose
    arguments it takes. The kernel is for float32 and half precision, images
    of shape `(n, h, w, c)`, and statistics of one replica; what is not that,
    and all inference, is done as Keras does it.

    Unlike that of Keras, the second derivative is right by itself: TensorFlow's
    moments stop a part of it (`keras_dha.second_derivatives`).

    Example:

    >>> x = keras_dha.FusedBatchNormalization()(x)
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable and self._fits(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        channels = self.moving_mean.shape
        # The kernel's variance is the population's, where Keras keeps that of
        # the batch; so it is handed a population's, and hands one back.
        whole = _population_factor(inputs)
        follows = {}
        if self.momentum > 0.0:
            follows = {
                "mean": _single(self.moving_mean),
                "variance": _single(self.moving_variance) * whole,
                "exponential_avg_factor": 1.0 - self.momentum,
            }
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            ops.ones(channels) if self.gamma is None else _single(self.gamma),
            ops.zeros(channels) if self.beta is None else _single(self.beta),
            epsilon=self.epsilon,
            is_training=True,
            **follows,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance / whole)
        return y

    def _fits(self, inputs, mask):
        return (
            mask is None
            and not self.synchronized
            # Keras has renormalisation from 3.14 on.
            and not getattr(self, "renorm", False)
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.compute_dtype in ("float32", "float16", "bfloat16")
        )


def _population_factor(images):
    """Returns n / (n - 1) for n values a channel, a number if n is known."""
    count = images.shape[:-1].num_elements()
    if count is not None:
        return count / max(count - 1, 1)
    count = ops.cast(ops.size(images) // images.shape[-1], "float32")
    return count / ops.maximum(count - 1.0, 1.0)


def _single(variable):
    return ops.cast(variable, "float32")
