"""DSNAS: one sampled path a step, credited by the loss itself.

With Z the sampled one-hot vector, whose entry 1 multiplies the output y of
the candidate that ran, and p = softmax(logits):

    R = dL/dZ = <dL/dy, y>            the path's credit, by the same backward
    dL/dlogits = R * (onehot - p)     descended along: a score function whose
                                      cost is the first-order Taylor credit

(Hu et al., CVPR 2020, eq. 8 and 10.) It is the zero-temperature limit of the
Gumbel-softmax gradient: low in variance, not unbiased.
"""

import keras
import numpy as np
from keras import ops

from keras_dha.architecture.strategies.strategy import Strategy


@keras.saving.register_keras_serializable("keras_dha")
class DSNAS(Strategy):
    """Direct search: samples single paths and hardens them progressively.

    Only the sampled candidate runs. Where a choice's output goes straight
    into a convolution with batch normalisation, its scale does not change
    the loss and the credit vanishes; let choices be the branches of residual
    connections, as `keras_dha.spaces` does.

    Args:
        learning_rate: Float, step size of Adam on the logits.
        margin: Float in (0, 1]. A decision freezes when its most probable
            candidate leads the second by this much.
        warmup: Float in [0, 1), share of all steps before logits move.
        until: Float in (warmup, 1], share of all steps by which every
            decision is frozen.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=keras_dha.strategies.DSNAS(margin=0.5)
    ... )

    Reference:
        Hu et al., "DSNAS: Direct Neural Architecture Search without
        Parameter Retraining", CVPR 2020.
    """

    def __init__(self, learning_rate=0.05, margin=0.3, warmup=0.05, until=0.2):
        if learning_rate <= 0:
            raise ValueError(
                "`learning_rate` must be positive. "
                f"Received: learning_rate={learning_rate}"
            )
        if not 0 < margin <= 1:
            raise ValueError(
                f"`margin` must be in (0, 1]. Received: margin={margin}"
            )
        if not 0 <= warmup < until <= 1:
            raise ValueError(
                "`warmup` and `until` must satisfy 0 <= warmup < until <= 1. "
                f"Received: warmup={warmup}, until={until}"
            )
        self.learning_rate = learning_rate
        self.margin = margin
        self.warmup = warmup
        self.until = until

    def sample(self, logits, uniform):
        # The largest of logits plus Gumbel noise is a draw of the softmax.
        gumbel = -ops.log(-ops.log(uniform))
        return ops.cast(ops.argmax(logits + gumbel), "int32")

    def credit(self, logits, index):
        log_probability = ops.take(ops.log_softmax(logits), index)
        return log_probability - ops.stop_gradient(log_probability)

    def harden(self, decisions):
        hardened = []
        for decision in decisions:
            if decision.is_frozen:
                continue
            second, first = np.sort(decision.probabilities())[-2:]
            if first - second >= self.margin:
                decision.freeze()
                hardened.append(decision)
        return hardened

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "margin": self.margin,
            "warmup": self.warmup,
            "until": self.until,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the strategy that `get_config` described."""
        return cls(**config)
