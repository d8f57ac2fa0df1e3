"""The distribution over augmentations: sampling, likelihood, gradient.

For each image an operation is drawn, then a magnitude level given the
operation, and independently whether to flip and whether to shift. The
distribution is a softmax for each of the first two and a sigmoid for each of
the others, so the gradient of its log-likelihood has a closed form: what was
chosen minus how probable it was.

References:
    Williams, Simple statistical gradient-following algorithms for
    connectionist reinforcement learning, 1992.
"""

import typing

import numpy as np
import tensorflow as tf

# A probability of 0 has no logit; one in ten million is next to never.
LEAST_PROBABILITY = 1e-7


class Choices(typing.NamedTuple):
    """What was drawn from the policy for each image of a batch.

    Attributes:
        operation: int32 tensor of shape `[n]`, index of the operation.
        level: int32 tensor of shape `[n]`, index of the magnitude level.
        flip: bool tensor of shape `[n]`, whether the image is mirrored.
        shift: bool tensor of shape `[n]`, whether the image is shifted.
    """

    operation: tf.Tensor
    level: tf.Tensor
    flip: tf.Tensor
    shift: tf.Tensor


class Logits(typing.NamedTuple):
    """The parameters of the distribution.

    Attributes:
        operation: float32 of shape `[K]`, softmax logits of the operations.
        magnitude: float32 of shape `[K, L]`, softmax logits of the levels of
            each operation.
        base: float32 of shape `[2]`, sigmoid logits of flip and shift.
        base_used: float32 of shape `[2]`, 1 where flip or shift is used at
            all and 0 where it never happens and nothing is learned.
    """

    operation: tf.Tensor
    magnitude: tf.Tensor
    base: tf.Tensor
    base_used: tf.Tensor


def logits_of(policy):
    """Returns the logits of a policy.

    Softmax logits are centred, so that a uniform policy is all zeros.

    Args:
        policy: `keras_dha.augmentation.policy.Policy`.

    Returns:
        `Logits` of float64 NumPy arrays.
    """
    logs = [
        np.log(np.maximum(probabilities, LEAST_PROBABILITY))
        for probabilities in (policy.probabilities, policy.level_probabilities)
    ]
    operation, magnitude = (
        values - values.mean(axis=-1, keepdims=True) for values in logs
    )
    base = (policy.flip, policy.shift)
    used = np.array([float(p is not None) for p in base])
    base = np.array([0.5 if p is None else p for p in base])
    base = base.clip(LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return Logits(operation, magnitude, np.log(base / (1.0 - base)), used)


def sample(logits, batch_size, seed):
    """Draws choices for a batch.

    Args:
        logits: `Logits`.
        batch_size: Number of images n, integer or scalar tensor.
        seed: int32 tensor of shape `[2]`; the result is a function of it and
            of the logits.

    Returns:
        `Choices`.
    """
    uniform = tf.random.stateless_uniform([batch_size, 4], seed)
    operation = _inverse_cdf(
        tf.nn.softmax(logits.operation)[None], uniform[:, :1]
    )
    levels = tf.gather(tf.nn.softmax(logits.magnitude), operation)
    level = _inverse_cdf(levels, uniform[:, 1:2])
    base = uniform[:, 2:] < logits.base_used * tf.sigmoid(logits.base)
    return Choices(operation, level, base[:, 0], base[:, 1])


def log_prob(logits, choices):
    """Returns the log-probability of each image's choices.

    Args:
        logits: `Logits`.
        choices: `Choices` of n images.

    Returns:
        float32 tensor of shape `[n]`, differentiable in the logits.
    """
    operation = tf.nn.log_softmax(logits.operation)
    levels = tf.nn.log_softmax(logits.magnitude)
    pairs = tf.stack([choices.operation, choices.level], axis=1)
    base = tf.where(
        _base(choices) > 0.0,
        tf.math.log_sigmoid(logits.base),
        tf.math.log_sigmoid(-logits.base),
    )
    return (
        tf.gather(operation, choices.operation)
        + tf.gather_nd(levels, pairs)
        + tf.reduce_sum(logits.base_used * base, axis=1)
    )


def score_gradient(logits, choices, rewards):
    """Returns `sum_i rewards[i] * d log_prob(choices[i]) / d logits`.

    Args:
        logits: `Logits`.
        choices: `Choices` of n images.
        rewards: float32 tensor of shape `[n]`.

    Returns:
        The gradients of `logits.operation`, `.magnitude` and `.base`.
    """
    count, levels = logits.magnitude.shape
    # credit[k, l] is what the images that drew (k, l) earned together. The
    # gradient of a softmax is the credit minus its share of all the credit.
    pair = choices.operation * levels + choices.level
    credit = tf.math.unsorted_segment_sum(rewards, pair, count * levels)
    credit = tf.reshape(credit, [count, levels])
    earned = tf.reduce_sum(credit, axis=1)
    total = tf.reduce_sum(rewards)
    operation = earned - total * tf.nn.softmax(logits.operation)
    magnitude = credit - earned[:, None] * tf.nn.softmax(logits.magnitude)
    surprise = _base(choices) - tf.sigmoid(logits.base)
    base = tf.linalg.matvec(surprise, rewards, transpose_a=True)
    return operation, magnitude, logits.base_used * base


def _base(choices):
    return tf.cast(tf.stack([choices.flip, choices.shift], 1), tf.float32)


def _inverse_cdf(probabilities, uniform):
    # The last entry is left out: rounding might leave it short of 1.
    cumulative = tf.cumsum(probabilities, axis=1)[:, :-1]
    return tf.reduce_sum(tf.cast(uniform >= cumulative, tf.int32), axis=1)
