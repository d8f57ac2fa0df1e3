"""RELAX: the score function with a learned control variate.

With b the sub-policy drawn, z its noisy logits, z~ noisy logits drawn anew
given b, f the reward and c a small network of a relaxed sample,

    g = (f - c(z~)) d log p(b) + d c(z) - d c(z~)        (d by the logits)

is unbiased whatever c is: the expected last two terms undo what c takes from
the first. c is trained to make g small, by the gradient of mean |g|^2.

It stands for the choice of sub-policy; the rest learns by `influence`.

References:
    Grathwohl et al., Backpropagation through the void: Optimizing control
    variates for black-box gradient estimation, 2018; Li et al., DADA:
    Differentiable Automatic Data Augmentation, 2020, section 3.3.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_dha.augmentation import choices as policies
from keras_dha.augmentation.estimators import gumbel
from keras_dha.augmentation.estimators.estimator import Estimator
from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam


@keras.saving.register_keras_serializable("keras_dha")
class Relax(Estimator):
    """Score function and control variate.

    Args:
        temperature: Float, of the relaxed samples that c sees.
        hidden: Integer, hidden units of c.
        rate: Float, step size of Adam on c.
    """

    def __init__(self, temperature=0.5, hidden=16, rate=0.01):
        for name, value in (
            *(("temperature", temperature), ("hidden", hidden)),
            ("rate", rate),
        ):
            if not value > 0:
                raise ValueError(
                    f"`{name}` must be positive. Received: {name}={value}"
                )
        self.temperature = temperature
        self.hidden = hidden
        self.rate = rate

    def initial_state(self, layer):
        options = layer.distribution.space.steps.shape[0]
        # With no output weights c is 0: the start is the score function.
        inner = np.random.default_rng(0).normal(
            size=(options + 1) * self.hidden, scale=1.0 / math.sqrt(options)
        )
        parameters = np.concatenate([inner, np.zeros(self.hidden + 1)])
        return {
            "parameters": parameters,
            "first": np.zeros_like(parameters),
            "second": np.zeros_like(parameters),
            "count": np.zeros([]),
        }

    def gradient(self, layer, choices, evidence, state):
        distribution = layer.distribution
        logits = distribution.logits()
        score = policies.score_gradient(
            distribution.space,
            logits,
            choices,
            evidence.rewards / evidence.count,
        )
        active = tf.where(choices.clean, 0.0, 1.0) / evidence.count
        parameters = state["parameters"]
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            each = self.per_image(
                *(logits.sub_policy, choices.sub_policy, evidence.rewards),
                *(parameters, evidence.noise),
            )
            size = tf.reduce_sum(active[:, None] * tf.square(each))
        moved, adam_state = adam(
            parameters,
            evidence.total(tape.gradient(size, parameters)),
            AdamState(state["first"], state["second"], state["count"]),
            self.rate,
        )
        mean = tf.reduce_sum(active[:, None] * each, axis=0)
        state = {"parameters": moved, **adam_state._asdict()}
        return score._replace(sub_policy=mean), state

    def per_image(self, logits, chosen, rewards, parameters, noise):
        """Returns g for each image, `[n, S]`.

        Args:
            logits: float32 tensor of shape `[S]`.
            chosen: int32 tensor of shape `[n]`, b.
            rewards: float32 tensor of shape `[n]`, f.
            parameters: Flat vector of c's parameters.
            noise: `gumbel.Noise`.
        """
        log_p = tf.nn.log_softmax(logits)[None]
        p = tf.exp(log_p)
        shape = [tf.shape(chosen)[0], logits.shape[0]]
        draws = [noise.uniform(use, shape) for use in (0, 1)]
        z = gumbel.conditional(log_p, chosen, draws[0])
        z_anew = gumbel.conditional(log_p, chosen, draws[1])
        _, slope = self._control(z, parameters)
        control, slope_anew = self._control(z_anew, parameters)
        picked = tf.one_hot(chosen, shape[1])
        # z = log p + g: derivative 1. z~ = -log(e / p + e_b) off the choice:
        # derivative (e / p) / (e / p + e_b), by log p; none at the choice.
        arrival = -tf.math.log(draws[1]) / p
        anew = (1.0 - picked) * arrival * tf.exp(z_anew)
        by_log_p = slope - anew * slope_anew
        to_logits = by_log_p - p * tf.reduce_sum(by_log_p, 1, keepdims=True)
        return (rewards - control)[:, None] * (picked - p) + to_logits

    def _control(self, z, parameters):
        """Returns c `[n]` and its derivative by z `[n, S]`."""
        options = z.shape[1]
        inner, bias, outer, constant = tf.split(
            parameters, [options * self.hidden, self.hidden, self.hidden, 1]
        )
        inner = tf.reshape(inner, [options, self.hidden])
        soft = tf.nn.softmax(z / self.temperature)
        hidden = tf.tanh(tf.matmul(soft, inner) + bias)
        value = tf.linalg.matvec(hidden, outer) + constant
        by_soft = tf.matmul(
            (1.0 - tf.square(hidden)) * outer, inner, transpose_b=True
        )
        mean = tf.reduce_sum(soft * by_soft, axis=1, keepdims=True)
        return value, soft * (by_soft - mean) / self.temperature

    def get_config(self):
        return {
            "temperature": self.temperature,
            "hidden": self.hidden,
            "rate": self.rate,
        }
