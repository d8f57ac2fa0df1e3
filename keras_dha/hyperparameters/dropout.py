"""Dropout whose rate can be learned: a mask that has a derivative by it.

A Bernoulli mask jumps; the concrete one comes near it and moves smoothly with
the rate p. With u uniform in (0, 1) and a temperature t,

    z = sigmoid((log (1 - p) - log p + log u - log (1 - u)) / t)
    y = x z / (1 - p)

(Gal, Hron & Kendall, "Concrete dropout", NeurIPS 2017, with t = 0.1.)
"""

import keras
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

    The derivative is exact where no normalisation layer comes behind it:
    TensorFlow's moments stop a part of the second derivative.

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
        rate = own.current(RATE) if training else None
        if rate is None:
            return super().call(inputs, training=training)
        rate = ops.cast(rate, inputs.dtype)
        mask = self._mask(ops.shape(inputs), rate, inputs.dtype)
        return inputs * mask / (1.0 - rate)

    def _mask(self, shape, rate, dtype):
        if self.noise_shape is not None:
            shape = tuple(
                given if fixed is None else fixed
                for given, fixed in zip(shape, self.noise_shape, strict=True)
            )
        drawn = keras.random.uniform(
            shape, 1e-6, 1.0 - 1e-6, dtype=dtype, seed=self.seed_generator
        )
        logit = ops.log(1.0 - rate) - ops.log(rate)
        noise = ops.log(drawn) - ops.log(1.0 - drawn)
        return ops.sigmoid((logit + noise) / _TEMPERATURE)
