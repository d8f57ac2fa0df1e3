"""DHA's estimator, as its official code has it.

With a_i the sub-policy of image i, p its probability and L_i the training
loss, a constant,

    J = mean_i -L_i p(a_i),
    dJ / d theta_k = -mean_i L_i p(a_i) (1[a_i = k] - p_k)

is minimised, by SGD. It is the gradient of the probability and not of its
logarithm, so it is no unbiased estimate of the gradient of any mean loss: of
all sub-policies it is that of

    -1/2 sum_k L_k p_k^2

which falls most where all of p is on one of them, be the losses as they may.
What keeps a policy from there is that steps are small. Of S sub-policies, near
even p, growth is about L / S^2 a step and unit of the rate, and 5e-4 of weight
decay is more than that for the 196 of the paper. So by published numbers the
policy stays about even, and what it is worth is that of random pairs; it is
here for comparison. Magnitudes, flips and shifts are not learned.

Reference:
    Zhou et al., DHA: End-to-End Joint Optimization of Data Augmentation
    Policy, Hyper-parameter and Architecture, 2021, and its code.
"""

import keras
import tensorflow as tf

from keras_dha.augmentation import choices as policies
from keras_dha.augmentation.estimators.estimator import Estimator
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.update_rules import SGD


@keras.saving.register_keras_serializable("keras_dha")
class DHA(Estimator):
    """Training loss times the gradient of the probability.

    Args:
        adversarial: Whether sub-policies of high losses become likely, as in
            the code of the paper. If not, p tends to be as 1 / L.
        learning_rate: Float, that of SGD on the logits.
        momentum: Float in [0, 1), Nesterov's.
        weight_decay: Float, how strongly logits are drawn to where they began.

    Raises:
        ValueError: A number out of its domain.

    Example:

    >>> layer = keras_dha.DifferentiableAugmentation(
    ...     length=2,
    ...     estimator=keras_dha.augmentation.estimators.DHA(learning_rate=0.2),
    ... )
    """

    has_own_step = True

    def __init__(
        self,
        adversarial=True,
        learning_rate=0.02,
        momentum=0.9,
        weight_decay=5e-4,
    ):
        if not (learning_rate > 0 and 0 <= momentum < 1 and weight_decay >= 0):
            raise ValueError(
                "`learning_rate` must be positive, `momentum` in [0, 1), "
                "`weight_decay` at least 0. Received: "
                f"learning_rate={learning_rate}, momentum={momentum}, "
                f"weight_decay={weight_decay}"
            )
        self.adversarial = adversarial
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay

    def gradient(self, layer, choices, evidence, state):
        distribution = layer.distribution
        logits = distribution.logits()
        p = tf.gather(tf.nn.softmax(logits.sub_policy), choices.sub_policy)
        sign = 1.0 if self.adversarial else -1.0
        score = policies.score_gradient(
            distribution.space,
            logits,
            choices,
            sign * evidence.losses * p / evidence.count,
        )
        still = policies.Logits(*map(tf.zeros_like, score))
        return still._replace(sub_policy=score.sub_policy), state

    def step(self, values, start, gradient, state):
        count = state.count + 1.0
        # Decay draws to where they began, not to 0.
        at = Inputs(
            weights=values - start,
            slots=(state.first,),
            gradient=-gradient,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
        )
        extent = Extent(decayed=1.0, active=None, sizes=[], count=count)
        moved = SGD(nesterov=True).step(at, extent)
        (velocity,) = moved.slots
        return start + moved.weights, state._replace(
            first=velocity, count=count
        )

    def get_config(self):
        return {
            "adversarial": self.adversarial,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }
