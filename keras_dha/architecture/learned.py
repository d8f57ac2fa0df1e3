"""The architecture of a run: all its decisions, sampled and updated at once.

The strategy says how one decision is sampled and credited; here the logits of
all of them are one vector, which Adam moves along the credit.
"""

import keras
from keras import ops

from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam


class LearnedArchitecture(keras.layers.Layer):
    """The decisions of a network in search.

    Args:
        decisions: List of `keras_dha.Decision`, A logits in all.
        strategy: `keras_dha.strategies` object, or `None` to search nothing:
            decisions then run their most probable candidate.
        target: `target.Target` that the network must meet, or `None`.
        **kwargs: Base layer arguments.
    """

    def __init__(self, decisions, strategy, target=None, **kwargs):
        super().__init__(**kwargs)
        self.decisions = decisions
        self.strategy = strategy
        self.target = target
        for decision in decisions:
            decision.strategy = strategy
        self.sizes = [d.num_candidates for d in decisions]
        self.rate = self._zeros("rate")
        self.first = self._zeros("first", (sum(self.sizes),))
        self.second = self._zeros("second", (sum(self.sizes),))
        self.count = self._zeros("count")
        self.built = True

    def _zeros(self, name, shape=()):
        return self.add_weight(
            name=name, shape=shape, initializer="zeros", trainable=False
        )

    @property
    def is_searched(self):
        """Whether there is anything to decide, and a strategy to do it."""
        return bool(self.decisions) and self.strategy is not None

    def start(self):
        """Ends the warm-up: from here on the logits move."""
        if not float(self.rate.numpy()):
            self.rate.assign(self.strategy.learning_rate)

    def sample(self, draw):
        """Puts a path into the decisions, the same on every replica.

        Args:
            draw: Function of (number of a decision, its number of
                candidates) that returns uniform draws of that shape.
        """
        for k, decision in enumerate(self.decisions):
            if self.strategy is None:
                index = decision.index(training=False)
            else:
                logits = ops.convert_to_tensor(decision.logits)
                drawn = self.strategy.sample(
                    logits, draw(k, decision.num_candidates)
                )
                chosen = ops.convert_to_tensor(decision.chosen)
                index = ops.where(chosen < 0, drawn, chosen)
            decision.sampled.assign(index)

    def update(self, credit):
        """Moves the logits of free decisions against the credit.

        Args:
            credit: Gradient of all logits, shape `(A,)`.
        """
        if not self.is_searched:
            return
        logits = ops.concatenate(
            [ops.convert_to_tensor(d.logits) for d in self.decisions]
        )
        free = ops.concatenate(
            [
                ops.repeat(
                    ops.cast(ops.convert_to_tensor(d.chosen) < 0, "float32"),
                    d.num_candidates,
                )
                for d in self.decisions
            ]
        )
        if self.target is not None:
            credit = ops.cast(credit, "float32")
            credit += self.target.gradient(logits)
        moved, state = adam(
            logits,
            ops.cast(credit, "float32"),
            AdamState(
                ops.convert_to_tensor(self.first),
                ops.convert_to_tensor(self.second),
                ops.convert_to_tensor(self.count),
            ),
            free * ops.convert_to_tensor(self.rate),
        )
        self.first.assign(state.first)
        self.second.assign(state.second)
        self.count.assign(state.count)
        begin = 0
        for decision, size in zip(self.decisions, self.sizes, strict=True):
            decision.logits.assign(moved[begin : begin + size])
            begin += size

    def harden(self):
        """Freezes the decisions that are made; returns those it froze.

        While the expected cost is above the target all of them wait: what
        leads now may lead for its price only, which need not be paid once
        the others are cheaper.
        """
        if self.target is not None and self.target.is_exceeded():
            return []
        return self.strategy.harden(self.decisions)

    def decide(self):
        """Freezes what is free yet, within the target if there is one."""
        if self.is_searched and self.target is not None:
            self.target.decide()
        for decision in self.decisions:
            if not decision.is_frozen:
                decision.freeze()
