"""Hyperparameters that are learned by hypergradients.

Each outer step moves a position on its range's scale against the search loss
(`keras_dha.hyperparameters.hypergradient`).
"""

import math

import keras
import numpy as np
from keras import ops

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import quantities
from keras_dha.hyperparameters import scale_invariance
from keras_dha.hyperparameters.engine import Engine
from keras_dha.inner_update import AdamState
from keras_dha.inner_update import Inputs
from keras_dha.inner_update import adam
from keras_dha.inner_update import average
from keras_dha.inner_update import spread

# Memory of what weights are normalised, as by chance a variable looks like one;
# so large a share of them are most.
_SEEN, _MOST = 0.7, 0.5
# By what share of itself decay may shorten a weight in one step: a weight that
# remembers fewer than fifty steps learns nothing that lasts, which no gradient
# at averaged weights sees.
_MOST_SHRINKING = 0.02
# Nor may it remember less than a pass over the data: what it has of an image is
# to last until that is seen again. How many passes weights remember is what
# carries over from one amount of data to another: Wang and Aitchison, "How to
# set AdamW's weight decay as you scale model and dataset size", 2024.
# Nor less than this share of the run: a gradient at averages over a tenth of it
# does not see what a longer memory would add up to.
# And not more than this share: decay that is weaker does nothing in a run.
# Early on, and where nothing is missed any more, evidence is for that; what
# decay is good for shows when it has been there for long.
_SHORTEST_MEMORY, _LONGEST_MEMORY = 0.1, 0.25
# How far an update goes on a range's scale, if outer steps are the usual
# distance apart (`keras_dha.outer_steps.share_of_step`).
STEP_SIZE = 0.5
# Size of Adam's steps in parts of the range, times the step size.
_ADAM = 0.1


@keras.saving.register_keras_serializable("keras_dha")
class LearnedHyperparameters(Engine):
    """All hyperparameters of a run, fixed or learned by hypergradient.

    Args:
        values, names_checked: As for `Engine`.
        horizon: `hypergradient.Horizon` or its fields.
        step_size: Float, how far an update goes on a range's scale, in
            natural logarithms, or in parts of a linear range: this times the
            mean cosine between hypergradient and search gradient, so that
            large errors are corrected fast and small ones slowly. What has no
            cosine or, as weight decay, a small one in any case goes in Adam's
            direction, a tenth of the range being its step, drawn to the
            range's middle.
        **kwargs: Base layer arguments.

    Raises:
        ValueError: An unknown name or a value out of its domain.
    """

    def __init__(
        self,
        values=None,
        horizon=hypergradient.DISCOUNTED,
        step_size=STEP_SIZE,
        names_checked=False,
        **kwargs,
    ):
        super().__init__(values, horizon, names_checked, **kwargs)
        self.step_size = step_size
        hypergradient.check_horizon(self.horizon)
        _check_what_is_learned(self.quantities.values(), self.horizon)

    @property
    def is_normalised(self):
        """Whether the length of most weights does not matter."""
        return float(ops.convert_to_numpy(self.normalised)) > _MOST

    @property
    def by_gradient(self):
        """Keys of what is learned: all of it by hypergradient."""
        return self.learned

    def _allocate(self, positions):
        found = [self.quantities[key] for key in self.learned]
        ranges = [quantity.value for quantity in found]
        self._is_log = np.array([r.scale == "log" for r in ranges], bool)
        self._is_decay = np.array(
            [q.name == "weight_decay" for q in found], bool
        )
        self.position = self._vector("position", positions)
        self._start = np.array(positions, self.vector_dtype)
        # A step goes by natural logarithms, or by parts of a linear range.
        self._span = np.where(
            self._is_log, 1.0, [r.high - r.low for r in ranges]
        )
        self.first = self._vector("first", [0.0] * len(ranges))
        self.second = self._vector("second", [0.0] * len(ranges))
        # By what share of itself, per lambda, decay shortened w the fastest.
        self.fastest = self._vector("fastest", np.zeros(len(ranges)))
        # The highest factor of the base schedule: of its rates, if it is one of
        # Keras, what is learned is a factor near 1.
        self.peak = self._vector("peak", 1.0)
        # The share of weights whose length does not matter, lately. Where it
        # had to be found out first, the first updates were taken at weights
        # of the moment, which ask for low rates, and a search began with these.
        self.normalised = self._vector(
            "normalised", float(self.expects_normalised)
        )
        self.most_shrinking = self._vector("most_shrinking", _MOST_SHRINKING)
        self.most_in_run = self._vector("most_in_run", 1.0)
        self.least_shrinking = self._vector("least_shrinking", 0.0)
        size = sum(self.sizes)
        self.tangents = {
            key: hypergradient.Tangents(
                self._vector("tangent", np.zeros(size)),
                tuple(self._vector(s, np.zeros(size)) for s in self.rule.slots),
                self._vector("tangent_averaged", np.zeros(size)),
                self._vector("tangent_radial", np.zeros(size)),
            )
            for key in self.learned
            if self.quantities[key].name in hypergradient.OPTIMIZER
        }

    def _place(self, index, position):
        changed = ops.convert_to_numpy(self.position).copy()
        changed[index] = position
        self.position.assign(changed)

    def _position(self, index):
        return self.position[index]

    @property
    def learned_in_loss(self):
        """Names of what is learned by the training loss' derivative."""
        return [
            key
            for key in self.learned
            if key not in self.tangents and key != quantities.MIXUP
        ]

    def direct(self, key, schedule):
        """Returns what a quantity adds to the rule's input of its name."""
        rate = self.quantities[key].name == "learning_rate"
        return self._where(key) * (
            schedule if rate else ops.ones_like(schedule)
        )

    def advance(self, at, extent, step, schedule, product=None):
        """Follows one inner step with the tangents and the average.

        Args:
            at, extent, step: The rule's `Inputs`, `Extent` and `Step`.
            schedule: Scalar, the base schedule's factor of the rate.
            product: Product with the Hessian, where the horizon needs it.
        """
        penalty = None
        if any(self.penalties):
            rho = ops.convert_to_tensor(self.penalties, self.vector_dtype)
            penalty = spread(rho, self.sizes)
        for key, tangents in self.tangents.items():
            before = hypergradient.Tangents(
                ops.convert_to_tensor(tangents.weights),
                tuple(ops.convert_to_tensor(s) for s in tangents.slots),
                ops.convert_to_tensor(tangents.averaged),
                ops.convert_to_tensor(tangents.radial),
            )
            after = hypergradient.advance(
                self.rule,
                at,
                extent,
                self.quantities[key].name,
                self.direct(key, schedule),
                before,
                self.horizon._replace(averaging=self.averaging.value),
                product,
                penalty,
            )
            tangents.weights.assign(after.weights)
            tangents.averaged.assign(after.averaged)
            for slot, value in zip(tangents.slots, after.slots, strict=True):
                slot.assign(value)
        super().advance(at, extent, step, schedule, product)

    def update(
        self,
        search_gradient,
        at,
        through_loss=None,
        outer_steps=1,
        implicit=None,
    ):
        """Moves what is learned against the search loss.

        Args:
            search_gradient: v, `(P,)`.
            at: The rule's `Inputs` of the inner step.
            through_loss: Dict from name to the hypergradient, a scalar of
                any scale, of what has no tangents.
            outer_steps: Integer, how many of them this update stands for.
            implicit: The implicit horizon's p, which stands for v, `(P,)`.
        """
        if not self.learned:
            return
        tangents = self._follow_lengths(search_gradient, at.weights)
        if implicit is not None:
            # v has no part along weights whose length does not matter, but p
            # has: shorter ones turn faster, which is what decay does there.
            search_gradient, tangents = implicit, self.tangents
        gradient = [
            hypergradient.alignment(
                search_gradient, tangents[key], self._judged_on(key)
            )
            if key in self.tangents
            else ops.cast(through_loss[key], self.vector_dtype)
            for key in self.learned
        ]
        change, state = self._change(ops.stack(gradient))
        position = ops.convert_to_tensor(self.position)
        position = position - outer_steps * self.step_size * change
        position = ops.clip(position, *self._within(at))
        self.position.assign(position)
        state.keep_in(self)
        self._count_bounds(position <= self.low, position >= self.high)

    def _judged_on(self, key):
        """Returns 1 where a quantity's cosine is taken: all, or `(P,)`.

        On the weights that it acts on; with Hessian products others answer to
        it as well.
        """
        return 1.0 if self.horizon.restart else self._where(key)

    def _follow_lengths(self, search_gradient, weights):
        """Renews c of the tangents; returns them without their part c w.

        What changes lengths alone has no part in a cosine.
        """
        every = self.tangents.values()
        found = scale_invariance.read(
            search_gradient,
            ops.convert_to_tensor(self.averaged),
            self.sizes,
            turning=[ops.convert_to_tensor(t.averaged) for t in every],
            weights=weights,
            radial=[ops.convert_to_tensor(t.weights) for t in every]
            if self.horizon.follows_lengths
            else [],
        )
        seen = ops.convert_to_tensor(self.normalised)
        self.normalised.assign(average(seen, found.share, _SEEN))
        for tangents, radial in zip(every, found.radial, strict=False):
            tangents.radial.assign(radial)
        return {
            key: tangents._replace(averaged=turning)
            for (key, tangents), turning in zip(
                self.tangents.items(), found.turning, strict=True
            )
        }

    def _change(self, gradient):
        """Returns how far down to go with a step size of 1, and the state."""
        moved, following = adam(
            ops.zeros_like(gradient), gradient, AdamState.of(self), 1.0
        )
        # A cosine's size says how far off a rate is; that of decay is small
        # however far off it is.
        mean, _ = following.means()
        names = [self.quantities[key].name for key in self.learned]
        by_cosine = np.isin(names, ("learning_rate", "momentum"))
        extent = ops.convert_to_tensor(self.high) - self.low
        by_adam = _ADAM * extent * (self._from_middle() - moved)
        span = self._span.astype(self.vector_dtype)
        return ops.where(by_cosine, span * mean, by_adam), following

    def _from_middle(self):
        """Returns where values are in their ranges, from -1 to 1, `(n,)`.

        Adam's direction has a size of 1 for what all hypergradients agree on.
        Drawn to the middle as much as they are far from it, values get to the
        bounds by such evidence alone, and by noise nowhere.
        """
        low, high = (ops.convert_to_tensor(v) for v in (self.low, self.high))
        position = ops.convert_to_tensor(self.position)
        return (2.0 * position - low - high) / (high - low)

    def expect_rate(self, rate):
        """Lowers decay to what it may be once the rate has come up so far.

        In steps that are still short, decay that is too strong shortens
        weights until those that come are too long for them.

        Args:
            rate: Float, the highest learning rate that is to come, without
                the base schedule in it.
        """
        at = Inputs(
            *(None, None, None, self.peak * rate),
            *(None, self.value("momentum")),
        )
        self.fastest.assign(ops.zeros_like(self.fastest))
        self.position.assign(ops.clip(self.position, *self._within(at)))

    def expect_pass(self, steps):
        self.most_shrinking.assign(min(_MOST_SHRINKING, 1.0 / steps))

    def expect_schedule(self, peak):
        self.peak.assign(peak)

    def expect_run(self, step, steps):
        super().expect_run(step, steps)
        self.least_shrinking.assign(1.0 / (_LONGEST_MEMORY * steps))
        if math.isfinite(steps):
            self.most_in_run.assign(1.0 / (_SHORTEST_MEMORY * steps))

    def _within(self, at):
        """Returns the bounds of positions at a step, two tensors `(n,)`.

        Those of the ranges, and within them for weight decay those of what
        weights remember. The lower one keeps decay from falling, but does not
        raise it above its start: a run may be too short for any decay.
        """
        # The fastest so far: towards the end of a schedule, when rates fall,
        # decay must not make up for it.
        fastest = ops.maximum(
            ops.convert_to_tensor(self.fastest), self._shrinking(at)
        )
        self.fastest.assign(fastest)
        low, high = (ops.convert_to_tensor(v) for v in (self.low, self.high))

        def shrinking_by(share, per_decay):
            decay = share / ops.maximum(per_decay, 1e-12)
            decay = ops.maximum(decay, 1e-30)
            return ops.where(self._is_log, ops.log(decay), decay)

        # Whatever the schedule makes of it at the moment.
        in_run = self._shrinking(
            at._replace(learning_rate=self.peak * self.value("learning_rate"))
        )
        most = ops.minimum(
            shrinking_by(self.most_shrinking.value, fastest),
            shrinking_by(self.most_in_run.value, in_run),
        )
        high = ops.where(
            self._is_decay, ops.minimum(high, ops.maximum(low, most)), high
        )
        least = shrinking_by(self.least_shrinking.value, in_run)
        least = ops.minimum(least, ops.minimum(self._start, high))
        return ops.where(self._is_decay, ops.maximum(low, least), low), high

    def _shrinking(self, at):
        """Returns by what share of itself decay shortens w, per lambda, `(n,)`.

        Of the weights that each quantity acts on, those that it shortens most.
        """
        each = ops.cast(self.rule.shrinking(at), self.vector_dtype)
        return ops.stack(
            [ops.max(self._where(key) * each) for key in self.learned]
        )

    def get_config(self):
        return {**super().get_config(), "step_size": self.step_size}


def _check_what_is_learned(found, horizon):
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
