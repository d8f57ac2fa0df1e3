"""What every architecture strategy is: a few verbs on decisions.

A strategy says how many candidates of a decision run: single ones, which it
samples and gives factors, or all of them, which it gives coefficients. And it
says when a decision is made. Strategies differ in how they fill these verbs,
never in who calls them.
"""

import copy

from keras import ops


class Strategy:
    """Base class of the strategies.

    A subclass whose `mixes` is false implements `sample` and `factors`, the
    others `coefficients`.

    Args:
        learning_rate: Float, step size of Adam on what is learned of the
            decisions.
        margin: Float in (0, 1]. A decision freezes when what it keeps leads
            the rest by this much; `None`: at the end of the search only.
        warmup: Float in [0, 1), share of all training steps before the
            logits move; the weights of all candidates are trained alike
            meanwhile.
        until: Float in (warmup, 1], share of all training steps at which
            whatever is still free is frozen.

    Attributes:
        mixes: Whether all candidates run in training, weighted.
        is_bilevel: Whether decisions follow the search loss rather than the
            training loss.
        order: 2 if the derivative of the inner step is part of what they
            follow there.
        is_rewarded: Whether decisions follow the reward of temporary weights
            rather than a gradient; then it implements `score`.
        reward: The kind of that reward, `"accuracy"` or `"loss"`.
        is_penalized: Whether something is added to the loss that decisions
            follow; then it implements `penalty_gradient`.
        rests_scales: Whether scale and offset of a normalisation that a
            candidate ends in rest while its decision is free: else they could
            undo a weight of the candidate, which is to say what it is worth.
        progress: Share of the search that is done, in [0, 1].
    """

    mixes = False
    is_bilevel = False
    order = 1
    is_rewarded = False
    reward = "accuracy"
    is_penalized = False
    rests_scales = False
    progress = 0.0

    def __init__(self, learning_rate, margin, warmup, until):
        if not learning_rate > 0:
            raise ValueError(
                "`learning_rate` must be positive. "
                f"Received: learning_rate={learning_rate}"
            )
        if margin is not None and not 0 < margin <= 1:
            raise ValueError(
                "`margin` must be in (0, 1], or None to freeze at the end of "
                f"the search. Received: margin={margin}"
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

    @property
    def follows_search_split(self):
        """Whether decisions move on steps that see the search split alone."""
        return self.is_bilevel or self.is_rewarded

    def bound(self, progress):
        """Returns a copy that reads the progress of a search.

        Args:
            progress: float32 scalar variable; a strategy itself has no
                state and may serve several searches.
        """
        ours = copy.copy(self)
        ours.progress = progress
        return ours

    def prepare(self, decision, seed):
        """Gives a decision what this strategy keeps there; by default nothing.

        Args:
            decision: `keras_dha.Decision`.
            seed: Integer or tuple of integers, for what is drawn once and
                for all.
        """
        del decision, seed

    def sample(self, decision, uniform):
        """Returns the operations to run, int32 `(edges,)`.

        Args:
            decision: `keras_dha.Decision`.
            uniform: float32 tensor of independent draws from (0, 1), one
                for each option.
        """
        if self.mixes:
            # All run in training; where one does, it is what leads.
            return decision.indices(training=False)
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `sample()`."
        )

    def factors(self, decision):
        """Returns the factors of the sampled operations, `(edges,)`.

        Args:
            decision: `keras_dha.Decision`.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `factors()`."
        )

    def coefficients(self, logits):
        """Returns the weights of a mixture of all operations.

        Args:
            logits: float32 tensor of shape `(edges, operations)`, as the
                result.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `coefficients()`."
        )

    def score(self, decision):
        """Returns the gradient of log p of what is sampled, `(K,)`.

        Args:
            decision: `keras_dha.Decision`.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `score()`."
        )

    def penalty_gradient(self, decision):
        """Returns the gradient of what is added to the loss, `(K,)`.

        Args:
            decision: `keras_dha.Decision`.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `penalty_gradient()`."
        )

    def harden(self, decisions):
        """Freezes the decisions that are made; returns those it froze.

        Args:
            decisions: List of `keras_dha.Decision`.
        """
        if self.margin is None:
            return []
        made = [
            d
            for d in decisions
            if not d.is_frozen and d.margin() >= self.margin
        ]
        for decision in made:
            decision.freeze()
        return made

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
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


class SinglePath(Strategy):
    """Base class of the strategies that sample one operation an edge.

    Subclasses implement `credit`.
    """

    def sample(self, decision, uniform):
        logits = decision.table(decision.logits)
        # The largest of logits plus Gumbel noise is a draw of the softmax.
        perturbed = logits + gumbel(decision.table(uniform))
        return ops.cast(ops.argmax(perturbed, axis=-1), "int32")

    def factors(self, decision):
        return 1.0 + self.credit(
            decision.table(decision.logits),
            ops.reshape(decision.sampled, (decision.edges,)),
            decision.table(decision.drawn),
        )

    def credit(self, logits, index, uniform):
        """Returns values of 0 whose gradient credits the logits.

        Args:
            logits: float32 tensor of shape `(edges, operations)`.
            index: int32 tensor `(edges,)`, the operations that ran.
            uniform: float32 tensor like `logits`, the draws they were
                sampled by.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `credit()`."
        )


def gumbel(uniform):
    """Returns standard Gumbel noise from uniform draws in (0, 1)."""
    return -ops.log(-ops.log(uniform))


def pick(values, index):
    """Returns the value at an index of the last axis, 0 past its end."""
    chosen = ops.one_hot(index, values.shape[-1], dtype=values.dtype)
    return ops.sum(chosen * values, axis=-1)
