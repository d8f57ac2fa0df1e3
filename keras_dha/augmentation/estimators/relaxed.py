"""The relaxed estimator: derivatives through the augmented images.

With z the noisy logits of what was drawn and t the temperature,

    m   = sum_l softmax(z / t)_l magnitude_l     each step's magnitude
    w_k = 1 + softmax(z / t)_k - stop_gradient(...)   the sub-policy k drawn
    x~  = B(x) + w_k (B(T_k(x; m)) - B(x))

with B the flip and shift that were drawn. Values are those of the sub-policy
drawn, at a magnitude between the levels; derivatives are those of the
relaxation, of which only the chosen part is computed. A step's chance of
application is a factor of the same form on its magnitude, as magnitude 0
changes nothing. The joint step differentiates <grad_w L_T(w; x~), v> by the
logits: a mixed derivative, with v the gradient of the search loss. Where
operations jump there are `surrogates`.

Flip, shift and mixing have no path; they learn by `influence`.

References:
    Jang et al., Categorical reparameterization with Gumbel-softmax, 2017;
    Dong & Yang, GDAS, 2019: only the chosen part; Hataya et al., Faster
    AutoAugment, 2020: operations with a magnitude; Zhou et al., DHA, 2021.
"""

import keras
import tensorflow as tf

from keras_dha.augmentation.estimators import gumbel
from keras_dha.augmentation.estimators.influence import Influence


@keras.saving.register_keras_serializable("keras_dha")
class Relaxed(Influence):
    """Gumbel-softmax over sub-policies and magnitudes.

    Args:
        temperature: Float, t; lower is less biased and more noisy.
    """

    follows_path = True

    def __init__(self, temperature=0.5):
        if not temperature > 0:
            raise ValueError(
                "`temperature` must be positive. "
                f"Received: temperature={temperature}"
            )
        self.temperature = temperature

    def augment(self, layer, images, choices, draws, noise):
        weight, magnitude = self.relax(layer, choices, noise)
        images = tf.cast(images, weight.dtype)
        augmented = layer.transform(
            images, choices, draws, magnitude, differentiable=True
        )
        # Flipped and shifted by the same kernels, so that what no step has
        # changed is equal to the last digit. Without any steps: of a batch
        # that is split by a constant TensorFlow's graphs mistake the parts.
        base = layer.transform(
            images, choices, draws, differentiable=True, steps=False
        )
        return base + weight[:, None, None, None] * (augmented - base)

    def relax(self, layer, choices, noise):
        """Returns the weights `[n]` and magnitudes `[n, N]`.

        Args:
            layer: `DifferentiableAugmentation`.
            choices: `Choices`.
            noise: `gumbel.Noise`.
        """
        space, logits = layer.distribution.space, layer.distribution.logits()
        steps = tf.gather(tf.constant(space.steps), choices.sub_policy)
        count, length = tf.shape(steps)[0], steps.shape[1]
        z = gumbel.path(
            tf.nn.log_softmax(logits.sub_policy)[None],
            choices.sub_policy,
            noise.uniform(0, [count, logits.sub_policy.shape[0]]),
        )
        soft = tf.nn.softmax(z / self.temperature)
        weight = _through(tf.gather(soft, choices.sub_policy, batch_dims=1))
        levels = tf.constant(layer.magnitudes)
        z = gumbel.path(
            tf.gather(tf.nn.log_softmax(logits.magnitude), steps),
            choices.level,
            noise.uniform(1, [count, length, levels.shape[0]]),
        )
        soft = tf.nn.softmax(z / self.temperature)
        magnitude = tf.linalg.matvec(soft, levels)
        if logits.application.shape[0]:
            z = gumbel.bernoulli_path(
                tf.gather(logits.application, steps),
                choices.applied,
                noise.uniform(2, [count, length]),
            )
            magnitude *= _through(tf.sigmoid(z / self.temperature))
        return weight, magnitude

    def gradient(self, layer, choices, evidence, state):
        score, state = super().gradient(layer, choices, evidence, state)
        followed = layer.distribution.fill(evidence.path)
        rows = score.magnitude.shape[0] - len(layer.mixers)
        return score._replace(
            sub_policy=followed.sub_policy,
            magnitude=tf.concat(
                [followed.magnitude[:rows], score.magnitude[rows:]], axis=0
            ),
            application=followed.application,
        ), state

    def get_config(self):
        return {"temperature": self.temperature}


def _through(soft):
    """1, with the derivative of `soft`."""
    return 1.0 + soft - tf.stop_gradient(soft)
