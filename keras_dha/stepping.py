"""Stepping: takes the steps of a run, each with what belongs to it.

There are two functions of a step: a plain inner one and a joint one. Under a
distribution strategy this cannot be a branch inside the step, because what
replicas exchange may not stand in a conditional.
"""

import time

import tensorflow as tf

from keras_dha import base_schedule
from keras_dha import compile_arguments
from keras_dha import compiled
from keras_dha import label_facts
from keras_dha import outer_steps
from keras_dha import phases
from keras_dha import run_record
from keras_dha import trust
from keras_dha.architecture.step_price import StepPrice


class Stepper:
    """Takes the steps of a run: inner or joint, at its place in the plan.

    Args:
        joint: `keras_dha.joint_model.JointModel` to start from.
        batches: Training batches (`ArrayBatches` or `StreamBatches`).
        search_batches: Batches of the search split, or `None`.
        distribution: `tf.distribute.Strategy`.
        pace: `pace.StepPace` or `pace.ClockPace`.
        plan: `phases.Plan`.
        outer_every: As `outer_steps.OuterSteps` takes it.
        schedule: Base schedule of the learning rate, see
            `keras_dha.base_schedule`.
        record: `keras_dha.run_record.RunRecord` to count steps in.
    """

    def __init__(
        self,
        joint,
        batches,
        search_batches,
        distribution,
        pace,
        plan,
        outer_every,
        schedule,
        record,
    ):
        self._batches = batches
        self._search_batches = search_batches
        self._distribution = distribution
        self._pace = pace
        self._plan = plan
        self._schedule = schedule
        # Its highest factor so far; what rises to 1 counts as 1 from the start.
        self._peak = 1.0 if isinstance(schedule, str) else 0.0
        self._record = record
        self._outer_steps = outer_steps.OuterSteps(
            outer_every, plan.refine_from
        )
        # Steps of the fits before.
        self._before = 0
        # How many batches were drawn of either kind; `None` before the first.
        self._drawn = None
        self._stream = self._search_stream = None
        # How long the step that is taken waits for batches.
        self._waited = 0.0
        self._price = self._prices = None
        if pace.epochs is None and joint.architecture.can_be_priced:
            self._price = StepPrice(joint.architecture.decisions)
        self.use(joint)

    def use(self, joint):
        """Goes on with another joint model, whose steps are compiled anew."""
        self._joint = joint
        joint.hyperparameters.expect_pass(self._batches.steps)
        self._traced = []
        self._build_metrics()
        self._inner, self._outer = compiled.step_functions(
            joint, self._distribution
        )

    def _build_metrics(self):
        """Lets metrics create their variables before a step is compiled.

        A `tf.function` that creates variables is traced twice.
        """
        self._distribution.run(
            self._joint.build_metrics, args=(self._batches.labels(),)
        )
        compile_arguments.check_metrics(self._joint.network)
        self._joint.network.reset_metrics()

    @property
    def has_begun(self):
        """Whether there were steps, in a run that was stopped as well."""
        return self._drawn is not None

    @property
    def has_search_data(self):
        """Whether joint steps have images to judge by."""
        return self._search_stream is not None

    def state(self):
        """Returns what steps go on from beside the joint model, plain data."""
        return {
            "drawn": self._drawn,
            "before": self._before,
            "peak": self._peak,
            "outer_steps": self._outer_steps.state(),
            "prices": self._known_prices(),
        }

    def resume(self, state, phase):
        """Goes on where a run was stopped.

        Args:
            state: Dict, as `state` returned it.
            phase: Name of the phase that the run is in.
        """
        self._drawn, self._before = state["drawn"], state["before"]
        self._peak = state["peak"]
        self._outer_steps.resume(state["outer_steps"])
        self._prices = state["prices"]
        if phase != phases.WARMUP:
            # Prices are found in the warm-up.
            self._price = None

    def begin(self):
        """Draws batches on from those that the joint model has seen."""
        self._before = done = int(self._joint.step.numpy())
        self._drawn = [done, done // self._outer_steps.every]
        # All of an endless dataset would be read again up to there.
        for k, each in enumerate((self._batches, self._search_batches)):
            if each is not None and each.is_endless:
                self._drawn[k] = 0

    def open_streams(self):
        """Opens the batches; one stream for all epochs.

        To end one costs as much as many batches.
        """
        self._stream = self._batches_from(self._batches, self._drawn[0])
        if self._search_batches is not None and self._joint.needs_search_data:
            self._search_stream = self._batches_from(
                self._search_batches, self._drawn[1]
            )

    def _batches_from(self, batches, step):
        dataset = batches.dataset(step)
        return iter(self._distribution.experimental_distribute_dataset(dataset))

    def test_range(self):
        """Runs the range test of the learning rate; returns what it found.

        Its first step is that which compiles the inner one.
        """
        begun = time.monotonic()
        stream = self._batches_from(self._batches, 0)
        losses = []

        def step(batch, schedule):
            losses.append(_run(self._inner, batch, schedule))
            return losses[-1]

        found = trust.test_range(self._joint, step, stream)
        if self._inner not in self._traced:
            self._traced.append(self._inner)
        self._record.spend(run_record.RANGE_TEST, begun, len(losses))
        return found

    def take(self, step, phase, is_outer=None):
        """Takes a step; returns its loss, a scalar tensor.

        Args:
            step: Integer, its number.
            phase: Name of the phase that it belongs to.
            is_outer: Whether it is a joint one; by default as the plan and
                the distance of outer steps have it.
        """
        begun, self._waited = time.monotonic(), 0.0
        position = min(self._pace.position(step), self._plan.total - 1)
        if phase in (phases.SEARCH, phases.SETTLE):
            self._set_prices()
            self._joint.architecture.start()
            self._joint.architecture.advance_to(self._plan.progress(position))
        self.refine(step, position)
        schedule = self._scheduled(step, position)
        batch = self._next(self._stream)
        self._drawn[0] += 1
        if is_outer is None:
            is_outer = self.is_outer(step, position)
        if is_outer:
            learned = self._joint.hyperparameters
            learned.expect_schedule(self._peak)
            learned.expect_run(step, self._pace.expected_steps(step))
            function = self._outer
            search_batch = self._next(self._search_stream)
            loss = _run(function, batch, schedule, search_batch)
            self._drawn[1] += 1
        else:
            function = self._inner
            loss = _run(function, batch, schedule)
        is_first = function not in self._traced
        if is_first:
            self._traced.append(function)
            self._pace.leave_out(time.monotonic() - begun)
        elif self._price and phase == phases.WARMUP and not is_outer:
            # The loss is read: devices that work on their own are waited for.
            value = float(loss)
            self._price.note(time.monotonic() - begun, value)
        self._record.step(phase, begun, is_first, self._waited)
        return loss

    def _next(self, stream):
        begun = time.monotonic()
        batch = next(stream)
        self._waited += time.monotonic() - begun
        return batch

    def refine(self, step, position):
        """Sets how much is augmented.

        Args:
            step: Integer, the number of the step that comes.
            position: Integer, where in the run it is.
        """
        steps = self._before + self._pace.expected_steps(step)
        passes = steps / self._batches.steps
        self._joint.policy.refine(self._plan.refinement(position), passes)

    def _scheduled(self, step, position):
        """Returns the base schedule's factor, a tensor; writes rates down."""
        # A Keras schedule goes by steps, ours by the position in the run.
        at = position if isinstance(self._schedule, str) else step
        factor = base_schedule.factor(self._schedule, at, self._plan.total)
        self._peak = max(self._peak, factor)
        learned = self._joint.hyperparameters
        self._record.keep_rates(learned, step, position, factor)
        return tf.constant(factor, "float32")

    def is_outer(self, step, position):
        """Whether a step is a joint one; asked once for each step.

        Args:
            step: Integer, its number.
            position: Integer, where in the run it is.
        """
        is_derived = not self._joint.architecture.is_searched
        return (
            self.has_search_data
            # A derived network may have nothing left to learn.
            and self._joint.needs_search_data
            and self._plan.is_learning(position, is_derived)
            and self._outer_steps.takes(step, position)
        )

    def _set_prices(self):
        """Where time is what there is, candidates pay for theirs."""
        if self._price:
            self._prices, self._price = self._known_prices(), None
        if self._prices:
            # Each time: the joint model may go back to its warm-up.
            self._joint.architecture.prices.assign(self._prices)

    def _known_prices(self):
        """Returns the prices as they are known by now, a list, or `None`."""
        found = self._price and self._price.prices()
        # In a warm-up that goes on, too few steps may be left for new ones.
        if found is None or not found.any():
            return self._prices
        return found.tolist()


def _run(function, *arguments):
    """Takes a step."""
    with label_facts.explained():
        return function(*arguments)
