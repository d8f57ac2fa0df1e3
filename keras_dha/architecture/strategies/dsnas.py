"""DSNAS: one sampled path a step, credited by the loss itself.

With Z the sampled one-hot vector, whose entry 1 multiplies the output y of
the candidate that ran, and p = softmax(logits):

    R = dL/dZ = <dL/dy, y>            the path's credit, by the same backward
    dL/dlogits = R * (onehot - p)     descended along: a score function whose
                                      cost is the first-order Taylor credit

(Hu et al., CVPR 2020, eq. 8 and 10.) It is the zero-temperature limit of the
Gumbel-softmax gradient: low in variance, not unbiased.

The weights are to be kept, so steps on paths that are not are lost. With an
`exploration` below 1 what runs is drawn from

    q = exploration * p + (1 - exploration) * onehot(what leads)

and credits have the importance weight p/q, so that of each decision, whatever
the others run, their mean is the one under p.
"""

import keras
from keras import ops

from keras_dha.architecture.strategies.strategy import Strategy
from keras_dha.architecture.strategies.strategy import pick


@keras.saving.register_keras_serializable("keras_dha")
class DSNAS(Strategy):
    """Direct search: samples single paths and hardens them progressively.

    Only the sampled candidate runs; of a `keras_dha.NodeChoice` one on each
    edge. Where a choice's output goes straight into a convolution with batch
    normalisation, its scale does not change the loss and the credit
    vanishes; let choices be the branches of residual connections, as all are
    in `keras_dha.spaces.resnet`. In `mobile` and `shufflenet` those of stages
    of one block are not.

    Args:
        learning_rate: Float, step size of Adam on the logits.
        margin: Float in (0, 1]. A decision freezes when what it keeps leads
            the rest by this much; `None`: at the end of the search only.
        warmup: Float in [0, 1), share of all steps before logits move.
        until: Float in (warmup, 1], share of all steps by which every
            decision is frozen.
        exploration: Float in (0, 1], how often a decision draws what runs
            once the logits move; else it runs what leads. 1 as in the paper.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=keras_dha.strategies.DSNAS(margin=0.5)
    ... )

    Reference:
        Hu et al., "DSNAS: Direct Neural Architecture Search without
        Parameter Retraining", CVPR 2020.
    """

    def __init__(
        self,
        learning_rate=0.05,
        margin=0.3,
        warmup=0.05,
        until=0.2,
        exploration=1.0,
    ):
        super().__init__(learning_rate, margin, warmup, until)
        if not 0 < exploration <= 1:
            raise ValueError(
                "`exploration` must be in (0, 1]. "
                f"Received: exploration={exploration}"
            )
        self.exploration = exploration

    def sample(self, decision, uniform):
        # One draw an edge, by the distribution function of q. Where the edge
        # is not kept, what leads is one past the last: nothing runs.
        draw, leading = decision.table(uniform)[:, :1], decision.indices(False)
        shares = self._shares(decision, leading)
        passed = draw >= ops.cumsum(shares[:, :-1], axis=-1)
        # The shares of all but nothing may sum to a little less than 1.
        last = ops.maximum(leading, decision.operations - 1)
        return ops.minimum(ops.sum(ops.cast(passed, "int32"), axis=-1), last)

    def factors(self, decision):
        index = ops.reshape(decision.sampled, (decision.edges,))
        drawn = pick(ops.softmax(decision.table(decision.logits)), index)
        # Of p/q with q held, the gradient is p/q times that of log p.
        # Where nothing runs and is never drawn, both are 0.
        shares = self._shares(decision, decision.indices(False))
        share = ops.stop_gradient(pick(shares, index))
        weight = ops.divide_no_nan(drawn, share)
        return 1.0 + (weight - ops.stop_gradient(weight))

    def _shares(self, decision, leading):
        """Returns q, `(edges, operations + 1)`; the last one is of nothing.

        Args:
            decision: `keras_dha.Decision`.
            leading: int32 tensor `(edges,)`, the operations that lead.
        """
        drawn = ops.softmax(decision.table(decision.logits))
        is_warmup = ops.convert_to_tensor(self.progress, "float32") <= 0
        share = ops.cast(
            ops.where(is_warmup, 1.0, self.exploration), drawn.dtype
        )
        leading = ops.one_hot(
            leading, decision.operations + 1, dtype=drawn.dtype
        )
        return share * ops.pad(drawn, ((0, 0), (0, 1))) + (1 - share) * leading

    def get_config(self):
        return {**super().get_config(), "exploration": self.exploration}
