"""What every engine of hyperparameters is: values asked for, and in use.

A plain number stays as it is. A `Range` is learned, as a position on its
scale; engines differ in what they learn it from. By gradient
(`keras_dha.hyperparameters.learned`) it moves against the search loss; by
reward (`keras_dha.hyperparameters.autohas`) it is sampled and judged.
"""

import math
import types

import keras
import numpy as np
from keras import ops

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import quantities
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import average
from keras_dha.inner_update import spread

DEFAULTS = {"learning_rate": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
AUTO = {
    # Both bounds of the rate are far out: a range test narrows them.
    "learning_rate": Range(1e-4, 3.0),
    # In the first half of a run evidence is for less decay than is best in the
    # end: a bound far below lets it go where it comes back from too late.
    "weight_decay": Range(1e-4, 1e-2, start=5e-4),
}


class Engine(keras.layers.Layer):
    """All hyperparameters of a run, fixed or learned.

    Subclasses implement `_allocate`, `_place` and `_position`, and what they
    learn by.

    Args:
        values: Dict from name to a number (fixed), a `Range` (learned), or
            for what belongs to the optimizer a dict from a pattern of layer
            names to these. What the optimizer needs and is missing is fixed
            at its default: 0.1, 5e-4 and 0.9.
        horizon: `hypergradient.Horizon` or its fields; how weights are
            averaged, for all that learns by the search gradient.
        names_checked: Whether all names of the user's own were seen in use.
        **kwargs: Base layer arguments.

    Attributes:
        learned: Keys of the quantities that have a `Range`,
        by_gradient: those that the search gradient moves,
        by_reward: and those that the reward of temporary weights moves.
        learned_in_loss: Keys that need the training loss' derivative.
        is_normalised: Whether the length of most weights does not matter, as
            far as is known; what learns by reward does not ask.
        tangents: Dict from key to the `hypergradient.Tangents` of what moves
            by them.

    Raises:
        ValueError: An unknown name or a value out of its domain.
    """

    by_gradient = ()
    by_reward = ()
    learned_in_loss = ()
    is_normalised = True
    tangents = types.MappingProxyType({})

    def __init__(
        self,
        values=None,
        horizon=hypergradient.DISCOUNTED,
        names_checked=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.values = {**DEFAULTS, **quantities.validated(values or {})}
        self.horizon = hypergradient.Horizon(*horizon)
        self.names_checked = names_checked
        self.quantities = {q.key: q for q in quantities.listed(self.values)}
        self.learned = [k for k, q in self.quantities.items() if q.is_learned]

    def allocate(
        self,
        rule,
        sizes,
        paths,
        dtype="float32",
        expects_normalised=False,
        penalties=(),
    ):
        """Creates the state for the weights of a network.

        Args:
            rule: `inner_update.UpdateRule` of the run.
            sizes: List of the variables' sizes; they sum to P.
            paths: List of their paths.
            dtype: Name of the vectors' dtype.
            expects_normalised: Whether most weights may be expected to have a
                length that does not matter, before gradients tell.
            penalties: List of rho for each variable, of penalties
                rho |w|^2 / 2 that the training loss has; by default none.
        """
        self.rule, self.sizes, self.vector_dtype = rule, list(sizes), dtype
        self.expects_normalised = expects_normalised
        self.penalties = list(penalties)
        ranges = [self.quantities[key].value for key in self.learned]
        self.low = self._vector("low", [to_scale(r, r.low) for r in ranges])
        self.high = self._vector("high", [to_scale(r, r.high) for r in ranges])
        self.count = self._vector("count", 0.0)
        # How many updates ended at the lower and at the upper bound.
        self.at_bounds = self._vector("at_bounds", np.zeros((2, len(ranges))))
        self.averaged = self._vector("averaged", np.zeros(sum(sizes)))
        # What averages keep in a step.
        self.averaging = self._vector("averaging", self.horizon.averaging)
        self._allocate_groups(paths)
        self._allocate([to_scale(r, _first(r)) for r in ranges])
        self.built = True

    def _allocate(self, positions):
        """Creates what the engine learns, from where it is to start."""
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `_allocate()`."
        )

    def _place(self, index, position):
        """Puts one learned quantity at a position on its scale."""
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `_place()`."
        )

    def _position(self, index):
        """Returns where one learned quantity is on its scale, a scalar."""
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `_position()`."
        )

    def _position_in_step(self, index):
        """Returns where it is for the step that is taken."""
        return self._position(index)

    def _allocate_groups(self, paths):
        """Finds on which variables each quantity of a group acts."""
        self._groups = {}
        for key, quantity in self.quantities.items():
            if quantity.pattern is not None:
                patterns = self.values[quantity.name]
                index = quantities.groups(patterns, paths)
                acts = index == list(patterns).index(quantity.pattern)
                self._groups[key] = acts

    def _where(self, key):
        """Returns 1 where a quantity acts on the weights: all, or `(P,)`."""
        if key not in self._groups:
            return 1.0
        acts = ops.convert_to_tensor(self._groups[key], self.vector_dtype)
        return spread(acts, self.sizes)

    def check_groups(self, paths):
        """Refuses patterns that fit no layer of a network."""
        for name, value in self.values.items():
            if isinstance(value, dict):
                unused = quantities.unused_patterns(value, paths)
                if unused:
                    raise ValueError(
                        f"Each pattern of `{name}` must fit a layer. "
                        f"Received: {unused}, which fit none of "
                        f"{sorted({p.split('/')[0] for p in paths})}"
                    )

    def check_used(self, used):
        """Refuses names that neither the library nor the network reads.

        Args:
            used: Set of the names that were read while the training loss was
                computed. Once is enough: a layer that reads one may not be
                in the derived network.
        """
        known = {quantities.LABEL_SMOOTHING, quantities.MIXUP, *used}
        unused = sorted(set(self.in_loss()) - known)
        if unused and not self.names_checked:
            raise ValueError(
                "A hyperparameter of your own must be read by a loss or a "
                f"layer, with `keras_dha.hyperparameter({unused[0]!r})`; "
                "'dropout_rate' by `keras_dha.Dropout` layers. "
                f"Received: {unused}, which none of them reads"
            )
        self.names_checked = True

    def _vector(self, name, value):
        value = np.asarray(value)
        return self.add_weight(
            name=name,
            shape=value.shape,
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                value, dtype
            ),
            dtype=self.vector_dtype,
            trainable=False,
        )

    def _value(self, key, position):
        value = self.quantities[key].value
        if key not in self.learned:
            return ops.convert_to_tensor(value, self.vector_dtype)
        found = position(self.learned.index(key))
        return ops.exp(found) if value.scale == "log" else found

    def current(self, key):
        """Returns what one quantity has come to, a scalar tensor."""
        return self._value(key, self._position)

    def in_step(self, key):
        """Returns its value in the step that is taken, a scalar tensor."""
        return self._value(key, self._position_in_step)

    def value(self, name):
        """Returns `name`'s value in the step that is taken.

        A scalar, or `(P,)` where it has groups.
        """
        if name in self.quantities:
            return self.in_step(name)
        return sum(
            self._where(key) * self.in_step(key)
            for key, q in self.quantities.items()
            if q.name == name
        )

    def in_loss(self):
        """Returns the values that act through the training loss, a dict."""
        return {
            key: self.in_step(key)
            for key in self.quantities
            if key not in hypergradient.OPTIMIZER
            and self.quantities[key].pattern is None
        }

    def set_value(self, key, value, high=None):
        """Moves a learned quantity to `value`, its upper bound to `high`."""
        index, scale = self.learned.index(key), self.quantities[key].value
        if high is not None:
            changed = ops.convert_to_numpy(self.high).copy()
            changed[index] = to_scale(scale, scale.clip(high))
            self.high.assign(changed)
        self._place(index, to_scale(scale, scale.clip(value)))

    def expect_rate(self, rate):
        """Prepares for the highest rate that is to come; here by nothing.

        Args:
            rate: Float, without the base schedule in it.
        """

    def expect_schedule(self, peak):
        """Prepares for the base schedule; here by nothing.

        Args:
            peak: Float, its highest factor of the rate up to now.
        """

    def expect_pass(self, steps):
        """Prepares for data of so many steps a pass; here by nothing.

        Args:
            steps: Positive integer.
        """

    def expect_run(self, step, steps):
        """Prepares for a run: averages reach as far as suits it.

        Args:
            step: Integer, the number of the step that comes.
            steps: How many there will be, which may not be known yet: infinity.
        """
        beta = self.horizon.averaging_at(step, steps, self.is_normalised)
        self.averaging.assign(beta)

    def bounds(self, key):
        """Returns the pair of bounds of a learned quantity as they are now."""
        index, scale = self.learned.index(key), self.quantities[key].value
        ends = (float(b[index]) for b in (self.low, self.high))
        return tuple(
            math.exp(end) if scale.scale == "log" else end for end in ends
        )

    def sample(self, draw, explores):
        """Chooses the values of the step that comes; nothing to choose here.

        Args:
            draw: Function from a shape to independent uniform draws.
            explores: Boolean scalar tensor, whether values are sampled.
        """

    def advance(self, at, extent, step, schedule, product=None):
        """Follows one inner step with the average of the weights.

        Args:
            at, extent, step: The rule's `Inputs`, `Extent` and `Step`.
            schedule: Scalar, the base schedule's factor of the rate.
            product: Product with the Hessian, where the horizon needs it.
        """
        del at, extent, schedule, product
        averaged = ops.convert_to_tensor(self.averaged)
        self.averaged.assign(
            average(averaged, step.weights, self.averaging.value)
        )

    def follow_reward(self, advantage):
        """Moves what is learned by reward; nothing is here.

        Args:
            advantage: Scalar, the reward of the sample less the baseline.
        """

    def logs(self):
        """Returns what to log beside the values, a dict of floats."""
        return {}

    def described(self, key):
        """Returns what a result holds of a quantity beside its value."""
        del key
        return {}

    def _count_bounds(self, is_low, is_high):
        ends = ops.stack([is_low, is_high])
        self.at_bounds.assign_add(ops.cast(ends, self.vector_dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "values": keras.saving.serialize_keras_object(self.values),
            "horizon": list(self.horizon),
            "names_checked": self.names_checked,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["values"] = keras.saving.deserialize_keras_object(
            config["values"]
        )
        return cls(**config)


def to_scale(scale, value):
    """Returns where a value is on the scale of a `Range`, a float."""
    return math.log(value) if scale.scale == "log" else float(value)


def _first(scale):
    return scale.middle if scale.start is None else scale.start
