"""The policy of a run: its logits, moved along what its choices were worth.

With r_i the influence of image i on the search loss and choice_i what was
drawn for it, the policy ascends

    mean_i (r_i - mean r) / std r * grad log p(choice_i)

A baseline and a unit scale: only which image helped more than others counts
(Williams, REINFORCE, 1992; influence as in `keras_dha.joint_step`).
"""

import keras
import numpy as np
import tensorflow as tf

from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam


class LearnedPolicy(keras.layers.Layer):
    """An augmentation layer in training.

    Args:
        augmentation: Built `DifferentiableAugmentation`, Q logits in all, or
            `None` for no augmentation.
        rate: Float, step size of Adam on the logits.
        **kwargs: Base layer arguments.
    """

    def __init__(self, augmentation, rate, **kwargs):
        super().__init__(**kwargs)
        self.augmentation = augmentation
        self.rate = rate
        size = sum(int(np.prod(v.shape)) for v in self._logits())
        self.first = self._zeros("first", (size,))
        self.second = self._zeros("second", (size,))
        self.count = self._zeros("count")
        self.built = True

    def _zeros(self, name, shape=()):
        return self.add_weight(
            name=name, shape=shape, initializer="zeros", trainable=False
        )

    def _logits(self):
        if self.augmentation is None:
            return []
        return self.augmentation.trainable_variables

    @property
    def is_learned(self):
        """Whether there is a policy, and it may change."""
        return bool(self._logits())

    def state_variables(self):
        """Returns the variables of the update rule."""
        return [self.first, self.second, self.count]

    def augment(self, images, seeds, replica=0, replicas=1):
        """Draws for each image of this replica what happens to it, and does it.

        Drawn for the global batch, of which each replica takes its part: what
        happens to an image does not depend on how many replicas there are.

        Args:
            images: Tensor `(n, h, w)` or `(n, h, w, c)`.
            seeds: Pair of int32 tensors of shape `(2,)`, for the policy's
                choices and for what the policy leaves open.
            replica, replicas: Which part of how many this one is.

        Returns:
            (choices, augmented images); (`None`, images) without a layer.
        """
        layer = self.augmentation
        if layer is None:
            return None, images
        size = images.shape[0] or tf.shape(images)[0]
        begin = replica * size
        choices, draws = tf.nest.map_structure(
            lambda drawn: drawn[begin : begin + size],
            (
                layer.sample(replicas * size, seeds[0]),
                layer.draw(replicas * size, seeds[1]),
            ),
        )
        if images.shape.rank == 4:
            return choices, layer.transform(images, choices, draws)
        augmented = layer.transform(images[..., None], choices, draws)
        return choices, augmented[..., 0]

    def update(self, choices, influence, total):
        """Moves the logits towards choices that lowered the search loss.

        Args:
            choices: `Choices` of this replica's images.
            influence: Tensor `(n,)`, theirs.
            total: Function that sums a tensor over all replicas.
        """
        influence = tf.cast(influence, "float32")
        count, first, second = tf.unstack(
            total(
                tf.stack(
                    [
                        tf.cast(tf.size(influence), "float32"),
                        tf.reduce_sum(influence),
                        tf.reduce_sum(tf.square(influence)),
                    ]
                )
            )
        )
        mean = first / count
        deviation = tf.sqrt(tf.maximum(second / count - mean**2, 0.0))
        rewards = (influence - mean) / (deviation + 1e-12) / count
        score = self.augmentation.score_gradient(choices, rewards)
        logits = self._logits()
        moved, state = adam(
            _flat(logits),
            -total(_flat(score)),
            AdamState(*(v.value for v in self.state_variables())),
            self.rate,
        )
        for variable, value in zip(self.state_variables(), state, strict=True):
            variable.assign(value)
        parts = tf.split(moved, [int(np.prod(v.shape)) for v in logits])
        for variable, part in zip(logits, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))


def _flat(tensors):
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)
