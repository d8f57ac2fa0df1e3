"""DHA's estimator, as its official code has it.

With a_i the sub-policy of image i, p its probability and L_i the training
loss, a constant,

    J = mean_i -L_i p(a_i),
    dJ / d theta_k = -mean_i L_i p(a_i) (1[a_i = k] - p_k)

is minimised: sub-policies become likely if their training loss is *high*. It
is the gradient of the probability and not of its logarithm, so it is no
unbiased estimate of the gradient of any mean loss; it is here for comparison.
Magnitudes, flips and shifts are not learned.

Reference:
    Zhou et al., DHA: End-to-End Joint Optimization of Data Augmentation
    Policy, Hyper-parameter and Architecture, 2021, and its code. There SGD
    moves the logits, here the optimizer of all estimators, Adam, whose steps
    hardly show how small the p(a_i) are.
"""

import keras
import tensorflow as tf

from keras_dha.augmentation import choices as policies
from keras_dha.augmentation.estimators.estimator import Estimator


@keras.saving.register_keras_serializable("keras_dha")
class DHA(Estimator):
    """Training loss times the gradient of the probability.

    Args:
        adversarial: Whether high losses are sought, as in the code of the
            paper, or low ones.
    """

    def __init__(self, adversarial=True):
        self.adversarial = adversarial

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

    def get_config(self):
        return {"adversarial": self.adversarial}
