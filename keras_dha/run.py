"""A run: one `fit`, from the first step to the derived, trained network.

Keras' own `fit` trains one model with one step function. A run has two
(`keras_dha.stepping`), and it changes the network on its way. So the loop is
here; callbacks, metrics and the progress bar are Keras'.
"""

import contextlib
import time
import warnings

import keras
import numpy as np

from keras_dha import calibration
from keras_dha import carried_over
from keras_dha import compiled
from keras_dha import phases
from keras_dha import progress
from keras_dha import run_record
from keras_dha import trust
from keras_dha.architecture import health
from keras_dha.architecture.genotype import chosen_names
from keras_dha.architecture.genotype import genotype
from keras_dha.stepping import Stepper

# Of the time of a step, whose way back is about twice the way forward.
_FORWARD = 1 / 3


class Run:
    """Executes the phases of one `fit` on a joint model.

    Args:
        joint: `keras_dha.joint_model.JointModel` to start from.
        batches: Training batches (`ArrayBatches` or `StreamBatches`).
        search_batches: Batches of the search split, or `None`.
        distribution: `tf.distribute.Strategy`.
        pace: `pace.StepPace` or `pace.ClockPace`, how long it goes on.
        steps_per_epoch: Integer.
        outer_every: As `outer_steps.OuterSteps` takes it.
        verbose: 0, 1 or 2.
        begun: Float, the reading of `time.monotonic()` when `fit` was called.
        schedule: Base schedule of the learning rate, see
            `keras_dha.base_schedule`.
        refinement: Last share of the run, over which augmentation fades out
            and nothing but weights is learned.
        genotype: That which the network was derived by before, or `{}`.

    Attributes:
        joint: The joint model as it is now; another one once derived.
        genotype: The architecture found, fixed when the network is derived;
            `{}` before.
        epochs_done: Integer.
        record: `keras_dha.run_record.RunRecord` of what happened.
    """

    def __init__(
        self,
        joint,
        batches,
        search_batches,
        distribution,
        pace,
        steps_per_epoch,
        outer_every,
        verbose,
        begun,
        schedule="warmup_cosine",
        refinement=0.0,
        genotype=None,
    ):
        self.schedule = schedule
        self.batches = batches
        self.search_batches = search_batches
        self.distribution = distribution
        self.pace = pace
        self.steps_per_epoch = steps_per_epoch
        self.verbose = verbose
        self.genotype = genotype or {}
        self.record = run_record.RunRecord(pace.total, begun)
        architecture = joint.architecture
        searched = architecture.strategy if architecture.is_searched else None
        self.plan = phases.plan(pace.total, searched, refinement)
        self._next_step = 0
        # What has come to rest shows after a while of moving.
        self._next_check = self.plan.warmup_end + self.plan.check_every
        self._guard = None
        self._frozen = 0
        self.epochs_done = 0
        # The weights of epochs whose statistics are those of small images.
        self._of_small_images = set()
        # Of the last epoch, without compiling.
        self._seconds_of_epoch = 0.0
        self._validation_steps = 0.0
        self._search_options = contextlib.ExitStack()
        self.joint = joint
        self._stepper = Stepper(
            *(joint, batches, search_batches, distribution, pace, self.plan),
            *(outer_every, schedule, self.record),
        )

    @property
    def has_trained(self):
        """Whether a step was taken, in a run that was stopped as well."""
        return self._next_step > 0

    @property
    def is_derived(self):
        """Whether the network is plain by now."""
        return not self.joint.architecture.is_searched

    def phase(self):
        """Returns the name of the phase that the next step belongs to."""
        position = self.pace.position(self._next_step)
        return self.plan.phase(
            position, self.is_derived, self._frozen, self.joint.is_shrunk
        )

    def state(self):
        """Returns what a run goes on from beside its joint model, plain data.

        At the end of an epoch.
        """
        return {
            "epochs": self.epochs_done,
            "step": self._next_step,
            "check": self._next_check,
            "frozen": self._frozen,
            **self._stepper.state(),
            "pace": self.pace.state(),
            "guard": self._guard.state(),
            "record": self.record.state(),
        }

    def resume(self, state):
        """Goes on where a run was stopped, from its joint model.

        Args:
            state: Dict, as `state` returned it.
        """
        self.epochs_done, self._next_step = state["epochs"], state["step"]
        self._next_check, self._frozen = state["check"], state["frozen"]
        self.pace.resume(state["pace"])
        self.record.resume(state["record"])
        self._stepper.resume(state, self.phase())
        self._watch(self._stepper.test_range)
        self._guard.resume(state["guard"])

    def fit(
        self,
        owner,
        callbacks,
        validate,
        is_new,
        keep=None,
        validation_steps=0.0,
    ):
        """Runs all epochs; returns the `keras.callbacks.History`.

        Args:
            owner: The `AutoModel`; the callbacks' `model`.
            callbacks: List of Keras callbacks, or `None`.
            validate: Function of a `CallbackList` that returns validation
                logs, or `None`.
            is_new: Whether nothing was trained before.
            keep: Function that is called after each epoch but the last, when
                `state` is all there is to know; or `None`.
            validation_steps: Float, to how many training batches validation
                data amount, as far as that is known.
        """
        self._validation_steps = validation_steps
        with self._search_options:
            if not self.is_derived:
                self._search_options.enter_context(
                    compiled.unoptimized_graphs()
                )
            return self._fit(owner, callbacks, validate, is_new, keep)

    def _fit(self, owner, callbacks, validate, is_new, keep):
        listeners = self._begin(owner, callbacks, is_new)
        while True:
            logs, last = self._epoch(owner, listeners, validate)
            if last or owner.stop_training:
                break
            if keep is not None:
                # A checkpoint has what callbacks added to the logs as well.
                self.record.take_over(owner.history.history)
                keep()
        if not last:
            self._warn_of_stop()
            self._finish()
            self._hand_over(owner)
        self._end(listeners, logs)
        self.record.end(self.joint.hyperparameters, owner.history.history)
        if not owner.stop_training:
            self.pace.check(
                self._next_step, self.steps_per_epoch, self._spent()
            )
        return owner.history

    def _begin(self, owner, callbacks, is_new):
        """Prepares for the first step; returns the begun `CallbackList`."""
        is_resumed = self._stepper.has_begun
        if not is_resumed:
            # The `fit` before may have been interrupted in its search.
            self.joint.architecture.rest()
            self.record.begin(self.joint.hyperparameters)
        # Before steps are compiled: what a callback cannot do, as to write to
        # a directory that is missing, it says here.
        listeners = self._listeners(owner, callbacks)
        listeners.on_train_begin()
        if not is_resumed:
            self._find_rate(is_new)
            # From where a range test has left them.
            self.record.begin(self.joint.hyperparameters)
            self._stepper.begin()
        self._stepper.open_streams()
        if not is_resumed:
            self.pace.start()
        before = {name: list(v) for name, v in self.record.history.items()}
        owner.history.history.update(before)
        owner.history.epoch.extend(range(self.epochs_done))
        return listeners

    def _warn_of_stop(self):
        """Warns if a callback ends the run before its network has settled."""
        plan, needed = self.plan, 0
        position = self.pace.position(self._next_step)
        if plan.refine_from < plan.total and self.joint.policy.augments:
            needed = plan.refine_from
        if not self.is_derived:
            needed = max(needed, plan.search_end)
            what = "its architecture was still searched"
        elif self.joint.is_shrunk:
            needed = max(needed, plan.whole_from)
            what = "it had shown small images alone"
        elif position < needed:
            what = "it augmented images as much as ever"
        else:
            return
        warnings.warn(
            f"A callback stopped the run while {what}, so weights have not "
            "settled on what is delivered. A run is laid out over the length "
            "that it is given: give fewer `epochs`, or a `time_limit`, or let "
            "`EarlyStopping` wait for "
            f"{needed / plan.total:.0%} of the run by `start_from_epoch`. "
            f"Received: a stop after {self.epochs_done} epochs, at "
            f"{position / plan.total:.0%} of the run",
            stacklevel=2,
        )

    def _end(self, listeners, logs):
        """Tells callbacks of the end, where they may restore weights."""
        listeners.on_train_end(logs)
        if self._weights() in self._of_small_images:
            calibration.fit_statistics(self.joint, self.batches)

    def _weights(self):
        """Returns what weights are told apart by."""
        return hash(self.joint.weight_vector.read().numpy().tobytes())

    def _listeners(self, owner, callbacks):
        shown = progress.Progress(
            self.pace,
            self.phase,
            self.steps_per_epoch,
            self.verbose,
        )
        return keras.callbacks.CallbackList(
            [shown, *(callbacks or [])],
            add_history=True,
            model=owner,
            verbose=self.verbose,
            epochs=self.pace.epochs,
            steps=self.steps_per_epoch,
        )

    def _epoch(self, owner, listeners, validate):
        """Runs one epoch and what belongs to its end.

        Returns:
            Its logs, a dict of floats, and whether it was the last one.
        """
        listeners.on_epoch_begin(self.epochs_done)
        begun, step = self._seconds_of_steps(), self._next_step
        logs = self.epoch(owner, listeners)
        self._seconds_of_epoch = self._seconds_of_steps() - begun
        each = self._seconds_of_epoch / (self._next_step - step)
        # A forward pass takes less than a step, and has to be traced.
        self.pace.reserve("statistics", each * self._calibrated_batches())
        last = self.pace.is_over(self._next_step)
        if last:
            self._finish()
        elif self.joint.is_shrunk:
            self._of_small_images.add(self._weights())
        self._hand_over(owner)
        if validate is not None:
            begun = time.monotonic()
            logs |= validate(listeners)
            self.pace.reserve("validation", time.monotonic() - begun)
        self.record.end_epoch(logs)
        listeners.on_epoch_end(self.epochs_done, logs)
        self.epochs_done += 1
        return logs, last

    def _hand_over(self, owner):
        """Gives the `AutoModel` what there is, should the run end here."""
        owner.joint, owner.found = self.joint, self.genotype

    def _finish(self):
        """Leaves a plain network whose statistics fit its weights."""
        if not self.is_derived:
            self.derive()
        if self.joint.is_shrunk:
            self._show_whole_images()
        position = self.pace.position(self._next_step)
        self._stepper.refine(self._next_step, position)
        calibration.fit_statistics(self.joint, self.batches)
        if self._stepper.has_search_data and self.joint.policy.augments:
            calibration.choose_statistics(
                self.joint, self.batches, self.search_batches
            )

    def _seconds_of_steps(self):
        """Returns the time now, less what was spent on tracing."""
        tracing = self.record.seconds.get(run_record.TRACING, 0.0)
        return time.monotonic() - tracing

    def _foresee(self, seconds):
        """Keeps time for the end of a run that its first epoch may not reach.

        Args:
            seconds: Float, the time of the epoch so far, without compiling.
        """
        compiled_steps = self.record.steps.get(run_record.TRACING, 0)
        if self._next_step > compiled_steps:
            each = seconds / (self._next_step - compiled_steps)
            validation = _FORWARD * each * self._validation_steps
            self.pace.foresee("statistics", each * self._calibrated_batches())
            self.pace.foresee("validation", validation)

    def _spent(self):
        """Returns what the time of the first epoch went by, in seconds."""
        waited = self.record.waited
        tracing = self.record.seconds.get(run_record.TRACING, 0.0)
        return {
            "reading data": sum(waited.values()),
            "compiling": tracing - waited[True],
            "steps": self._seconds_of_epoch - waited[False],
        }

    def _calibrated_batches(self):
        """Returns how many batches `_finish` takes, about."""
        fades = self.plan.refine_from < self.plan.total
        return calibration.BATCHES * (1 if fades else 2)

    def result(self):
        """Returns the `SearchResult`, during `fit` as far as it is done."""
        found = self.genotype
        if not self.is_derived:
            found = genotype(self.joint.network)
        # There is no guard before the rate is found.
        undone = self._guard.undone if self._guard else 0
        return self.record.result(self.joint, found, undone)

    def _find_rate(self, is_new):
        """Finds where the learning rate starts, if that is to be found."""
        # The rates of a Keras schedule are not known to a range test.
        test = None
        if isinstance(self.schedule, str):
            test = self._stepper.test_range
        if test and is_new and trust.lacks_start(self.joint):
            # The test is to see what the first steps see.
            self._stepper.refine(0, 0)
            test()
            # Once more, it would say the same.
            test = None
        self._watch(test)

    def _watch(self, test):
        # From here on: it begins with a copy of the whole state.
        self._guard = trust.Guard(self.joint, test=test)

    def epoch(self, owner, callbacks):
        """Runs one epoch; returns its logs, a dict of floats."""
        self.joint.network.reset_metrics()
        losses, begun = [], self._seconds_of_steps()
        for k in range(self.steps_per_epoch):
            callbacks.on_train_batch_begin(k)
            loss = self._stepper.take(self._next_step, self.phase())
            losses.append(loss)
            callbacks.on_train_batch_end(k, {"loss": loss})
            self._next_step += 1
            if not self.epochs_done:
                self._foresee(self._seconds_of_steps() - begun)
            losses = losses[: len(losses) - self._guard.check(loss)]
            change = self._due_change()
            if change:
                # What goes on counts as good, so it has to be.
                losses = losses[: len(losses) - self._guard.look()]
                change()
                # An epoch may be long, and be interrupted.
                self._hand_over(owner)
            if owner.stop_training or self.pace.is_over(self._next_step):
                break
        losses = losses[: len(losses) - self._guard.look()]
        # Where all of an epoch was undone, the loss before it.
        losses = losses or [self._guard.loss]
        loss = float(np.mean([float(loss) for loss in losses]))
        if not np.isfinite(loss):
            raise FloatingPointError(
                "The training loss is not finite any more. Lower the upper "
                "bound of the learning rate, for instance with "
                'hyperparameters={"learning_rate": keras_dha.Range(1e-3, '
                f"0.1)}}. Received: loss={loss} at step {self._next_step}"
            )
        return {
            "loss": loss,
            **self._metrics(),
            **self.record.trajectory(self.joint),
        }

    def _due_change(self):
        """Returns the method that is to change the network now, or `None`."""
        position = self.pace.position(self._next_step)
        if self._has_settled(position):
            return self.derive
        if self.joint.is_shrunk and position >= self.plan.whole_from:
            return self._show_whole_images
        return None

    def _has_settled(self, position):
        """Hardens decisions; returns whether the network is to be derived."""
        if self.is_derived or position <= self.plan.warmup_end:
            return False
        last = position >= self.plan.search_end
        if not last and position < self._next_check:
            return False
        self._next_check = position + self.plan.check_every
        architecture = self.joint.architecture
        hardened = architecture.harden()
        self._frozen += len(hardened)
        return last or all(d.is_frozen for d in architecture.decisions)

    def derive(self):
        """Makes the network plain; layers and weights are inherited."""
        self._search_options.close()
        searched = self.joint
        self.genotype = genotype(searched.network)
        self._go_on_with(carried_over.derived)
        # A target may take another candidate than the most probable one.
        for name, gene in genotype(searched.network).items():
            self.genotype[name]["choice"] = gene["choice"]
        names = ", ".join(chosen_names(self.genotype))
        progress.message(f"\nDerived the plain network: {names}", self.verbose)
        self.record.look_at_decisions(searched)
        health.warn_of_collapse(searched.network)
        calibration.fit_statistics(
            self.joint, self.batches, calibration.BATCHES_BETWEEN
        )
        # What it goes back to has these statistics.
        self._guard.watch(self.joint)

    def _show_whole_images(self):
        progress.message("\nGoes on with whole images", self.verbose)
        # Statistics follow within some steps, and are fitted in the end.
        self._go_on_with(carried_over.on_whole_images)
        self._guard.watch(self.joint)

    def _go_on_with(self, change):
        """Goes on with the joint model that `change` makes of this one."""
        counted = [v.numpy() for v in self._metric_variables()]
        with self.distribution.scope():
            self.joint = change(self.joint)
            self._stepper.use(self.joint)
        # The epoch's metrics go on where they were.
        for variable, value in zip(
            self._metric_variables(), counted, strict=True
        ):
            variable.assign(value)

    def _metric_variables(self):
        metrics = self.joint.network.metrics
        return [v for metric in metrics for v in metric.variables]

    def _metrics(self):
        results = self.joint.network.get_metrics_result()
        return {k: float(v) for k, v in results.items() if k != "loss"}
