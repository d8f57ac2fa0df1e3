"""The policy of a layer as variables: what can be learned, and its verbs."""

import keras
import numpy as np
import tensorflow as tf

from keras_dha.augmentation import choices as policies
from keras_dha.augmentation.policy import Policy


class Distribution:
    """A policy whose logits are variables of a layer.

    Args:
        layer: The `keras.layers.Layer` that gets the variables.
        policy: `Policy` to start from.
        clean: Share of the images that stay as they are.
    """

    def __init__(self, layer, policy, clean):
        self.start = policy
        self.space = policies.space_of(policy, clean)
        # As initial values, not by `assign`: a layer that is built inside a
        # traced function would otherwise be reset by each call of it.
        self.variables = policies.Logits(
            *(
                self._logits(layer, name, value) if value.size else None
                for name, value in policies.logits_of(policy)._asdict().items()
            )
        )

    def _logits(self, layer, name, value):
        return layer.add_weight(
            shape=value.shape,
            initializer=keras.initializers.Constant(value),
            dtype="float32",
            autocast=False,
            name=f"{name}_logits",
            trainable=True,
        )

    @property
    def length(self):
        """The number N of steps of a sub-policy."""
        return self.space.steps.shape[1]

    def logits(self):
        """Returns the `Logits` as they are now."""
        return policies.Logits(
            *(
                tf.zeros([0]) if v is None else tf.convert_to_tensor(v)
                for v in self.variables
            )
        )

    def used(self, logits):
        """Returns those of a `Logits` that belong to variables, a list."""
        return [
            value
            for variable, value in zip(self.variables, logits, strict=True)
            if variable is not None
        ]

    def fill(self, values):
        """Returns a list as `used` gives it as a `Logits` again."""
        values = iter(values)
        return policies.Logits(
            *(
                tf.zeros([0]) if variable is None else next(values)
                for variable in self.variables
            )
        )

    def sample(self, batch_size, seed, clean=None):
        """Draws `Choices`; see `choices.sample`."""
        return policies.sample(
            self.space, self.logits(), batch_size, seed, clean
        )

    def log_prob(self, choices, clean=None):
        """Returns log-probabilities `[n]`; see `choices.log_prob`."""
        return policies.log_prob(self.space, self.logits(), choices, clean)

    def score_gradient(self, choices, rewards):
        """Returns gradients of the variables, a list."""
        return self.used(
            policies.score_gradient(self.space, self.logits(), choices, rewards)
        )

    def policy(self):
        """Returns the current `Policy`."""
        logits, start = self.logits(), self.start
        flip, shift = _sigmoid(logits.base)
        mixed = _softmax(logits.mixer)[1:] if start.mixers else ()
        return Policy(
            operations=start.operations,
            probabilities=_softmax(logits.sub_policy),
            magnitudes=start.magnitudes,
            level_probabilities=_softmax(logits.magnitude),
            sub_policies=start.sub_policies,
            application=start.application and _sigmoid(logits.application),
            flip=None if start.flip is None else flip,
            shift=None if start.shift is None else shift,
            **dict(zip(start.mixers, mixed, strict=True)),
        )

    def set_policy(self, policy):
        """Sets the variables to a policy of the same space."""
        fixed = ("operations", "magnitudes", "steps", "mixers")
        used = ("flip", "shift", "application")
        same = (
            isinstance(policy, Policy)
            and all(
                getattr(policy, name) == getattr(self.start, name)
                for name in fixed
            )
            and all(
                (getattr(policy, name) is None)
                == (getattr(self.start, name) is None)
                for name in used
            )
        )
        if not same:
            raise ValueError(
                "Expected a `Policy` with the layer's operations, magnitudes "
                "and sub-policies, and with application, flip, shift, mixup "
                f"and cutmix used where the layer's are: {self.start}. "
                f"Received: policy={policy}"
            )
        values = policies.logits_of(policy)
        for variable, value in zip(self.variables, values, strict=True):
            if variable is not None:
                variable.assign(value)


def _sigmoid(logits):
    logits = logits.numpy().astype("float64")
    return tuple((1.0 / (1.0 + np.exp(-logits))).tolist())


def _softmax(logits):
    logits = logits.numpy().astype("float64")
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
