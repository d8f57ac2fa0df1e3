"""The hyperparameters of a run: values, bounds, tangents, and their updates.

A plain number stays as it is. A `Range` becomes a position on its scale that
Adam moves along the aligned hypergradient (`keras_dha.hyperparameters.
hypergradient`) of each outer step.
"""

import math
import numbers

import keras
from keras import ops

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam

DEFAULTS = {"learning_rate": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
AUTO = {
    # Both bounds of the rate are far out: a range test narrows them.
    "learning_rate": Range(1e-4, 3.0),
    "weight_decay": Range(1e-5, 1e-2, start=5e-4),
}


@keras.saving.register_keras_serializable("keras_dha")
class LearnedHyperparameters(keras.layers.Layer):
    """Learning rate, weight decay and momentum, fixed or learned.

    Args:
        values: Dict from a name in `hypergradient.LEARNABLE` to a number
            (fixed) or a `Range` (learned). What is missing is fixed at its
            default: 0.1, 5e-4 and 0.9.
        horizon: Pair (discount, averaging), see `hypergradient.Horizon`.
        step_size: Float, step size of Adam on the ranges' scales.
        **kwargs: Base layer arguments.

    Raises:
        ValueError: An unknown name or a value out of its domain.
    """

    def __init__(
        self,
        values=None,
        horizon=hypergradient.LONG,
        step_size=0.05,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.values = {**DEFAULTS, **validated(values or {})}
        self.horizon = hypergradient.Horizon(*horizon)
        self.step_size = step_size
        self.learned = [
            name
            for name in hypergradient.LEARNABLE
            if isinstance(self.values[name], Range)
        ]

    def build(self, size, dtype="float32"):
        """Creates the state for `size` weights (the vector's length P)."""
        self.vector_dtype = dtype
        ranges = [self.values[name] for name in self.learned]
        self.position = self._vector(
            "position", [_to_scale(r, _first(r)) for r in ranges]
        )
        self.low = self._vector("low", [_to_scale(r, r.low) for r in ranges])
        self.high = self._vector("high", [_to_scale(r, r.high) for r in ranges])
        moments = [0.0] * len(ranges)
        self.first = self._vector("first", moments)
        self.second = self._vector("second", moments)
        self.count = self._vector("count", 0.0)
        self.averaged = self._zeros("averaged", size)
        self.tangents = {
            name: hypergradient.Tangents(
                *(
                    self._zeros(f"{name}_{field}", size)
                    for field in hypergradient.Tangents._fields
                )
            )
            for name in self.learned
        }
        self.built = True

    def _vector(self, name, value):
        return self.add_weight(
            name=name,
            shape=ops.shape(value),
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                value, dtype
            ),
            dtype=self.vector_dtype,
            trainable=False,
        )

    def _zeros(self, name, size):
        return self.add_weight(
            name=name,
            shape=(size,),
            initializer="zeros",
            dtype=self.vector_dtype,
            trainable=False,
        )

    def value(self, name):
        """Returns the current value of `name`, a scalar tensor."""
        if name not in self.learned:
            return ops.convert_to_tensor(self.values[name], self.vector_dtype)
        position = self.position[self.learned.index(name)]
        if self.values[name].scale == "log":
            return ops.exp(position)
        return position

    def set_value(self, name, value, high=None):
        """Moves a learned `name` to `value`, and its upper bound to `high`."""
        index, scale = self.learned.index(name), self.values[name]
        if high is not None:
            bounds = ops.convert_to_numpy(self.high).copy()
            bounds[index] = _to_scale(scale, scale.clip(high))
            self.high.assign(bounds)
        position = ops.convert_to_numpy(self.position).copy()
        position[index] = _to_scale(scale, scale.clip(value))
        self.position.assign(position)

    def advance(self, weights, velocity, step, schedule, decayed, active):
        """Follows one inner step with the tangents and the average.

        Args:
            weights, velocity: Vectors before the step.
            step: The `SGDStep`.
            schedule: Scalar, the base schedule's factor of the rate.
            decayed, active: As given to `sgd`.
        """
        for name in self.learned:
            moved = hypergradient.advance(
                name,
                hypergradient.Tangents(
                    *(ops.convert_to_tensor(t) for t in self.tangents[name])
                ),
                weights,
                velocity,
                step.direction,
                self.value("learning_rate"),
                self.value("momentum"),
                decayed,
                active,
                schedule,
                self.horizon,
            )
            for variable, value in zip(self.tangents[name], moved, strict=True):
                variable.assign(value)
        self.averaged.assign(
            hypergradient.average(
                ops.convert_to_tensor(self.averaged),
                step.weights,
                self.horizon,
            )
        )

    def update(self, search_gradient):
        """Moves what is learned against the search loss.

        Args:
            search_gradient: Gradient of the search loss at `averaged`.
        """
        if not self.learned:
            return
        gradient = ops.stack(
            [
                hypergradient.alignment(search_gradient, self.tangents[name])
                for name in self.learned
            ]
        )
        position, state = adam(
            ops.convert_to_tensor(self.position),
            gradient,
            AdamState(self.first.value, self.second.value, self.count.value),
            self.step_size,
        )
        self.position.assign(ops.clip(position, self.low, self.high))
        self.first.assign(state.first)
        self.second.assign(state.second)
        self.count.assign(state.count)

    def get_config(self):
        return {
            **super().get_config(),
            "values": keras.saving.serialize_keras_object(self.values),
            "horizon": list(self.horizon),
            "step_size": self.step_size,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["values"] = keras.saving.deserialize_keras_object(
            config["values"]
        )
        return cls(**config)


def validated(values):
    """Returns `values` if every name and value is one that is known."""
    for name, value in values.items():
        if name not in hypergradient.LEARNABLE:
            raise ValueError(
                f"A hyperparameter must be one of {hypergradient.LEARNABLE}. "
                f"Received: {name!r}"
            )
        if isinstance(value, Range):
            low, high = value.low, value.high
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            low = high = float(value)
        else:
            raise ValueError(
                f"`{name}` must be a number (fixed) or a `keras_dha.Range` "
                f"(learned). Received: {name}={value!r}"
            )
        if not math.isfinite(low):
            raise ValueError(
                f"`{name}` must be finite. Received: {name}={value!r}"
            )
        if low < 0 or (name == "learning_rate" and low <= 0):
            raise ValueError(
                f"`{name}` must be positive. Received: {name}={value!r}"
            )
        if name == "momentum" and high >= 1:
            raise ValueError(
                f"`momentum` must stay below 1. Received: {name}={value!r}"
            )
    return {
        name: value if isinstance(value, Range) else float(value)
        for name, value in values.items()
    }


def _first(scale):
    return scale.middle if scale.start is None else scale.start


def _to_scale(scale, value):
    return float(ops.log(value)) if scale.scale == "log" else float(value)
