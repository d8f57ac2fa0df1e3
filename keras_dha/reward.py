"""Rewards: how well temporary weights do on the search split.

What is sampled, an architecture and values of hyperparameters, gets one
reward r, and every quantity theta that it was sampled by moves along

    (r - baseline) grad log p(sample; theta)

a score function (Williams, REINFORCE, 1992). The baseline is a moving average
of the rewards *before* this one, so it does not know the sample, and the mean
over samples is the gradient of the expected reward.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_dha import data
from keras_dha.inner_update import average

REWARDS = ("accuracy", "loss")
# What the baseline keeps from one reward to the next.
_MEMORY = 0.9


def checked(reward):
    """Returns the name of a reward, or refuses it."""
    if reward not in REWARDS:
        raise ValueError(
            f"`reward` must be one of {REWARDS}. Received: reward={reward!r}"
        )
    return reward


class Reward(keras.layers.Layer):
    """The reward of a run and its moving baseline.

    Args:
        kind: `"accuracy"`, or `"loss"` for the search loss with its sign
            turned; both by the weights of classes, if there are any.
        dtype: Name of the dtype of its state.
        **kwargs: Base layer arguments.
    """

    def __init__(self, kind="accuracy", dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.kind = checked(kind)
        self.average = self._zero("average", dtype)
        self.count = self._zero("count", dtype)
        self.built = True

    def _zero(self, name, dtype):
        return self.add_weight(
            name=name,
            shape=(),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
        )

    def of_each(self, loss, labels, predictions):
        """Returns the reward of each example, shape `(n,)`.

        Args:
            loss: `losses.OutputLosses`.
            labels: Integers `(n,)` or `(n, 1)`, or one-hot `(n, classes)`.
            predictions: Tensor `(n, classes)`; of several outputs a structure
                of them, and so are the labels.
        """
        if self.kind == "loss":
            each = -loss.call(labels, predictions)
        else:
            each = self._are_right(labels, predictions)
            each = loss.by_class(each, labels)
        return tf.cast(each, self.average.dtype)

    def _are_right(self, labels, predictions):
        """Returns the share of its outputs that is right for each example."""
        found = []
        for truth, given in zip(
            keras.tree.flatten(labels),
            keras.tree.flatten(predictions),
            strict=True,
        ):
            guessed = tf.argmax(given, axis=-1, output_type="int32")
            right = guessed == data.class_ids(truth)
            found.append(tf.cast(right, self.average.dtype))
        return tf.add_n(found) / len(found)

    def advantage(self, reward):
        """Returns `reward` less the baseline, which then moves towards it.

        0 for the first one, which has nothing to be compared with.
        """
        # Not those of Keras, which would be read once they have moved.
        count = tf.convert_to_tensor(self.count)
        before = tf.convert_to_tensor(self.average)
        weight = 1.0 - ops.power(ops.cast(_MEMORY, count.dtype), count)
        baseline = before / ops.maximum(weight, 1e-6)
        self.average.assign(average(before, reward, _MEMORY))
        self.count.assign(count + 1.0)
        return ops.where(count > 0, reward - baseline, ops.zeros_like(reward))
