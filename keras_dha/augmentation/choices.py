"""The distribution over augmentations: sampling, likelihood, gradient.

For each image a sub-policy is drawn; for each of its N steps whether it is
carried out and at which magnitude level; and independently whether to flip,
to shift, and to mix with another image. Every one of these is a softmax or a
sigmoid, so the gradient of the log-likelihood has a closed form: what was
chosen minus how probable it was.

A given share of the images stays clean. With share c the mean training loss
is at least c times the mean loss on clean images, so however far a policy
goes, it cannot raise the latter beyond 1/c times the former.

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
        sub_policy: int32 tensor of shape `[n]`, index of the sub-policy.
        level: int32 tensor of shape `[n, N]`, index of each step's magnitude.
        applied: bool tensor of shape `[n, N]`, whether the step is done.
        flip: bool tensor of shape `[n]`, whether the image is mirrored.
        shift: bool tensor of shape `[n]`, whether the image is shifted.
        mixer: int32 tensor of shape `[n]`, 0 for an image that is not mixed,
            else 1 + the index of the mixer.
        mix_level: int32 tensor of shape `[n]`, index of its strength.
        clean: bool tensor of shape `[n]`, whether nothing at all is done to
            the image, whatever else was drawn.
    """

    sub_policy: tf.Tensor
    level: tf.Tensor
    applied: tf.Tensor
    flip: tf.Tensor
    shift: tf.Tensor
    mixer: tf.Tensor
    mix_level: tf.Tensor
    clean: tf.Tensor


class Logits(typing.NamedTuple):
    """The parameters of the distribution; what is not used has length 0.

    Attributes:
        sub_policy: float32 of shape `[S]`, softmax logits of the sub-policies.
        magnitude: float32 of shape `[R + M, L]`, softmax logits of the levels
            of each step, then of each mixer.
        base: float32 of shape `[2]`, sigmoid logits of flip and shift.
        application: float32 of shape `[R]` or `[0]`, sigmoid logits of
            carrying a step out; always if `[0]`.
        mixer: float32 of shape `[1 + M]` or `[0]`, softmax logits of not
            mixing and of each mixer.
    """

    sub_policy: tf.Tensor
    magnitude: tf.Tensor
    base: tf.Tensor
    application: tf.Tensor
    mixer: tf.Tensor


class Space(typing.NamedTuple):
    """What of a policy is not learned.

    Attributes:
        steps: int32 array of shape `[S, N]`, the steps of each sub-policy.
        base_used: float32 array of shape `[2]`, 1 where flip or shift is used
            at all and 0 where it never happens and nothing is learned.
        clean: Float in [0, 1), share of images that nothing is done to.
    """

    steps: np.ndarray
    base_used: np.ndarray
    clean: float = 0.0


def space_of(policy, clean=0.0):
    """Returns the `Space` of a policy."""
    used = [policy.flip is not None, policy.shift is not None]
    return Space(
        np.array(policy.steps, "int32"), np.array(used, "float32"), clean
    )


def logits_of(policy):
    """Returns the logits of a policy.

    Softmax logits are centred, so that a uniform policy is all zeros.

    Args:
        policy: `keras_dha.augmentation.policy.Policy`.

    Returns:
        `Logits` of float64 NumPy arrays.
    """
    base = [0.5 if p is None else p for p in (policy.flip, policy.shift)]
    mixed = [getattr(policy, name) for name in policy.mixers]
    mixed = [1.0 - sum(mixed), *mixed] if mixed else []
    return Logits(
        _softmax_logits(policy.probabilities),
        _softmax_logits(policy.level_probabilities),
        _sigmoid_logits(base),
        _sigmoid_logits(policy.application or []),
        _softmax_logits(mixed),
    )


def _softmax_logits(probabilities):
    logs = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    return logs - logs.mean(axis=-1, keepdims=True) if logs.size else logs


def _sigmoid_logits(probabilities):
    p = np.clip(probabilities, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return np.log(p / (1.0 - p))


def sample(space, logits, batch_size, seed, clean=None):
    """Draws choices for a batch.

    Args:
        space: `Space`.
        logits: `Logits`.
        batch_size: Number of images n, integer or scalar tensor.
        seed: int32 tensor of shape `[2]`; the result is a function of it and
            of the logits.
        clean: Share of images that nothing is done to, number or scalar
            tensor; `None` for the space's. With more of it the others' choices
            stay what they were.

    Returns:
        `Choices`.
    """
    length = space.steps.shape[1]
    uniform = tf.random.stateless_uniform([batch_size, 6 + 2 * length], seed)
    single = uniform[:, :6]
    per_step = tf.reshape(uniform[:, 6:], [batch_size, length, 2])
    sub_policy = tf.searchsorted(
        # The last entry is left out: rounding might leave it short of 1.
        tf.cumsum(tf.nn.softmax(logits.sub_policy))[:-1],
        single[:, 0],
        side="right",
    )
    step = tf.gather(tf.constant(space.steps), sub_policy)
    levels = tf.nn.softmax(logits.magnitude)
    level = _inverse_cdf(tf.gather(levels, step), per_step[..., :1])
    applied = tf.fill([batch_size, length], True)
    if logits.application.shape[0]:
        chance = tf.gather(tf.sigmoid(logits.application), step)
        applied = per_step[..., 1] < chance
    base = single[:, 1:3] < space.base_used * tf.sigmoid(logits.base)
    mixer = mix_level = tf.zeros([batch_size], tf.int32)
    if logits.mixer.shape[0]:
        mixer = _inverse_cdf(tf.nn.softmax(logits.mixer)[None], single[:, 3:4])
        strength = tf.gather(levels, _mix_row(logits, mixer))
        mix_level = _inverse_cdf(strength, single[:, 4:5])
    clean = single[:, 5] < (space.clean if clean is None else clean)
    return Choices(
        *(sub_policy, level, applied, base[:, 0], base[:, 1]),
        *(mixer, mix_level, clean),
    )


def log_prob(space, logits, choices, clean=None):
    """Returns the log-probability of each image's choices.

    The level of a step that was left out, the strength of no mixing, and
    whatever was drawn for a clean image, do not count: nothing depends on it.

    Args:
        space: `Space`.
        logits: `Logits`.
        choices: `Choices` of n images.
        clean: As `sample` took it.

    Returns:
        float32 tensor of shape `[n]`, differentiable in the logits.
    """
    step = tf.gather(tf.constant(space.steps), choices.sub_policy)
    applied = tf.cast(choices.applied, tf.float32)
    levels = tf.nn.log_softmax(logits.magnitude)
    level = tf.gather_nd(levels, tf.stack([step, choices.level], axis=2))
    total = tf.gather(tf.nn.log_softmax(logits.sub_policy), choices.sub_policy)
    total += tf.reduce_sum(applied * level, axis=1)
    base = _bernoulli_log_prob(logits.base, _base(choices))
    total += tf.reduce_sum(space.base_used * base, axis=1)
    if logits.application.shape[0]:
        chance = tf.gather(logits.application, step)
        total += tf.reduce_sum(_bernoulli_log_prob(chance, applied), axis=1)
    if logits.mixer.shape[0]:
        total += tf.gather(tf.nn.log_softmax(logits.mixer), choices.mixer)
        place = [_mix_row(logits, choices.mixer), choices.mix_level]
        strength = tf.gather_nd(levels, tf.stack(place, axis=1))
        total += tf.where(choices.mixer > 0, strength, 0.0)
    clean = tf.cast(space.clean if clean is None else clean, tf.float32)
    total += tf.math.log1p(-clean)
    return tf.where(choices.clean, tf.math.log(clean), total)


def score_gradient(space, logits, choices, rewards):
    """Returns `sum_i rewards[i] * d log_prob(choices[i]) / d logits`.

    Args:
        space: `Space`.
        logits: `Logits`.
        choices: `Choices` of n images.
        rewards: float32 tensor of shape `[n]`.

    Returns:
        `Logits` of gradients.
    """
    rewards = tf.where(choices.clean, 0.0, rewards)
    step = tf.gather(tf.constant(space.steps), choices.sub_policy)
    applied = tf.cast(choices.applied, tf.float32)
    # One entry for each step that was done, then one for each image mixed.
    row, level = tf.reshape(step, [-1]), tf.reshape(choices.level, [-1])
    credit = tf.reshape(rewards[:, None] * applied, [-1])
    mixer = tf.zeros([0])
    if logits.mixer.shape[0]:
        mixer = _softmax_score(logits.mixer, choices.mixer, rewards)
        row = tf.concat([row, _mix_row(logits, choices.mixer)], 0)
        level = tf.concat([level, choices.mix_level], 0)
        mixed = tf.where(choices.mixer > 0, rewards, 0.0)
        credit = tf.concat([credit, mixed], 0)
    application = tf.zeros([0])
    if logits.application.shape[0]:
        surprise = applied - tf.gather(tf.sigmoid(logits.application), step)
        application = tf.math.unsorted_segment_sum(
            rewards[:, None] * surprise, step, logits.application.shape[0]
        )
    surprise = _base(choices) - tf.sigmoid(logits.base)
    base = tf.linalg.matvec(surprise, rewards, transpose_a=True)
    return Logits(
        _softmax_score(logits.sub_policy, choices.sub_policy, rewards),
        _level_score(logits.magnitude, row, level, credit),
        space.base_used * base,
        application,
        mixer,
    )


def _softmax_score(logits, chosen, rewards):
    # What each choice earned, minus its share of all that was earned.
    earned = tf.math.unsorted_segment_sum(rewards, chosen, logits.shape[0])
    return earned - tf.reduce_sum(rewards) * tf.nn.softmax(logits)


def _level_score(logits, row, level, credit):
    rows, levels = logits.shape
    earned = tf.math.unsorted_segment_sum(
        credit, row * levels + level, rows * levels
    )
    earned = tf.reshape(earned, [rows, levels])
    total = tf.reduce_sum(earned, axis=1, keepdims=True)
    return earned - total * tf.nn.softmax(logits)


def _mix_row(logits, mixer):
    # Mixers come last; where nothing is mixed any row of theirs will do.
    steps = logits.magnitude.shape[0] - (logits.mixer.shape[0] - 1)
    return steps + tf.maximum(mixer - 1, 0)


def _base(choices):
    return tf.cast(tf.stack([choices.flip, choices.shift], 1), tf.float32)


def _bernoulli_log_prob(logits, drawn):
    return tf.where(
        drawn > 0.0, tf.math.log_sigmoid(logits), tf.math.log_sigmoid(-logits)
    )


def _inverse_cdf(probabilities, uniform):
    # The last entry is left out: rounding might leave it short of 1.
    cumulative = tf.cumsum(probabilities, axis=-1)[..., :-1]
    return tf.reduce_sum(tf.cast(uniform >= cumulative, tf.int32), axis=-1)
