"""The score-function estimator with each image's influence as its reward.

With r_i = <v, grad_w L_i(w)> the influence of image i on the search loss, v
that loss' gradient, a step of size eta changes the search loss by -eta mean_i
r_i, to first order, so

    d E[L_S] / d theta = -eta E[ mean_i (r_i - b) d log p(choice_i) / d theta ]

for any baseline b that does not depend on choice_i. It is unbiased, needs no
derivative of an image operation, and credits each image by itself.

Where images are mixed, that of i shows some of its partner's pixels, and r_i
depends on the partner's choice as well. It is credited to choice_i alone: the
rest of the gradient, at most as much again, is left out, as it would bring in
the reward of another image whole, however small its share.

Reference:
    Williams, Simple statistical gradient-following algorithms for
    connectionist reinforcement learning, 1992; influence as in
    `keras_dha.joint_step`.
"""

import keras

from keras_dha.augmentation import choices as policies
from keras_dha.augmentation.estimators.estimator import Estimator


@keras.saving.register_keras_serializable("keras_dha")
class Influence(Estimator):
    """Rewards times the gradient of the log-probability."""

    def gradient(self, layer, choices, evidence, state):
        distribution = layer.distribution
        score = policies.score_gradient(
            distribution.space,
            distribution.logits(),
            choices,
            evidence.rewards / evidence.count,
        )
        return score, state
