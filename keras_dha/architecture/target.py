"""A target: what the network may cost at most, while it is searched and after.

During the search the expected cost E[c] of all free decisions is pulled under
the limit T by a penalty on the logits,

    penalty = weight * sum_c max(0, E[c] / T_c - 1)

whose gradient is added to the strategy's credit. An expectation is no
promise: when the network is derived, the most probable architecture within
all limits is taken, which `keras_dha.architecture.knapsack` finds.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dha.architecture import knapsack
from keras_dha.architecture.cost import FLOPS
from keras_dha.architecture.cost import PARAMS
from keras_dha.architecture.cost import NetworkCost
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.latency import LatencyTable

LATENCY = "latency_ms"
MEASURES = (PARAMS, FLOPS, LATENCY)


@keras.saving.register_keras_serializable("keras_dha")
class Target:
    """Upper limits of what the derived network costs.

    Args:
        limits: Dict from `"params"` (all weights), `"flops"` (see
            `keras_dha.architecture.cost`) or `"latency_ms"` to a positive
            number.
        latency_table: `keras_dha.LatencyTable`; without one, latency is
            measured with Keras on this device when the search begins.
        weight: Positive float, the penalty's weight against the loss.
        reached: Dict from a measure to what the derived network costs; known
            once there is one.

    Raises:
        ValueError: An unknown measure, or a limit that is not positive.
    """

    def __init__(self, limits, latency_table=None, weight=1.0, reached=None):
        if not limits or not set(limits) <= set(MEASURES):
            raise ValueError(
                f"`target` must be a dict with limits out of {MEASURES}. "
                f"Received: target={limits!r}"
            )
        for name, limit in {**limits, "weight": weight}.items():
            is_number = isinstance(limit, (int, float, np.number))
            if isinstance(limit, bool) or not is_number or not limit > 0:
                raise ValueError(
                    "Limits and weight of `target` must be positive numbers. "
                    f"Received: {name}={limit!r}"
                )
        if latency_table is not None and (
            LATENCY not in limits or not isinstance(latency_table, LatencyTable)
        ):
            raise ValueError(
                "`latency_table` must be a `keras_dha.LatencyTable`, and goes "
                f"with a limit of 'latency_ms'. Received: target={limits!r}, "
                f"latency_table={latency_table!r}"
            )
        self.limits = {k: float(v) for k, v in limits.items()}
        self.latency_table = latency_table
        self.weight = float(weight)
        self.reached = reached
        self.cost = None
        self._within = None

    @classmethod
    def of(cls, argument):
        """Returns the target of an `AutoModel` argument.

        Args:
            argument: `None`, or a dict of limits and, beside them,
                `"latency_table"` and `"weight"`.
        """
        if argument is None:
            return None
        if not isinstance(argument, dict):
            raise ValueError(
                "`target` must be None or a dict such as "
                f'{{"params": 100_000}}. Received: target={argument!r}'
            )
        options = {
            name: argument[name]
            for name in ("latency_table", "weight")
            if name in argument
        }
        limits = {k: v for k, v in argument.items() if k not in options}
        return cls(limits, **options)

    def unattached(self):
        """Returns the same limits for another network."""
        return Target(self.limits, self.latency_table, self.weight)

    def attach(self, network):
        """Counts and measures a network; refuses limits nothing can meet.

        Args:
            network: The `keras.Model` that will be searched.

        Raises:
            ValueError: No architecture of the network meets all limits.
        """
        for decision in find_decisions(network):
            if decision.edges > 1 or decision.code is not None:
                raise ValueError(
                    "A target needs choices of one input and a strategy with "
                    "probabilities; `NodeChoice` and ISTA have none that a "
                    f"target can weigh. Received: decision {decision.name!r}"
                )
        terms = {}
        if LATENCY in self.limits:
            if self.latency_table is None:
                self.latency_table = LatencyTable.measure(network)
            terms[LATENCY] = self.latency_table.terms(network)
        counted = [m for m in (PARAMS, FLOPS) if m in self.limits]
        self.cost = NetworkCost(network, counted, **terms)
        least = dict(
            zip(self.limits, self._groups({}).least().tolist(), strict=True)
        )
        self._within = self._best({}, self._uniform())
        if self._within is None:
            smallest = ", ".join(f"{m} {v:,.6g}" for m, v in least.items())
            raise ValueError(
                "No architecture of this search space meets the target. The "
                f"smallest that is attainable, each by itself: {smallest}. "
                f"Received: target={self.limits}"
            )
        if not self.cost.decisions:
            self.reached = self.cost.of([])

    def _uniform(self):
        return [np.zeros(d.num_candidates) for d in self.cost.decisions]

    def _groups(self, fixed):
        decisions = self.cost.decisions
        return knapsack.Groups(
            self.cost.terms,
            [d.num_candidates for d in decisions],
            list(self.limits),
            fixed,
            never={k: d.none for k, d in enumerate(decisions)},
        )

    def _best(self, fixed, log_probabilities):
        limits = list(self.limits.values())
        return knapsack.best(self._groups(fixed), log_probabilities, limits)

    def penalty(self, probabilities):
        """Returns the penalty, a scalar tensor.

        Args:
            probabilities: List of float32 tensors `(K,)`, one a decision.
        """
        expected = self.cost.expected(probabilities)
        excess = [
            ops.relu(expected[name] / limit - 1.0)
            for name, limit in self.limits.items()
        ]
        return self.weight * sum(excess)

    def gradient(self, logits):
        """Returns the penalty's gradient by all logits, of shape `(A,)`.

        Args:
            logits: float32 tensor `(A,)`, those of all decisions.
        """
        sizes = [d.num_candidates for d in self.cost.decisions]
        with tf.GradientTape() as tape:
            tape.watch(logits)
            probabilities = [
                _probabilities(part, decision)
                for part, decision in zip(
                    tf.split(logits, sizes), self.cost.decisions, strict=True
                )
            ]
            penalty = self.penalty(probabilities)
        return tape.gradient(penalty, logits, unconnected_gradients="zero")

    def is_exceeded(self):
        """Whether the expected cost is above a limit now."""
        probabilities = [
            ops.convert_to_tensor(d.probabilities())
            for d in self.cost.decisions
        ]
        return float(self.penalty(probabilities)) > 0

    def decide(self):
        """Freezes every decision to the best architecture within limits.

        What is frozen already is kept, if an architecture that keeps it
        meets the limits. Where the selection has to stop before it finds one,
        it is the one that was found when the network was attached.
        """
        decisions = self.cost.decisions
        logs = [
            np.asarray(ops.log_softmax(ops.convert_to_tensor(d.logits)), float)
            for d in decisions
        ]
        fixed = {
            k: int(ops.convert_to_numpy(d.chosen))
            for k, d in enumerate(decisions)
            if d.is_frozen
        }
        indices = (
            self._best(fixed, logs) or self._best({}, logs) or self._within
        )
        for decision, index in zip(decisions, indices, strict=True):
            decision.freeze(index)
        self.reached = self.cost.of(indices)

    def record(self):
        """Returns limits and what was reached, for a result's cost."""
        return {
            name: {"limit": limit, "reached": (self.reached or {}).get(name)}
            for name, limit in self.limits.items()
        }

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
        table = self.latency_table
        return {
            "limits": self.limits,
            "latency_table": table and table.get_config(),
            "weight": self.weight,
            "reached": self.reached,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the target that `get_config` described."""
        table = config["latency_table"]
        return cls(
            **{**config, "latency_table": table and LatencyTable(**table)}
        )


def _probabilities(logits, decision):
    """A frozen decision is certain."""
    chosen = ops.convert_to_tensor(decision.chosen)
    certain = ops.one_hot(
        ops.maximum(chosen, 0), decision.num_candidates, dtype=logits.dtype
    )
    return ops.where(chosen < 0, ops.softmax(logits), certain)
