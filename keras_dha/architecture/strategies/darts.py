"""DARTS: a mixture of all candidates, and a problem of two levels.

    output of an edge  = sum_o softmax(logits)_o y_o
    w' = w - eta u,  u = momentum b + grad_w L_T(w, a) + decay w
    a  moved against  d/da L_S(w'(a), a)

(Liu et al., ICLR 2019, eq. 2, 5 and 6.) Only grad_w L_T depends on a in w', so

    d/da L_S(w'(a), a) = grad_a L_S(w', a) - eta d/da <grad_w L_T(w, a), v>
    v                  = grad_w L_S(w', a)

exactly (eq. 7). The last term is one more derivative of the backward pass that
gave grad_w L_T, in the direction v; finite differences are not needed. The step
that takes it is the joint one.

Mixed with others, an operation without weights trains the weights around it
best, so the logits run after skip connections, and what is derived is nothing
but these. Beta decay adds to L_S

    beta t sum_e log sum_o exp(logits_eo),    t from 0 to 1 over the search

whose gradient beta t softmax(logits) holds back what leads and leaves alone
what trails (Ye et al., CVPR 2022).
"""

import keras
from keras import ops

from keras_dha.architecture.strategies.strategy import Strategy


@keras.saving.register_keras_serializable("keras_dha")
class DARTS(Strategy):
    """Differentiable search: all candidates run, weighted by a softmax.

    The weights follow the training loss, the logits the search loss, on the
    steps that see the search split (`outer_every` of
    `keras_dha.AutoModel`, 8 by default; 1 as in the paper). A step costs as
    much as all candidates together. Scale and offset of a normalisation that a
    candidate ends in rest while its decision is free, as in the paper.

    Args:
        learning_rate: Float, step size of Adam on the logits.
        order: 1: the weights count as constant. 2: the derivative of the
            inner step is taken as well, exactly.
        margin: Float in (0, 1]. A decision freezes when what it keeps leads
            the rest by this much; `None`: at the end of the search only, as
            in the paper. A frozen decision goes on running all candidates,
            those not chosen with weight 0, until the network is derived.
        warmup: Float in [0, 1), share of all steps before logits move.
        until: Float in (warmup, 1], share of all steps by which every
            decision is frozen.
        beta_decay: Float of at least 0, what beta decay is weighted by at the
            end of the search, in units of the loss. 0, as in the paper of
            DARTS, goes without; where the search ends in skip connections,
            try 0.5 to 1, and a `search_split` of a half as in the paper.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=keras_dha.strategies.DARTS(order=2), outer_every=1
    ... )

    References:
        - Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019.
        - Ye et al., "beta-DARTS: Beta-Decay Regularization for Differentiable
          Architecture Search", CVPR 2022.
    """

    mixes = True
    is_bilevel = True
    rests_scales = True

    def __init__(
        self,
        learning_rate=0.05,
        order=1,
        margin=None,
        warmup=0.05,
        until=0.5,
        beta_decay=0.0,
    ):
        super().__init__(learning_rate, margin, warmup, until)
        if order not in (1, 2):
            raise ValueError(f"`order` must be 1 or 2. Received: order={order}")
        if not beta_decay >= 0:
            raise ValueError(
                "`beta_decay` must be at least 0. "
                f"Received: beta_decay={beta_decay}"
            )
        self.order = order
        self.beta_decay = beta_decay

    @property
    def is_penalized(self):
        return self.beta_decay > 0

    def coefficients(self, logits):
        return ops.softmax(logits)

    def penalty_gradient(self, decision):
        progress = ops.convert_to_tensor(self.progress, "float32")
        shares = ops.softmax(decision.table(decision.logits))
        return self.beta_decay * progress * ops.reshape(shares, (-1,))

    def get_config(self):
        return {
            **super().get_config(),
            "order": self.order,
            "beta_decay": self.beta_decay,
        }
