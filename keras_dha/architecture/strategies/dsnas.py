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
from keras import ops

from keras_dha.architecture.strategies.strategy import SinglePath
from keras_dha.architecture.strategies.strategy import pick


@keras.saving.register_keras_serializable("keras_dha")
class DSNAS(SinglePath):
    """Direct search: samples single paths and hardens them progressively.

    Only the sampled candidate runs; of a `keras_dha.NodeChoice` one on each
    edge. Where a choice's output goes straight into a convolution with batch
    normalisation, its scale does not change the loss and the credit
    vanishes; let choices be the branches of residual connections, as
    `keras_dha.spaces` does.

    Args:
        learning_rate: Float, step size of Adam on the logits.
        margin: Float in (0, 1]. A decision freezes when what it keeps leads
            the rest by this much; `None`: at the end of the search only.
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
        super().__init__(learning_rate, margin, warmup, until)

    def credit(self, logits, index, uniform):
        del uniform
        log_probability = pick(ops.log_softmax(logits), index)
        return log_probability - ops.stop_gradient(log_probability)
