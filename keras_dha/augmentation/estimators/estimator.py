"""What every estimator of the policy gradient has in common."""

import typing

import tensorflow as tf

from keras_dha.augmentation.estimators.gumbel import Noise


class Evidence(typing.NamedTuple):
    """What a joint step shows about the choices of this replica's images.

    Attributes:
        rewards: float32 tensor of shape `[n]`, the influence of each image,
            less its mean over all replicas and divided by its deviation.
        losses: float32 tensor of shape `[n]`, training losses.
        path: For an estimator that follows the path, the derivative of the
            summed influence by each variable, in the unit of `rewards`;
            else None.
        count: float32 scalar, number of images on all replicas.
        noise: `gumbel.Noise`, the same as `augment` had.
        total: Function that sums a tensor over all replicas.
    """

    rewards: tf.Tensor
    losses: tf.Tensor
    path: list | None
    count: tf.Tensor
    noise: Noise
    total: typing.Callable


class Estimator:
    """How the policy's gradient is estimated.

    Attributes:
        follows_path: Whether the augmented images have a derivative by the
            policy's variables, which the joint step is to take.
        has_own_step: Whether logits move by `step`, and not by the rule that
            others share (`keras_dha.augmentation.learned`).
    """

    follows_path = False
    has_own_step = False

    def augment(self, layer, images, choices, draws, noise):
        """Augments images as chosen.

        Args:
            layer: `DifferentiableAugmentation`.
            images: Tensor of shape `[n, h, w, c]`.
            choices: `Choices`.
            draws: `dispatch.Draws`.
            noise: `gumbel.Noise`, for draws of the estimator.

        Returns:
            Tensor of the shape of `images`.
        """
        del noise
        return layer.transform(images, choices, draws)

    def initial_state(self, layer):
        """Returns what the estimator learns itself, a dict of arrays."""
        del layer
        return {}

    def gradient(self, layer, choices, evidence, state):
        """Returns the direction to move the policy in.

        Args:
            layer: `DifferentiableAugmentation`.
            choices: `Choices` of this replica's images.
            evidence: `Evidence` of them.
            state: Dict of tensors, as `initial_state`.

        Returns:
            (gradients, state): `Logits` to ascend along, this replica's part
            of a mean over all images, and the new state.
        """
        raise NotImplementedError

    def step(self, values, start, gradient, state):
        """Returns where logits go.

        Args:
            values, start: float32 tensors of shape `[Q]`, the logits and what
                they began as.
            gradient: float32 tensor of shape `[Q]`, to ascend along.
            state: `inner_update.AdamState` of what is remembered.

        Returns:
            (values, state) behind the step.
        """
        raise NotImplementedError

    def get_config(self):
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Returns the estimator that `get_config` described."""
        return cls(**config)
