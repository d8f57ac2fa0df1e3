"""The architecture of a run: all its decisions, sampled and updated at once.

The strategy says what one decision runs and how it is credited; here what is
learned of all of them is one vector, which Adam moves along the credit.
"""

import keras
from keras import ops

from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam


class LearnedArchitecture(keras.layers.Layer):
    """The decisions of a network in search.

    Args:
        decisions: List of `keras_dha.Decision`, with A parameters in all.
        strategy: `keras_dha.strategies` object, or `None` to search nothing:
            decisions then run their most probable candidate.
        seed: Integer, for what the strategy draws once and for all.
        target: `target.Target` that the network must meet, or `None`.
        **kwargs: Base layer arguments.

    Attributes:
        prices: float32 variable `(A,)`, what candidates cost beside the loss
            that they lead to, in its units; zeros unless assigned.
        progress: float32 scalar variable, the share of the search that is
            done. It stays at 0 during the warm-up.
        strategy: A copy of the strategy that reads the progress.
    """

    def __init__(self, decisions, strategy, seed=0, target=None, **kwargs):
        super().__init__(**kwargs)
        self.decisions = decisions
        self.target = target
        self.progress = self._zeros("progress")
        self.strategy = strategy and strategy.bound(self.progress)
        for k, decision in enumerate(decisions):
            decision.strategy = self.strategy
            if strategy is not None:
                strategy.prepare(decision, (seed, k))
                _check_operations(decision)
        self.sizes = [int(d.parameter.shape[0]) for d in decisions]
        self.rate = self._zeros("rate")
        self.first = self._zeros("first", (sum(self.sizes),))
        self.second = self._zeros("second", (sum(self.sizes),))
        self.count = self._zeros("count")
        self.prices = self._zeros("prices", (sum(self.sizes),))
        self.built = True

    def _zeros(self, name, shape=()):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            dtype="float32",
            trainable=False,
        )

    @property
    def is_searched(self):
        """Whether there is anything to decide, and a strategy to do it."""
        return bool(self.decisions) and self.strategy is not None

    @property
    def is_bilevel(self):
        """Whether decisions follow the search loss."""
        return self.is_searched and self.strategy.is_bilevel

    @property
    def is_rewarded(self):
        """Whether decisions follow the reward of temporary weights."""
        return self.is_searched and self.strategy.is_rewarded

    @property
    def is_one_level(self):
        """Whether decisions follow the training loss."""
        return self.is_searched and not self.strategy.follows_search_split

    @property
    def is_second_order(self):
        """Whether the inner step is differentiated by the architecture."""
        return self.is_bilevel and self.strategy.order == 2

    def parameters(self):
        """Returns the variables that move, in the order of the credit."""
        return [d.parameter.value for d in self.decisions]

    def rest(self):
        """Goes back to before the search, which a new run begins with."""
        self.rate.assign(0.0)
        self.progress.assign(0.0)

    def start(self):
        """Ends the warm-up: from here on the architecture moves."""
        # Not asked for first: a device would be waited for.
        self.rate.assign(self.strategy.learning_rate)

    @property
    def can_be_priced(self):
        """Whether each step runs one candidate of every decision.

        And the architecture follows the training loss, in whose units
        prices are.
        """
        return (
            self.is_one_level
            and not self.strategy.mixes
            and all(d.edges == 1 and d.code is None for d in self.decisions)
        )

    def is_moving(self):
        """Returns whether the warm-up is over, a boolean scalar."""
        if not self.is_searched:
            return False
        return ops.convert_to_tensor(self.rate) > 0

    def advance_to(self, progress):
        """Tells the strategy how much of the search is done.

        Args:
            progress: Float; it counts as within [0, 1].
        """
        self.progress.assign(min(max(progress, 0.0), 1.0))

    def sample(self, draw):
        """Puts a path into the decisions, the same on every replica.

        Args:
            draw: Function of (number of a decision, its number of
                candidates) that returns uniform draws of that shape.
        """
        for k, decision in enumerate(self.decisions):
            if self.strategy is None:
                decision.take(decision.indices(training=False))
                continue
            uniform = draw(k, decision.num_candidates)
            decision.drawn.assign(uniform)
            decision.take(self.strategy.sample(decision, uniform))

    def update(self, credit):
        """Moves what is learned of free decisions against the credit.

        Args:
            credit: Gradient of all parameters, shape `(A,)`.
        """
        if not self.is_searched:
            return
        values = ops.concatenate(
            [ops.convert_to_tensor(d.parameter) for d in self.decisions]
        )
        free = ops.concatenate(
            [
                ops.repeat(ops.cast(d.is_free(), "float32"), size)
                for d, size in zip(self.decisions, self.sizes, strict=True)
            ]
        )
        credit = ops.cast(credit, "float32")
        if self.target is not None:
            credit += self.target.gradient(values)
        if self.strategy.is_penalized:
            credit += ops.concatenate(
                [self.strategy.penalty_gradient(d) for d in self.decisions]
            )
        if self.can_be_priced:
            credit += self._price_gradient(values)
        moved, state = adam(
            values,
            credit,
            AdamState.of(self),
            free * ops.convert_to_tensor(self.rate),
        )
        state.keep_in(self)
        begin = 0
        for decision, size in zip(self.decisions, self.sizes, strict=True):
            decision.parameter.assign(moved[begin : begin + size])
            begin += size

    def _price_gradient(self, values):
        """Returns the gradient of the expected price by all logits."""
        gradient, begin = [], 0
        for size in self.sizes:
            share = ops.softmax(values[begin : begin + size])
            prices = self.prices[begin : begin + size]
            gradient.append(share * (prices - ops.sum(share * prices)))
            begin += size
        return ops.concatenate(gradient)

    def follow_reward(self, advantage):
        """Moves the logits along the score of what is sampled.

        Args:
            advantage: Scalar, the reward of the sample less the baseline.
        """
        if self.is_rewarded:
            scores = [self.strategy.score(d) for d in self.decisions]
            advantage = ops.cast(advantage, "float32")
            self.update(-advantage * ops.concatenate(scores))

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


def _check_operations(decision):
    """Refuses a choice among inputs alone, by strategies that see none.

    Probabilities are of the operations on an edge, and of one operation 1.
    """
    is_of_inputs = decision.operations == 1 and decision.keep < decision.edges
    if is_of_inputs and decision.code is None:
        raise ValueError(
            "Which inputs a `NodeChoice` keeps is learned by the operations on "
            "each: give each a second one, as one of zeros with `none=`, or "
            "search by `keras_dha.strategies.ISTA`. "
            f"Received: {decision.name!r} with one operation on each of "
            f"{decision.edges} inputs"
        )
