"""What every architecture strategy is: a few verbs on decisions.

DSNAS samples one path a step, lets the loss credit it, and freezes a decision
whose leading candidate is ahead by a margin. Another strategy differs in how
it fills these verbs, never in who calls them.
"""


class Strategy:
    """Base class of the strategies; subclasses implement all verbs.

    Attributes:
        learning_rate: Float, step size of Adam on the decisions' logits.
        warmup: Float, share of all training steps before the logits move;
            the weights of all candidates are trained alike meanwhile.
        until: Float, share of all training steps at which whatever is still
            free is frozen to its most probable candidate.
    """

    learning_rate: float
    warmup: float
    until: float

    def sample(self, logits, uniform):
        """Returns the int32 scalar index of the candidate to run.

        Args:
            logits: float32 tensor of shape `(K,)`.
            uniform: float32 tensor of shape `(K,)` of independent draws
                from (0, 1).
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `sample()`."
        )

    def credit(self, logits, index):
        """Returns a scalar of value 0 whose gradient credits the logits.

        Args:
            logits: float32 tensor of shape `(K,)`.
            index: int32 scalar, the candidate that ran.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `credit()`."
        )

    def harden(self, decisions):
        """Freezes the decisions that are made; returns those it froze.

        Args:
            decisions: List of `keras_dha.Decision`.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `harden()`."
        )

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `get_config()`."
        )
