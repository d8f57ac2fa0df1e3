"""Dropout whose rate can be learned: a mask that has a derivative by it.

A Bernoulli mask jumps; the concrete one comes near it and moves smoothly with
the rate p. With u uniform in (0, 1) and a temperature t,

    z = sigmoid((log (1 - p) - log p + log u - log (1 - u)) / t)
    y = x z / (1 - p)

(Gal, Hron & Kendall, "Concrete dropout", NeurIPS 2017, with t = 0.1.)
"""

import keras
import tensorflow as tf
from keras import ops

from keras_dha.hyperparameters import own

RATE = "dropout_rate"
_TEMPERATURE = 0.1


@keras.saving.register_keras_serializable("keras_dha")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` whose rate a run may learn.

    A run with `hyperparameters={"dropout_rate": ...}` trains all layers of
    this class with that rate; everywhere else it is a plain `Dropout`, and
    in `AutoModel.export_model` a stock one with the rate found.

    What a run judges by drops nothing here: the search loss and the reward of
    a temporary step. They run layers as in training all the same, for the
    statistics of their batch, so stock layers that act in training only, as
    `keras.layers.Dropout` and the `Random...` ones, act there too. Several
    replicas drop together what one device would.

    Args:
        rate: Float in (0, 1), the rate where none is learned.
        noise_shape: As in `keras.layers.Dropout`.
        seed: Integer, or `None`.
        **kwargs: Base layer arguments.

    Example:

    >>> x = keras_dha.Dropout(0.2)(x)
    >>> keras_dha.AutoModel(
    ...     space, hyperparameters={"dropout_rate": keras_dha.Range(0.05, 0.6)}
    ... )
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        if not 0 < rate < 1:
            raise ValueError(
                f"`rate` must be in (0, 1). Received: rate={rate!r}"
            )
        super().__init__(rate, noise_shape=noise_shape, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        if not training or own.is_judging():
            return inputs
        rate = own.current(RATE)
        if rate is None:
            return self._dropped(inputs)
        rate = ops.cast(rate, inputs.dtype)
        return inputs * self._mask(inputs, rate) / (1.0 - rate)

    def _dropped(self, inputs):
        """Drops as `keras.layers.Dropout` does, this replica's share."""
        shape, part = _of_all_replicas(inputs, self.noise_shape)
        if part is None:
            return super().call(inputs, training=True)
        return inputs * part(super().call(ops.ones(shape, inputs.dtype), True))

    def _mask(self, inputs, rate):
        shape, part = _of_all_replicas(inputs, self.noise_shape)
        if self.noise_shape is not None:
            shape = tuple(
                given if fixed is None else fixed
                for given, fixed in zip(shape, self.noise_shape, strict=True)
            )
        drawn = keras.random.uniform(
            shape,
            1e-6,
            1.0 - 1e-6,
            dtype=inputs.dtype,
            seed=self.seed_generator,
        )
        if part is not None:
            drawn = part(drawn)
        logit = ops.log(1.0 - rate) - ops.log(rate)
        noise = ops.log(drawn) - ops.log(1.0 - drawn)
        return ops.sigmoid((logit + noise) / _TEMPERATURE)


def _of_all_replicas(inputs, noise_shape):
    """Returns the shape of the global batch and what takes a replica's part.

    Replicas have the same seeds: each draws for all and takes its part, so
    that together they drop what one device would.

    Args:
        inputs: Tensor `(n, ...)` of this replica.
        noise_shape: As in `keras.layers.Dropout`; a number in the first place
            is what replicas share.

    Returns:
        (shape, function of a tensor that was drawn). The function is `None`
        where the shape is that of the inputs.
    """
    shape = tuple(ops.shape(inputs))
    # There is none where a network is built for several replicas.
    context = tf.distribute.get_replica_context()
    is_shared = noise_shape is not None and noise_shape[0] is not None
    if context is None or context.num_replicas_in_sync == 1 or is_shared:
        return shape, None
    count = shape[0]
    begin = context.replica_id_in_sync_group * count
    whole = (context.num_replicas_in_sync * count, *shape[1:])
    return whole, lambda drawn: drawn[begin : begin + count]
