"""`AutoModel`: one `fit` that learns weights and everything around them."""

import functools
import time
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_dha import arguments
from keras_dha import compile_arguments
from keras_dha import data
from keras_dha import evaluable_data
from keras_dha import optimizers
from keras_dha import preparation
from keras_dha import progress
from keras_dha import readable
from keras_dha import run_identity
from keras_dha import run_record
from keras_dha import saving
from keras_dha import settings
from keras_dha import sharing
from keras_dha.assembly import assemble
from keras_dha.assembly import keeping_generators
from keras_dha.estimate import estimated
from keras_dha.estimate import leaving_decisions
from keras_dha.pace import ClockPace
from keras_dha.pace import StepPace
from keras_dha.result_format import DETAILS
from keras_dha.run import Run
from keras_dha.run_directory import RunDirectory
from keras_dha.trained import Trained


class AutoModel(Trained):
    """Trains a Keras model once and learns the rest during that run.

    In one `fit` it learns the weights, which candidate each
    `keras_dha.Choice` of the search space keeps, how images are augmented,
    and learning rate and weight decay. What comes out is a trained plain
    `keras.Model`.

    Args:
        search_space: `"auto"` for `"resnet"`, `"darts"`, `"mobile"`,
            `"nas_bench_201"` or `"shufflenet"` with their defaults, the first
            with its `bottlenecks` if there is a `target`; or a
            `keras.Model` with or without `keras_dha.Choice` layers; or a
            function `(input_shape, num_classes) -> keras.Model`. Networks of
            your own may have several inputs and several outputs; a function
            then gets a dict or list of shapes, or of numbers of classes, as
            the data are one. A `keras.Model` is trained itself, and compiled
            for that; what it was compiled with before is not taken over.
        method: `"auto"` learns all three parts, and so do `"dha"` and
            `"diffautoml"`, as in the papers of that name; `"autohas"` the
            architecture and hyperparameters by reward; `"dsnas"`, `"gdas"`
            and `"darts"` the architecture alone, by the strategy of that
            name. What differs from the papers: `keras_dha.methods`.
        strategy: `"auto"` for the method's; a `keras_dha.strategies`
            object in its place; `None` to search no architecture: every
            choice takes its first candidate.
        augmentation: `"auto"`, a `keras_dha.DifferentiableAugmentation`, or
            `None`. A layer is moved itself: a second run begins at what the
            first made of it. Data that are not images have none, and a layer
            for them is refused. Of several inputs the one that is an image is
            augmented; if several are, none is. `"auto"` leaves examples of
            two axes as they are where the network goes along one of them, by
            `Conv1D`, recurrent or attention layers without a `Conv2D`.
            With `method="auto"` it augments nine in ten images, fewer in runs
            of few passes over them: in N passes N / 20; and begins with flips
            as rare as mirror images are unlike the images. Fewer and fewer
            images are augmented in the last three tenths of such a run, in
            which policy and hyperparameters stay what they are, also where
            nothing is augmented; a layer of your own goes on as it is, and so
            does what is learned beside it. `"diffautoml"` augments nine in
            ten images and `"dha"` all of them, however many passes there are;
            both begin with flips of a half.
        hyperparameters: `"auto"`, `None` for fixed defaults, a
            `keras_dha.AutoHAS` to learn by reward, or a dict from
            name to a number (fixed) or a `keras_dha.Range` (learned):
            `"learning_rate"`, `"weight_decay"`, `"momentum"` (beta_1 of
            AdamW), each also as a dict from a pattern of layer names to
            these, of which the first that fits counts, as
            `{"stem*": 0.01, "*": 0.1}`; `"label_smoothing"`, `"mixup"` (a of
            Beta(a, a)), `"dropout_rate"` (of `keras_dha.Dropout` layers);
            and names of your own, see `keras_dha.hyperparameter`. What a dict
            does not name is fixed. The fixed defaults are 0.1, 5e-4 and 0.9,
            of AdamW 1e-3, 0.01 and 0.9. `"auto"` learns the first in
            [1e-4, 3] and the second in [1e-4, 1e-2], of AdamW in [1e-6, 0.1]
            and [1e-4, 1]; nothing where `compile` was given an optimizer
            object.
        horizon: How far hypergradients look: `"auto"` for the method's,
            `"discounted"`, `"one_step"`, or, for networks without choices,
            `"forward"` and `"implicit"`; or a
            `keras_dha.hyperparameters.hypergradient.Horizon`. A policy is
            judged at weights that are averaged as far as it says.
        base_schedule: What the learning rate is a factor of:
            `"warmup_cosine"`, `"cosine"`, `"constant"`, or a Keras
            `LearningRateSchedule`, whose rates it then multiplies, by 1 at
            first.
        target: `None`, or a dict of upper limits for the derived network:
            `"params"`, all its weights; `"flops"`, operations for one
            example, a multiply-add being two; `"latency_ms"`, by a
            `"latency_table"` (`keras_dha.LatencyTable`) or else measured
            with Keras on this device when `fit` begins. While searching,
            the relative excess of the expected cost is a penalty of
            `"weight"` 1.0; the network that is derived is within all limits.
            Not for `NodeChoice` and ISTA, so neither for the space
            `"darts"` nor for `method="dha"`.
        search_split: Share of the training data, in (0, 0.5], that trains no
            weights but judges policy and hyperparameters.
        outer_every: Integer, every how many steps these are updated, in
            shorter steps if these are closer than 8 (but for AutoHAS, whose
            steps are as published); `"auto"` is the method's. For `"auto"`
            that is 300 times in a run at most, every 8 steps at first and
            every 16 or 24 later (`keras_dha.outer_steps`), and 8 where these
            steps alone move the architecture or hyperparameters move by
            reward; for `"darts"`, `"dsnas"` and `"gdas"` 8; for `"autohas"`,
            `"dha"` and `"diffautoml"` 1, as in the papers. With
            `horizon="forward"` it is 16, the steps that it looks back over.
        seed: Integer in [0, 2**31) for a reproducible run; `None` draws one.
        directory: Path of a directory for the run, or `None`. `fit` writes
            checkpoints there after epochs, and what was found; killed and
            called again, alike, it goes on from the last checkpoint: with
            `epochs` to what it would have come to, with `time_limit` through
            the time that was left. Once it has ended it loads that, and warns
            if datasets had other examples, a given network other weights or
            validation was on other data. What callbacks remember is not kept.
            A directory is that of one `fit`; what callbacks write belongs
            elsewhere.
            Layers, losses and metrics of your own must be registered with
            `keras.saving.register_keras_serializable`, to be read again.
        overwrite: Whether a run in `directory` that was asked for otherwise,
            or alike, is to be lost and begun anew.

    Example:

    ```python
    model = keras_dha.AutoModel(seed=1)
    model.fit(x_train, y_train, epochs=30)
    model.evaluate(x_test, y_test)
    print(model.result.summary())
    model.export("models/digits/1")
    ```

    Reference:
        Zhou et al., "DHA: End-to-End Joint Optimization of Data Augmentation
        Policy, Hyper-parameter and Architecture", TMLR 2022.
    """

    # Keras' callbacks ask a model for these before they use them.
    optimizer = train_function = None

    def __init__(
        self,
        search_space="auto",
        method="auto",
        strategy="auto",
        augmentation="auto",
        hyperparameters="auto",
        horizon="auto",
        base_schedule="warmup_cosine",
        target=None,
        search_split=0.05,
        outer_every="auto",
        seed=None,
        directory=None,
        overwrite=False,
        **unknown,
    ):
        super().__init__()
        arguments.refuse_unknown(unknown)
        arguments.check_directory(directory, overwrite)
        self.settings = settings.checked(
            search_space,
            method,
            strategy,
            augmentation,
            hyperparameters,
            horizon,
            base_schedule,
            target,
            search_split,
            outer_every,
            seed,
        )
        self._base_schedule = self.settings.base_schedule
        self.stop_training = False
        self._directory = None
        if directory is not None:
            self._directory = RunDirectory(directory, overwrite)
        self._distribution = tf.distribute.get_strategy()

    def compile(
        self,
        optimizer=None,
        loss=None,
        loss_weights=None,
        metrics=None,
        **unknown,
    ):
        """Sets optimizer, loss, metrics; not needed for classification.

        Args:
            optimizer: `"sgd"` (momentum, and weight decay as an L2 penalty),
                `"nesterov"`, `"adamw"`, or a Keras `SGD`, `Adam` or `AdamW`.
                An object's numbers are fixed, or where learning starts if
                `hyperparameters` has a `keras_dha.Range` of that name; the
                base schedule, a name, multiplies its learning rate. A schedule
                of its own takes the base schedule's place, and the learning
                rate is then a factor of it, 1 if not learned. By default
                `"sgd"`, but `"adamw"` for a network in which no batch
                normalisation trains, if `method` and `horizon` are `"auto"`,
                `base_schedule` is a name, and `hyperparameters` names no
                learning rate, weight decay or momentum.
            loss: A Keras loss or its name. By default the cross-entropy that
                fits the labels (integers or one-hot). It gives a number for
                each example, whose mean is trained on; further axes are
                averaged.
                Several outputs have one for all, a dict by output name, or a
                list.
            loss_weights: Of several outputs a number of at least 0 for each,
                as a dict by output name or a list; by default 1. The loss of
                an example is the weighted sum of those of its outputs.
            metrics: List of Keras metrics; none if empty. By default accuracy.
                Of several outputs a dict of such lists by output name, or a
                list of them.
        """
        arguments.refuse_unknown(unknown, where="compile")
        if self.joint is not None:
            raise ValueError(
                "Loss, metrics and optimizer are fixed by the first `fit`. "
                f"Received: loss={loss!r}, metrics={metrics!r}, "
                f"optimizer={optimizer!r}"
            )
        chosen = optimizers.read(optimizer)
        optimizers.check_one_rate(
            chosen, self._base_schedule, self.settings.parts.values
        )
        self.settings.optimizer = chosen
        self.settings.base_schedule = (
            self._base_schedule if chosen.schedule is None else chosen.schedule
        )
        self.settings.loss, self.settings.metrics = loss, metrics
        self.settings.loss_weights = loss_weights

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=None,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        steps_per_epoch=None,
        search_data=None,
        time_limit=None,
        **unknown,
    ):
        """Trains and searches; afterwards the model is plain and trained.

        Called again, it goes on training the derived network.

        Args:
            x: NumPy array of images `(n, h, w)` or `(n, h, w, c)`, or
                vectors `(n, d)` with a search space of your own; or a
                `tf.data.Dataset` of (image, label), batched or not. Sequences
                `(n, time, channels)` are taken for grey images too, unless the
                layers of the network say that they are none: they need
                `augmentation=None`, or they are rotated and cut out of. If its
                images change at random from pass to pass, give `search_data`
                as well: the split tells images apart by what they show.
                Several inputs are a dict of arrays by name, or a tuple or
                list in the network's order; so are the parts of a dataset.
            y: Labels, integers `(n,)` or one-hot `(n, classes)`. Those of
                several outputs are a dict, tuple or list as well. The search
                split is drawn by the first, for a function by the first name.
            batch_size: Integer. By default a dataset's own, else 16 to 128
                by the amount of data.
            epochs: Integer of at least 1, default 30.
            verbose: 0 silent, 1 bars, 2 a line an epoch; `"auto"` is 1.
            callbacks: List of `keras.callbacks.Callback`; their `model` is
                this object. One that stops the run early should wait until
                it has searched and augmentation has faded out, as
                `EarlyStopping` does by `start_from_epoch`: else a warning
                says that the network has not settled.
            validation_split: Float in [0, 1), the share of the arrays `x`
                and `y`, their last examples, to take for `validation_data`.
                It is not `search_split` of the constructor, the part that
                judges what is learned.
            validation_data: Pair of arrays, or dataset that ends, that is
                evaluated after each epoch, and looked through before the
                first. Nothing is learned from it. The last `val_*` are of
                the network that is delivered, unless a callback stopped the
                run: they are then of the one before it was derived, and
                before its statistics were fitted.
            shuffle: Whether to shuffle arrays; datasets keep their order.
            class_weight: Dict from class numbers to weights of at least 0, 1
                for those that it lacks: how much the loss of an example of
                the class counts, in training and where anything is learned
                from the search split, and how much the accuracy of one is
                rewarded there. Validation has none, as in Keras, nor
                have metrics. Of several outputs it is refused.
            steps_per_epoch: Integer; by default one pass over the data. Of a
                dataset of unknown length the classes are those of the first
                epoch, unless labels are one-hot or a `keras.Model` was given.
            search_data: Pair of arrays, or dataset that ends, to be used in
                place of `search_split`, where anything is learned from it.
                Augmentation and learning then go on to the end, as these
                images may be of another kind.
            time_limit: Float, seconds, in place of `epochs`: phases and
                schedules are laid out over that time, all of `fit` included,
                rather than cut off by it; candidates are judged by the time
                they take as well; and the search space `"auto"`, unless
                there is a `target`, gets the resolution and the width that
                the time is enough for (`keras_dha.scale`). A short time is
                for these alone: of this space `method="auto"` searches no
                architecture then, unless `strategy` is given, and the first
                half is on small images (`keras_dha.small_images`).

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: Whatever is wrong with the arguments or the data is
                said before training begins.
            TypeError: An argument that it does not take, with what to use
                instead.
        """
        begun = time.monotonic()
        arguments.refuse_unknown(unknown, where="fit")
        epochs, time_limit, steps_per_epoch = arguments.checked_length(
            epochs, time_limit, steps_per_epoch
        )
        arguments.check_validation(validation_split, validation_data, x)
        callbacks = arguments.checked_callbacks(
            callbacks, self._searches_architecture()
        )
        verbose = arguments.checked_verbose(verbose)
        is_new = self.joint is None
        if not is_new:
            self.joint.weight_vector.check(self.joint.network)
        known = None if is_new else self._spec
        if self._directory:
            self._directory.check(self.settings, is_new)
            known = self._directory.known(x)
        if validation_split:
            form = preparation.known_form(self.settings, self.joint)
            (x, y), validation_data = preparation.split(
                x, y, validation_split, form
            )
        self._spec, training, search, summary = preparation.prepare(
            *(self.settings, self.joint, known),
            *(self._distribution.num_replicas_in_sync, x, y, batch_size),
            *(shuffle, steps_per_epoch, search_data),
        )
        class_weight = arguments.checked_class_weight(
            class_weight, self._spec.num_classes
        )
        validation = self._validation(validation_data, training.batch_size)
        steps = steps_per_epoch or training.steps
        if time_limit is None:
            pace = StepPace(epochs or 30, steps)
        else:
            pace = ClockPace(time_limit, begun)
        saved = self._open_directory(
            summary,
            validation_data,
            x=x,
            y=y,
            search_data=search_data,
            batch_size=training.batch_size,
            shuffle=shuffle,
            class_weight=class_weight,
            epochs=pace.epochs,
            time_limit=time_limit,
            steps=steps,
        )
        if saved and saved.result:
            return self._load_finished(saved, verbose)
        if is_new:
            compile_arguments.warn_of_another_loss(
                self.settings.asked["search_space"], self.settings.loss
            )
        begin = functools.partial(
            self._begin,
            *(training, search, steps, pace, verbose, begun, saved),
            class_weight=class_weight,
            # Images of the user's own to be judged by may be of another kind
            # than clean training images.
            fades=search_data is None,
        )
        return self._execute(begin, callbacks, validation, is_new)

    def estimate(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=None,
        steps_per_epoch=None,
        search_data=None,
        **unknown,
    ):
        """Says what the first `fit` will take, from a few steps of it.

        Steps of each kind are compiled and timed, of the network that is
        searched and of one that could be derived; nothing is kept of them.

        Args:
            x, y, batch_size, epochs, steps_per_epoch, search_data: As `fit`
                takes them. A `time_limit` needs no estimate.

        Returns:
            A `keras_dha.estimate.Estimate`: size of the space, steps, seconds
            and memory; `summary()` is a text.

        Example:

        ```python
        print(keras_dha.AutoModel().estimate(x_train, y_train).summary())
        ```
        """
        arguments.refuse_unknown(unknown, where="estimate")
        epochs, _, steps_per_epoch = arguments.checked_length(
            epochs, None, steps_per_epoch
        )
        if self.joint is not None:
            raise ValueError(
                "`estimate` says what the first `fit` will take; ask a new "
                "`AutoModel`. Received: a model that was fitted"
            )
        spec, training, search, _ = preparation.prepare(
            *(self.settings, None, None),
            *(self._distribution.num_replicas_in_sync, x, y, batch_size),
            *(True, steps_per_epoch, search_data),
        )
        pace = StepPace(epochs or 30, steps_per_epoch or training.steps)
        given = self.settings.asked["search_space"]
        with keeping_generators(), leaving_decisions(given):
            joint, _ = assemble(
                *(self.settings, spec, self._distribution, pace, training)
            )
            preparation.arrange(joint.form, spec, training, search)
            return estimated(
                *(joint, training, search, self._distribution, pace),
                *(self.settings.outer_every, self.settings.base_schedule),
                joint.refinement if search_data is None else 0.0,
            )

    def _validation(self, given, batch_size):
        """Returns a function of callbacks that returns validation logs.

        Or `None`; and to how many batches of that size the data amount.
        """
        if given is None:
            return None, 0.0
        form = preparation.known_form(self.settings, self.joint)
        given = arguments.pair(given)
        counted = given[0]
        size = None if data.is_batched_dataset(counted) else batch_size
        x, y = evaluable_data.validatable(*given, self._spec, form, size)
        if y is not None:
            counted = x
        steps = preparation.batches_in(counted, batch_size)
        return functools.partial(self._validation_logs, x, y, size), steps

    def _begin(
        self,
        training,
        search,
        steps,
        pace,
        verbose,
        begun,
        saved,
        class_weight,
        fades,
    ):
        """Returns the `Run`, a new one or one that goes on."""
        timed = 0.0
        if saved:
            self.joint, self.found = saved.joint, saved.genotype
        elif self.joint is None:
            self.joint, timed = assemble(
                *(self.settings, self._spec, self._distribution, pace),
                *(training, verbose),
            )
        if self._directory:
            # Before anything is learned that no checkpoint could hold.
            sharing.check(self.joint.network)
            readable.check(self.joint, self._arguments())
        self.joint.loss_object.class_weight = class_weight
        self._spec = preparation.arrange(
            *(self.joint.form, self._spec, training, search)
        )
        run = Run(
            self.joint,
            training,
            search,
            self._distribution,
            pace,
            steps,
            self.settings.outer_every,
            verbose,
            begun,
            self.settings.base_schedule,
            refinement=self.joint.refinement if fades else 0.0,
            genotype=self.found,
        )
        if timed:
            run.record.add(run_record.SCALE, timed, 0)
        if saved:
            run.resume(saved.run)
            progress.message(f"Goes on after epoch {run.epochs_done}", verbose)
        return run

    @keeping_generators()
    def _execute(self, begin, callbacks, validation, is_new):
        """Runs all epochs; keeps what came of it and returns the `History`."""
        self.stop_training = False
        run, before = None, self._result
        # Of what is trained by now it is not the result any more.
        self._result = None
        try:
            run = begin()
            run_identity.moves(self.settings)
            self._so_far = run.result
            keep = self._directory and functools.partial(self._keep, run)
            validate, steps = validation
            history = run.fit(self, callbacks, validate, is_new, keep, steps)
        except BaseException as error:
            has_trained = run is not None and run.has_trained
            if not has_trained:
                self._result = before
            is_lost = not has_trained or (
                isinstance(error, FloatingPointError)
                # The guard may have gone back to what is good.
                and not np.all(np.isfinite(self.joint.weight_vector.read()))
            )
            if is_new and is_lost:
                # Nothing of it can be gone on with; the next fit is the first.
                self.joint, self.found = None, {}
            raise
        finally:
            self._so_far = None
        self._result = run.result()
        if self._directory:
            self._directory.finish(self._write, self._result)
        return history

    def _open_directory(self, summary, validation_data, **fit):
        """Returns what was `saving.Saved` of this run there, or `None`."""
        if not self._directory:
            return None
        fit["replicas"] = self._distribution.num_replicas_in_sync
        with self._distribution.scope():
            return self._directory.open(
                self.settings, self._spec, fit, summary, validation_data
            )

    def _load_finished(self, saved, verbose):
        """Takes over a run that has ended; returns its `History`."""
        progress.message(
            f"This run has ended before: {self._directory.path} is loaded",
            verbose,
        )
        self.joint, self.found = saved.joint, saved.genotype
        self._result = saved.result
        self._spec = saved.spec
        self.history = keras.callbacks.History()
        self.history.history = {
            name: values
            for name, values in saved.result.history.items()
            if name not in DETAILS
        }
        self.history.epoch = list(range(len(saved.result.history["loss"])))
        return self.history

    def _keep(self, run):
        write = functools.partial(self._write, state=run.state())
        self._directory.keep(run.epochs_done, write, self._so_far)

    def _searches_architecture(self):
        if self.joint is not None:
            return self.joint.architecture.is_searched
        return self.settings.parts.strategy is not None

    def save(self, filepath, overwrite=True):
        """Saves the whole run, to be loaded and gone on with.

        Layers, losses and metrics of your own should be known to Keras, by
        `keras.saving.register_keras_serializable`. Of those that are not, a
        warning says so: the file is read where `load` is given them.

        Args:
            filepath: Path that ends in `.keras`.
            overwrite: Whether an existing file may be replaced.
        """
        self._check_fitted("save")
        try:
            # Lambdas are for who reads the file to allow.
            readable.check(self.joint, self._arguments(), safe_mode=False)
        except ValueError as error:
            # What is trained is not to be lost for that.
            warnings.warn(
                "The file is written as it is, and can be read at most with "
                f"`AutoModel.load(..., custom_objects=...)`. {error}",
                stacklevel=2,
            )
        self._write(filepath, overwrite)

    def _write(self, filepath, overwrite=True, state=None):
        saving.write(
            *(filepath, overwrite, self.joint, self.found, self._arguments()),
            *(self._spec, self._result, state),
        )

    def _arguments(self):
        return {name: getattr(self.settings, name) for name in saving.ARGUMENTS}

    @classmethod
    def load(cls, filepath, custom_objects=None):
        """Returns the model that `save` wrote; runs no code from the file.

        Args:
            filepath: Path of the `.keras` file.
            custom_objects: Dict from a name in the file to the class or
                function of your own that it stands for, as Keras'
                `load_model` takes it; `None` where all are registered.
        """
        saved = saving.read(filepath, custom_objects)
        model = cls(**saved.arguments)
        model.joint, model.found = saved.joint, saved.genotype
        model._spec, model._result = saved.spec, saved.result
        return model
