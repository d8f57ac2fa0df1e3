"""A run: one `fit`, from the first step to the derived, trained network.

Keras' own `fit` trains one model with one step function. A run has two: a
plain inner step and, every so often, a joint one; under a distribution
strategy this cannot be a branch inside the step, because what replicas
exchange may not stand in a conditional. And it changes the network on its
way. So the loop is here; callbacks, metrics and the progress bar are Keras'.
"""

import contextlib
import time

import keras
import numpy as np
import tensorflow as tf

from keras_dha import compiled
from keras_dha import phases
from keras_dha import progress
from keras_dha.architecture import health
from keras_dha.architecture.genotype import chosen_names
from keras_dha.architecture.genotype import genotype
from keras_dha.calibration import recalibrate
from keras_dha.hyperparameters import range_test
from keras_dha.hyperparameters.ranges import Range
from keras_dha.result import SearchResult

# The name under which the time of first calls is kept.
TRACING = "tracing"
RANGE_TEST = "range test"
# Enough steps for a smooth curve, few enough to cost little of a run.
_RANGE_TEST_STEPS = 60
_RANGE_TEST_LOW, _RANGE_TEST_HIGH = 1e-3, 3.0


class Run:
    """Executes the phases of one `fit` on a joint model.

    Args:
        joint: `keras_dha.joint_model.JointModel` to start from.
        batches: Training batches (`ArrayBatches` or `StreamBatches`).
        search_batches: Batches of the search split, or `None`.
        distribution: `tf.distribute.Strategy`.
        epochs: Integer, at which epoch the run ends.
        steps_per_epoch: Integer.
        outer_every: Integer, inner steps for each joint one.
        verbose: 0, 1 or 2.

    Attributes:
        joint: The joint model as it is now; another one once derived.
        genotype: The architecture found, fixed when the network is derived.
        seconds: Dict from phase to seconds spent in it.
    """

    def __init__(
        self,
        joint,
        batches,
        search_batches,
        distribution,
        epochs,
        steps_per_epoch,
        outer_every,
        verbose,
    ):
        self.batches = batches
        self.search_batches = search_batches
        self.distribution = distribution
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.outer_every = outer_every
        self.verbose = verbose
        self.genotype = None
        self.seconds = {}
        self.steps = {}
        architecture = joint.architecture
        searched = architecture.strategy if architecture.is_searched else None
        self.plan = phases.plan(epochs * steps_per_epoch, searched)
        self._next_step = 0
        self._frozen = 0
        self._decisions = {}
        self._search_options = contextlib.ExitStack()
        self._use(joint)

    def _use(self, joint):
        self.joint = joint
        self._traced = []
        self._build_metrics()
        self._inner, self._joint_step = compiled.step_functions(
            joint, self.distribution
        )

    def _build_metrics(self):
        """Lets metrics create their variables before a step is compiled.

        A `tf.function` that creates variables is traced twice.
        """
        network = self.joint.network
        labels = next(iter(self.batches.dataset()))[1]
        outputs = tf.zeros([tf.shape(labels)[0], *network.output_shape[1:]])

        def update():
            network.compute_metrics(None, labels, outputs)

        self.distribution.run(update)
        network.reset_metrics()

    @property
    def is_derived(self):
        """Whether the network is plain by now."""
        return not self.joint.architecture.is_searched

    def phase(self):
        """Returns the name of the phase that the next step belongs to."""
        return self.plan.phase(self._next_step, self.is_derived, self._frozen)

    def range_test(self):
        """Finds where the learning rate starts and ends; rolls back.

        Returns:
            The `range_test.RangeTest`, already applied.
        """
        learned = self.joint.hyperparameters
        saved = [keras.ops.convert_to_numpy(v) for v in self.joint.variables]
        tried = range_test.rates(
            _RANGE_TEST_LOW, _RANGE_TEST_HIGH, _RANGE_TEST_STEPS
        )
        losses = []
        stream = self._batches_from(self.batches, 0)
        current = learned.value("learning_rate")
        for rate in tried:
            # One seed, and so one path: paths differ more than rates do.
            self.joint.step.assign(0)
            # The rate under test, as a factor of the one that is set.
            loss = self._inner(next(stream), tf.cast(rate / current, "float32"))
            losses.append(float(loss))
            if range_test.has_diverged(losses):
                break
        found = range_test.evaluate(tried[: len(losses)], losses)
        for variable, value in zip(self.joint.variables, saved, strict=True):
            variable.assign(value)
        self.joint.network.reset_metrics()
        learned.set_value("learning_rate", found.start, high=found.high)
        return found

    def fit(self, owner, callbacks, validate, is_new):
        """Runs all epochs; returns the `keras.callbacks.History`.

        Args:
            owner: The `AutoModel`; the callbacks' `model`.
            callbacks: List of Keras callbacks, or `None`.
            validate: Function that returns validation logs, or `None`.
            is_new: Whether nothing was trained before.
        """
        with self._search_options:
            if not self.is_derived:
                self._search_options.enter_context(
                    compiled.unoptimized_graphs()
                )
            return self._fit(owner, callbacks, validate, is_new)

    def _fit(self, owner, callbacks, validate, is_new):
        begun = time.monotonic()
        learned = self.joint.hyperparameters
        rate = learned.values["learning_rate"]
        if is_new and isinstance(rate, Range) and rate.start is None:
            self.range_test()
            self.seconds[RANGE_TEST] = time.monotonic() - begun
            self.steps[RANGE_TEST] = _RANGE_TEST_STEPS
        # One stream for all epochs: to end one costs as much as many batches.
        done = int(self.joint.step.numpy())
        self._stream = self._batches_from(self.batches, done)
        self._search_stream = None
        if self.search_batches is not None and self.joint.needs_search_data:
            self._search_stream = self._batches_from(
                self.search_batches, done // self.outer_every
            )
        self.starts = {n: float(learned.value(n)) for n in learned.values}
        shown = progress.Progress(
            self.plan,
            self.phase,
            self.steps_per_epoch,
            self.epochs,
            self.verbose,
        )
        listeners = keras.callbacks.CallbackList(
            [shown, *(callbacks or [])],
            add_history=True,
            model=owner,
            verbose=self.verbose,
            epochs=self.epochs,
            steps=self.steps_per_epoch,
        )
        listeners.on_train_begin()
        for epoch in range(self.epochs):
            listeners.on_epoch_begin(epoch)
            logs = self.epoch(epoch, listeners)
            last = epoch + 1 == self.epochs
            if last:
                self._finish()
            owner.joint = self.joint
            if validate is not None:
                logs |= validate()
            listeners.on_epoch_end(epoch, logs)
            if owner.stop_training:
                break
        if not last:
            self._finish()
            owner.joint = self.joint
        listeners.on_train_end(logs)
        self.total_seconds = time.monotonic() - begun
        self.history = owner.history
        return owner.history

    def _finish(self):
        """Leaves a plain network whose statistics fit its weights."""
        if not self.is_derived:
            self.derive()
        self.recalibrate()
        if self._search_stream and self.joint.policy.augmentation:
            self._choose_statistics()

    def result(self, genotype_before):
        """Returns the `SearchResult` of a run that was fitted.

        Args:
            genotype_before: Genotype of the run this one went on from.
        """
        learned, augmentation = (
            self.joint.hyperparameters,
            self.joint.policy.augmentation,
        )
        return SearchResult(
            genotype=self.genotype or genotype_before,
            policy=augmentation and augmentation.policy(),
            hyperparameters={
                name: {
                    "value": float(learned.value(name)),
                    "start": self.starts[name],
                    "learned": name in learned.learned,
                }
                for name in learned.values
            },
            history=self.history.history,
            cost={
                "seconds": self.total_seconds,
                "phases": {
                    name: {"seconds": seconds, "steps": self.steps[name]}
                    for name, seconds in self.seconds.items()
                },
                "parameters": self.joint.network.count_params(),
            },
        )

    def epoch(self, epoch, callbacks):
        """Runs one epoch; returns its logs, a dict of floats."""
        self.joint.network.reset_metrics()
        losses = []
        for k in range(self.steps_per_epoch):
            self._next_step = epoch * self.steps_per_epoch + k
            callbacks.on_train_batch_begin(k)
            loss = self._step()
            losses.append(loss)
            callbacks.on_train_batch_end(k, {"loss": loss})
            self._next_step += 1
            self._settle()
        loss = float(np.mean([float(loss) for loss in losses]))
        if not np.isfinite(loss):
            raise FloatingPointError(
                "The training loss is not finite any more. Lower the upper "
                "bound of the learning rate, for instance with "
                'hyperparameters={"learning_rate": keras_dha.Range(1e-3, '
                f"0.1)}}. Received: loss={loss} in epoch {epoch + 1}"
            )
        return {"loss": loss, **self._metrics(), **self._trajectory()}

    def _step(self):
        step, phase, begun = self._next_step, self.phase(), time.monotonic()
        if phase in (phases.SEARCH, phases.SETTLE):
            self.joint.architecture.start()
            self.joint.architecture.advance_to(self.plan.progress(step))
        schedule = tf.constant(
            phases.base_schedule(step, self.plan.total), "float32"
        )
        batch = next(self._stream)
        is_outer = self._search_stream and step % self.outer_every == 0
        if is_outer:
            function = self._joint_step
            loss = function(batch, schedule, next(self._search_stream))
        else:
            function = self._inner
            loss = function(batch, schedule)
        if function not in self._traced:
            # The first call compiles the step: that is no time of a phase.
            self._traced.append(function)
            phase = TRACING
        self.seconds[phase] = (
            self.seconds.get(phase, 0.0) + time.monotonic() - begun
        )
        self.steps[phase] = self.steps.get(phase, 0) + 1
        return loss

    def _settle(self):
        """Hardens decisions; derives the network when none is left."""
        step = self._next_step
        if self.is_derived or step <= self.plan.warmup_end:
            return
        last = step >= self.plan.search_end
        if not last and step % self.plan.check_every:
            return
        architecture = self.joint.architecture
        hardened = architecture.strategy.harden(architecture.decisions)
        self._frozen += len(hardened)
        if last or all(d.is_frozen for d in architecture.decisions):
            self.derive()

    def derive(self):
        """Makes the network plain; layers and weights are inherited."""
        self._search_options.close()
        self.genotype = genotype(self.joint.network)
        names = ", ".join(chosen_names(self.genotype))
        progress.message(f"\nDerived the plain network: {names}", self.verbose)
        counted = [v.numpy() for v in self._metric_variables()]
        searched = self.joint
        with self.distribution.scope():
            self._use(searched.derive())
        self._decisions = health.trajectory(
            searched.architecture.decisions, searched.network
        )
        health.warn_of_collapse(searched.network)
        # The epoch's metrics go on where they were.
        for variable, value in zip(
            self._metric_variables(), counted, strict=True
        ):
            variable.assign(value)
        self.recalibrate()

    def _metric_variables(self):
        metrics = self.joint.network.metrics
        return [v for metric in metrics for v in metric.variables]

    def recalibrate(self):
        """Fits the normalisation statistics to the weights as they are."""
        recalibrate(self.joint.network, self._augmented_images())

    def _choose_statistics(self):
        """Takes statistics of clean images if the search split prefers them.

        The weights were trained on augmented images, the network will see
        clean ones: which statistics do better depends on the data.
        """
        network = self.joint.network
        augmented, loss = network.get_weights(), self._search_loss()
        recalibrate(network, (x for x, _ in self.batches.dataset()))
        if self._search_loss() > loss:
            network.set_weights(augmented)

    def _search_loss(self):
        """Returns the loss on the search split as an exported model has it."""
        network, losses = self.joint.network, []
        batches = self.search_batches
        forward = tf.function(
            lambda x: network(x, training=False), jit_compile=False
        )
        for images, labels in batches.dataset().take(batches.steps):
            loss = self.joint.loss_object.call(labels, forward(images))
            losses.append(float(tf.reduce_mean(loss)))
        return np.mean(losses)

    def _augmented_images(self):
        for number, (images, _) in enumerate(self.batches.dataset()):
            seed = tf.constant([self.joint.seed, number])
            yield self.joint.policy.augment(images, (seed, seed))[1]

    def _metrics(self):
        results = self.joint.network.get_metrics_result()
        return {k: float(v) for k, v in results.items() if k != "loss"}

    def _trajectory(self):
        """Returns the current values of all that is learned by gradient."""
        learned = self.joint.hyperparameters
        logs = {name: float(learned.value(name)) for name in learned.learned}
        if self.joint.policy.augmentation is not None:
            logs["policy_entropy"] = (
                self.joint.policy.augmentation.policy().entropy
            )
        if not self.is_derived:
            self._decisions = health.trajectory(
                self.joint.architecture.decisions, self.joint.network
            )
        # Every epoch has the same quantities, as a table wants it.
        logs |= self._decisions
        return {k: float(v) for k, v in logs.items()}

    def _batches_from(self, batches, step):
        dataset = batches.dataset(step)
        return iter(self.distribution.experimental_distribute_dataset(dataset))
