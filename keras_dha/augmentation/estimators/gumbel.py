"""Noise that agrees with what was drawn, for relaxed samples.

A softmax choice b is the argmax of z = log p + g with Gumbel noise g; a
Bernoulli choice is the sign of z = logit + logistic noise. Given b, z can be
drawn from its conditional distribution, which has a closed form. So choices
are sampled without any relaxation, and whoever needs a relaxed sample gets
one that agrees with them.

References:
    Jang et al., Categorical reparameterization with Gumbel-softmax, 2017.
    Tucker et al., REBAR, 2017, appendix C; Grathwohl et al., Backpropagation
    through the void (RELAX), 2018, appendix B.
"""

import typing

import tensorflow as tf

# Uniform draws stay away from 0, whose logarithm is infinite.
LEAST = 1e-6


class Noise(typing.NamedTuple):
    """Where an estimator's own draws come from.

    Attributes:
        seed: int32 tensor of shape `[2]`; the draws are a function of it.
        replica: Which part of a global batch they are for.
        replicas: Of how many.
    """

    seed: tf.Tensor
    replica: int = 0
    replicas: int = 1

    def uniform(self, use, shape):
        """Returns uniform draws that have a logarithm, float32.

        Args:
            use: Integer; each use has draws of its own.
            shape: Their shape; the first axis is this replica's images.
        """
        count, *rest = shape
        seed = tf.random.experimental.stateless_fold_in(self.seed, use)
        draws = tf.random.stateless_uniform(
            [self.replicas * count, *rest],
            seed,
            minval=LEAST,
            maxval=1.0 - LEAST,
        )
        return draws[self.replica * count : (self.replica + 1) * count]


def conditional(log_probabilities, chosen, draws):
    """Returns z given the choice, differentiable in the probabilities.

    Args:
        log_probabilities: Tensor of shape `[..., K]`.
        chosen: int32 tensor of shape `[...]`.
        draws: Tensor of shape `[..., K]` from `Noise.uniform`.

    Returns:
        Tensor of shape `[..., K]`, greatest at `chosen`.
    """
    count = draws.shape[-1]
    exponential = -tf.math.log(draws)
    picked = tf.one_hot(chosen, count, dtype=draws.dtype)
    winner = tf.reduce_sum(picked * exponential, axis=-1, keepdims=True)
    # The others' arrivals come later than the winner's, at their own rates.
    others = exponential * tf.exp(-log_probabilities) + winner
    return -tf.math.log(tf.where(picked > 0.0, winner, others))


def path(log_probabilities, chosen, draws):
    """Returns z = log p + g, with noise g that made this choice.

    Other than in `conditional`, the derivative is that of z with g held: that
    of a sample, not that of a sample given the choice. Arguments as there.
    """
    z = conditional(log_probabilities, chosen, draws)
    return log_probabilities + tf.stop_gradient(z - log_probabilities)


def bernoulli_path(logits, chosen, draws):
    """Returns z = logit + noise with noise that made this choice.

    Args:
        logits: Tensor of any shape.
        chosen: bool tensor of that shape.
        draws: Tensor of that shape from `Noise.uniform`.

    Returns:
        Tensor of that shape, positive where `chosen`.
    """
    p = tf.stop_gradient(tf.sigmoid(logits))
    u = tf.where(chosen, 1.0 - p + draws * p, draws * (1.0 - p))
    u = tf.clip_by_value(u, LEAST, 1.0 - LEAST)
    return logits + tf.math.log(u) - tf.math.log1p(-u)
