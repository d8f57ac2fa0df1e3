"""The hyperparameters of a run: values, bounds, tangents, and their updates.

A plain number stays as it is. A `Range` becomes a position on its scale that
each outer step moves against the search loss
(`keras_dha.hyperparameters.hypergradient`).
"""

import math

import keras
import numpy as np
from keras import ops

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import quantities
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam

DEFAULTS = {"learning_rate": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
AUTO = {
    # Both bounds of the rate are far out: a range test narrows them.
    "learning_rate": Range(1e-4, 3.0),
    "weight_decay": Range(1e-5, 1e-2, start=5e-4),
}
# Memory of the averages by which noisy hypergradients are judged.
_MEMORY = 0.9


@keras.saving.register_keras_serializable("keras_dha")
class LearnedHyperparameters(keras.layers.Layer):
    """All hyperparameters of a run, fixed or learned.

    Args:
        values: Dict from name to a number (fixed), a `Range` (learned), or
            for what belongs to the optimizer a dict from a pattern of layer
            names to these. What the optimizer needs and is missing is fixed
            at its default: 0.1, 5e-4 and 0.9.
        horizon: `hypergradient.Horizon` or its fields.
        step_size: Float, how far an update goes on a range's scale: in
            natural logarithms, or in parts of a linear range.
        update: `"cosine"`: `step_size` times the mean cosine between
            hypergradient and search gradient, so that large errors are
            corrected fast and small ones slowly. `"adam"`: Adam on the
            hypergradients, so that each update goes about `step_size`.
        names_checked: Whether all names of the user's own were seen in use.
        **kwargs: Base layer arguments.

    Raises:
        ValueError: An unknown name or a value out of its domain.
    """

    def __init__(
        self,
        values=None,
        horizon=hypergradient.DISCOUNTED,
        step_size=0.5,
        update="cosine",
        names_checked=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if update not in ("adam", "cosine"):
            raise ValueError(
                "`update` must be 'adam' or 'cosine'. "
                f"Received: update={update!r}"
            )
        self.values = {**DEFAULTS, **quantities.validated(values or {})}
        self.horizon = hypergradient.Horizon(*horizon)
        self.step_size = step_size
        self.update_kind = update
        self.names_checked = names_checked
        self.quantities = {q.key: q for q in quantities.listed(self.values)}
        self.learned = [k for k, q in self.quantities.items() if q.is_learned]
        _check_horizon(self.quantities.values(), self.horizon)

    def allocate(self, rule, sizes, paths, dtype="float32"):
        """Creates the state for the weights of a network.

        Args:
            rule: `inner_update.UpdateRule` of the run.
            sizes: List of the variables' sizes; they sum to P.
            paths: List of their paths.
            dtype: Name of the vectors' dtype.
        """
        self.rule, self.sizes, self.vector_dtype = rule, list(sizes), dtype
        ranges = [self.quantities[key].value for key in self.learned]
        self.position = self._vector(
            "position", [_to_scale(r, _first(r)) for r in ranges]
        )
        self.low = self._vector("low", [_to_scale(r, r.low) for r in ranges])
        self.high = self._vector("high", [_to_scale(r, r.high) for r in ranges])
        # A step goes by natural logarithms, or by parts of a linear range.
        self._span = np.array(
            [1.0 if r.scale == "log" else r.high - r.low for r in ranges]
        )
        self.first = self._vector("first", [0.0] * len(ranges))
        self.second = self._vector("second", [0.0] * len(ranges))
        self.count = self._vector("count", 0.0)
        # How many updates ended at the lower and at the upper bound.
        self.at_bounds = self._vector("at_bounds", np.zeros((2, len(ranges))))
        self._allocate_groups(paths)
        size = sum(sizes)
        self.averaged = self._vector("averaged", np.zeros(size))
        self.tangents = {
            key: hypergradient.Tangents(
                self._vector("tangent", np.zeros(size)),
                tuple(self._vector(s, np.zeros(size)) for s in rule.slots),
                self._vector("tangent_averaged", np.zeros(size)),
            )
            for key in self.learned
            if self.quantities[key].name in hypergradient.OPTIMIZER
        }
        self.built = True

    def _allocate_groups(self, paths):
        """Finds on which weights each quantity acts; 1 is all of them."""
        self._masks = {}
        for key, quantity in self.quantities.items():
            self._masks[key] = 1.0
            if quantity.pattern is not None:
                patterns = self.values[quantity.name]
                index = quantities.groups(patterns, paths)
                acts = index == list(patterns).index(quantity.pattern)
                self._masks[key] = np.repeat(
                    acts.astype(self.vector_dtype), self.sizes
                )

    def _where(self, key):
        mask = self._masks[key]
        return ops.convert_to_tensor(mask) if np.ndim(mask) else mask

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

    def current(self, key):
        """Returns the value of one quantity, a scalar tensor."""
        value = self.quantities[key].value
        if key not in self.learned:
            return ops.convert_to_tensor(value, self.vector_dtype)
        position = self.position[self.learned.index(key)]
        return ops.exp(position) if value.scale == "log" else position

    def value(self, name):
        """Returns `name`'s value: a scalar, or `(P,)` where it has groups."""
        if name in self.quantities:
            return self.current(name)
        return sum(
            self._where(key) * self.current(key)
            for key, q in self.quantities.items()
            if q.name == name
        )

    def in_loss(self):
        """Returns the values that act through the training loss, a dict."""
        return {
            key: self.current(key)
            for key in self.quantities
            if key not in hypergradient.OPTIMIZER
            and self.quantities[key].pattern is None
        }

    @property
    def learned_in_loss(self):
        """Names of what is learned by the training loss' derivative."""
        return [
            key
            for key in self.learned
            if key not in self.tangents and key != quantities.MIXUP
        ]

    def set_value(self, key, value, high=None):
        """Moves a learned quantity to `value`, its upper bound to `high`."""
        index = self.learned.index(key)
        scale = self.quantities[key].value
        for variable, bound in ((self.high, high), (self.position, value)):
            if bound is not None:
                changed = ops.convert_to_numpy(variable).copy()
                changed[index] = _to_scale(scale, scale.clip(bound))
                variable.assign(changed)

    def bounds(self, key):
        """Returns the pair of bounds of a learned quantity as they are now."""
        index, scale = self.learned.index(key), self.quantities[key].value
        ends = (float(b[index]) for b in (self.low, self.high))
        return tuple(
            math.exp(end) if scale.scale == "log" else end for end in ends
        )

    def direct(self, key, schedule):
        """Returns what a quantity adds to the rule's input of its name."""
        rate = self.quantities[key].name == "learning_rate"
        return self._masks[key] * (
            schedule if rate else ops.ones_like(schedule)
        )

    def advance(self, at, extent, step, schedule, product=None):
        """Follows one inner step with the tangents and the average.

        Args:
            at, extent, step: The rule's `Inputs`, `Extent` and `Step`.
            schedule: Scalar, the base schedule's factor of the rate.
            product: Product with the Hessian, where the horizon needs it.
        """
        for key, tangents in self.tangents.items():
            before = hypergradient.Tangents(
                ops.convert_to_tensor(tangents.weights),
                tuple(ops.convert_to_tensor(s) for s in tangents.slots),
                ops.convert_to_tensor(tangents.averaged),
            )
            after = hypergradient.advance(
                self.rule,
                at,
                extent,
                self.quantities[key].name,
                self.direct(key, schedule),
                before,
                self.horizon,
                product,
            )
            tangents.weights.assign(after.weights)
            tangents.averaged.assign(after.averaged)
            for slot, value in zip(tangents.slots, after.slots, strict=True):
                slot.assign(value)
        self.averaged.assign(
            hypergradient.average(
                ops.convert_to_tensor(self.averaged), step.weights, self.horizon
            )
        )

    def update(self, search_gradient, through_loss=None):
        """Moves what is learned against the search loss.

        Args:
            search_gradient: v, or the implicit horizon's vector for it.
            through_loss: Dict from name to the hypergradient, a scalar of
                any scale, of what has no tangents.
        """
        if not self.learned:
            return
        gradient = ops.stack(
            [
                hypergradient.alignment(
                    search_gradient, self.tangents[key], self._where(key)
                )
                if key in self.tangents
                else ops.cast(through_loss[key], self.vector_dtype)
                for key in self.learned
            ]
        )
        change, state = self._change(gradient)
        position = ops.convert_to_tensor(self.position) - self.step_size * (
            self._span.astype(self.vector_dtype) * change
        )
        position = ops.clip(position, self.low, self.high)
        self.position.assign(position)
        self.first.assign(state.first)
        self.second.assign(state.second)
        self.count.assign(state.count)
        ends = ops.stack([position <= self.low, position >= self.high])
        self.at_bounds.assign_add(ops.cast(ends, self.vector_dtype))

    def _change(self, gradient):
        """Returns by how many step sizes to go down, and the new state."""
        state = AdamState(self.first.value, self.second.value, self.count.value)
        moved, following = adam(ops.zeros_like(gradient), gradient, state, 1.0)
        if self.update_kind == "adam":
            return -moved, following
        # A cosine's size says how far off a rate is. What has no tangents has
        # no cosine, and keeps Adam's step at a tenth of a full cosine's.
        mean = following.first / (1.0 - ops.power(_MEMORY, following.count))
        has_cosine = np.array([key in self.tangents for key in self.learned])
        return ops.where(has_cosine, mean, -0.1 * moved), following

    def get_config(self):
        return {
            **super().get_config(),
            "values": keras.saving.serialize_keras_object(self.values),
            "horizon": list(self.horizon),
            "step_size": self.step_size,
            "update": self.update_kind,
            "names_checked": self.names_checked,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["values"] = keras.saving.deserialize_keras_object(
            config["values"]
        )
        return cls(**config)


def _check_horizon(found, horizon):
    """Refuses what a horizon cannot learn."""
    for quantity in found:
        if not quantity.is_learned:
            continue
        in_rule = quantity.name in hypergradient.OPTIMIZER
        if horizon.terms and quantity.name in ("learning_rate", "momentum"):
            raise ValueError(
                "The implicit horizon learns what moves the optimum: weight "
                "decay and what acts through the loss. Fix the others with a "
                f"number. Received: {quantity.key}={quantity.value!r}"
            )
        if horizon.restart and not in_rule:
            raise ValueError(
                "Forward mode learns the optimizer's quantities; for what "
                "acts through the loss use another horizon. "
                f"Received: {quantity.key}={quantity.value!r}"
            )


def _first(scale):
    return scale.middle if scale.start is None else scale.start


def _to_scale(scale, value):
    return math.log(value) if scale.scale == "log" else float(value)
