"""Estimate: what a run will take, from a few of its steps.

The run is assembled as `fit` assembles it. Steps of each kind are taken, of
the network that is searched and of one that could be derived from it, and
their times are added up as the plan of the run has them.
"""

import contextlib
import dataclasses
import math
import time

import keras
import tensorflow as tf

from keras_dha import carried_over
from keras_dha import compiled
from keras_dha import phases
from keras_dha import trust
from keras_dha.architecture.decision import find_decisions
from keras_dha.nested_layers import compiled_with
from keras_dha.run_record import RunRecord
from keras_dha.stepping import Stepper

# So many steps of a kind are timed, after those that compile and prepare.
_TIMED = 3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the first `fit` of a model will take, as far as steps tell.

    Attributes:
        architectures: Integer, how many networks the search chooses from.
        parameters: Integer, weights of the network that is trained at first,
            with all candidates.
        steps: Integer, those of the whole run.
        search_steps: Integer, those before a plain network is derived, at
            the most: decisions may settle earlier.
        outer_steps: Integer, steps from which more than weights is learned.
        search_step: Float, seconds of a step while the architecture is
            searched; 0.0 if it is not.
        train_step: Float, seconds of a step of the plain network.
        compile_seconds: Float, until each kind of step had run once.
        seconds: Float, of the whole run, without validation and callbacks.
        memory: Integer, bytes that were in use at most: by the first GPU, or
            else by this process since it began. `None` where nobody counts.
    """

    architectures: int
    parameters: int
    steps: int
    search_steps: int
    outer_steps: int
    search_step: float
    train_step: float
    compile_seconds: float
    seconds: float
    memory: int | None

    def summary(self):
        """Returns the estimate as text, a line for each fact."""
        many = self.architectures
        rows = {
            "architectures": f"{many:,}" if many < 1e9 else f"{many:.1e}",
            "parameters": f"{self.parameters:,}",
            "steps": f"{self.steps:,}, up to {self.search_steps:,} of search, "
            f"{self.outer_steps:,} outer ones",
            "step of search": f"{1e3 * self.search_step:.1f} ms",
            "step of training": f"{1e3 * self.train_step:.1f} ms",
            "compiling": f"{self.compile_seconds:.0f} s",
            "whole run": f"{self.seconds:.0f} s",
        }
        if not self.search_steps:
            del rows["step of search"]
        if self.memory is not None:
            rows["memory"] = f"{self.memory / 1e9:.1f} GB"
        return "\n".join(f"{name:<18}{value}" for name, value in rows.items())


def estimated(
    joint,
    batches,
    search_batches,
    distribution,
    pace,
    outer_every,
    schedule,
    refinement,
):
    """Returns the `Estimate` of a run.

    Args:
        joint: `keras_dha.joint_model.JointModel` that the run starts from.
        batches, search_batches, distribution, outer_every, schedule,
            refinement: As `keras_dha.run.Run` takes them.
        pace: `pace.StepPace` of the run.
    """
    architecture = joint.architecture
    is_searched = architecture.is_searched
    plan = phases.plan(
        pace.total,
        architecture.strategy if is_searched else None,
        refinement,
    )
    architectures = number_of_architectures(joint.network)
    parameters = joint.network.count_params() - sum(
        decision.count_params() for decision in find_decisions(joint.network)
    )
    searching = training = _Times(0.0, 0.0, 0.0)
    is_tested = isinstance(schedule, str) and trust.lacks_start(joint)
    stepper = Stepper(
        *(joint, batches, search_batches, distribution, pace, plan),
        *(outer_every, schedule, RunRecord(pace.total, time.monotonic())),
    )
    stepper.begin()
    stepper.open_streams()

    def count_outer(*steps):
        return sum(stepper.is_outer(step, step) for step in range(*steps))

    outer_searching = 0
    # Layers may be the user's own, who is to get them back as they were.
    begun_with, copy = joint, trust.copy_of(joint)
    try:
        if is_searched:
            with compiled.unoptimized_graphs():
                searching = _timed(stepper, joint)
            outer_searching = count_outer(plan.search_end)
            with distribution.scope():
                joint = carried_over.derived(joint)
                stepper.use(joint)
        training = _timed(stepper, joint)
        outer_training = count_outer(plan.search_end, plan.total)
    finally:
        trust.restore(begun_with, copy)
    first = searching if is_searched else training
    trained = plan.total - plan.search_end
    seconds = (
        searching.compiling
        + training.compiling
        + is_tested * trust.RANGE_TEST_STEPS * first.inner
        + searching.of(plan.search_end, outer_searching)
        + training.of(trained, outer_training)
    )
    return Estimate(
        architectures=architectures,
        parameters=parameters,
        steps=plan.total,
        search_steps=plan.search_end,
        outer_steps=outer_searching + outer_training,
        search_step=searching.mean(plan.search_end, outer_searching),
        train_step=training.mean(trained, outer_training),
        compile_seconds=searching.compiling + training.compiling,
        seconds=seconds,
        memory=_highest_memory(),
    )


@contextlib.contextmanager
def leaving_decisions(search_space):
    """The scope behind which no run has been at a network of the user's.

    Neither its decisions nor what it was compiled with are those of a run.

    Args:
        search_space: As `keras_dha.AutoModel` takes it.
    """
    is_network = isinstance(search_space, keras.Model)
    decisions = find_decisions(search_space) if is_network else []
    before = [(decision.code, decision.strategy) for decision in decisions]
    arguments = compiled_with(search_space) if is_network else {}
    try:
        yield
    finally:
        if arguments:
            search_space.compile(**arguments)
        elif is_network:
            search_space.compiled = False
        for decision, (code, strategy) in zip(decisions, before, strict=True):
            decision.strategy = strategy
            if code is None:
                decision.forget_code()


def number_of_architectures(network):
    """Returns how many networks a search of one chooses from, an integer.

    Args:
        network: `keras.Model` with or without choices.
    """
    return math.prod(
        decision.count_options()
        for decision in find_decisions(network)
        if not decision.is_frozen
    )


@dataclasses.dataclass(frozen=True)
class _Times:
    """Seconds of an inner and an outer step, and of their first calls."""

    inner: float
    outer: float
    compiling: float

    def of(self, steps, outer):
        """Returns the seconds of so many steps, of which some are outer."""
        return steps * self.inner + outer * (self.outer - self.inner)

    def mean(self, steps, outer):
        """Returns the mean seconds of a step."""
        return self.of(steps, outer) / max(steps, 1)


def _timed(stepper, joint):
    """Returns the `_Times` of the joint model that a stepper goes on with."""
    begun = time.monotonic()
    is_searched = joint.architecture.is_searched
    phase = phases.SEARCH if is_searched else phases.TRAIN
    kinds = {False: [], True: []}

    def take(is_outer):
        begun = time.monotonic()
        # Reading the loss waits for a device that works on its own.
        float(stepper.take(0, phase, is_outer))
        kinds[is_outer].append(time.monotonic() - begun)

    kinds_of_steps = [False]
    if stepper.has_search_data and joint.needs_search_data:
        kinds_of_steps.append(True)
    for is_outer in kinds_of_steps:
        take(is_outer)
    compiling = time.monotonic() - begun
    for is_outer in kinds_of_steps:
        for _ in range(_TIMED):
            take(is_outer)
    inner = sorted(kinds[False][1:])[_TIMED // 2]
    outer = sorted(kinds[True][1:])[_TIMED // 2] if kinds[True] else inner
    return _Times(inner, outer, compiling)


def _highest_memory():
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.config.experimental.get_memory_info(gpus[0].name)["peak"]
    with contextlib.suppress(ImportError):
        # Not on Windows.
        import resource
        import sys

        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else 1024 * highest
    return None
