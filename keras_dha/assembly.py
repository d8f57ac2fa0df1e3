"""Assembly: from a network, its data and a method's parts to a joint model."""

import contextlib
import functools
import itertools
import random
import time

import keras
import numpy as np

from keras_dha import combinations
from keras_dha import compile_arguments
from keras_dha import outer_steps
from keras_dha import progress
from keras_dha import scale
from keras_dha import small_images
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.derive import derive_first
from keras_dha.form import Form
from keras_dha.form import facts
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.learned import STEP_SIZE
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.joint_model import JointModel

# Flips that are as rare at first are worth a word.
_SAID = 0.4


def assemble(settings, spec, distribution, pace, batches, verbose=0):
    """Returns the joint model that a first `fit` starts from.

    Args:
        settings: `settings.Settings`.
        spec: `data_spec.DataSpec` of the training data.
        distribution: `tf.distribute.Strategy`.
        pace: The run's `pace.StepPace` or `pace.ClockPace`.
        batches: Training batches (`ArrayBatches` or `StreamBatches`), before
            they are arranged for the network.
        verbose: Whether to say what was chosen by the time and the images.

    Returns:
        (`JointModel`, seconds that finding its scale took).
    """
    parts, found, timed = settings.parts, None, 0.0
    # What the default space is not for, its builder refuses.
    fits = spec.is_single and spec.is_image
    if fits and settings.fits_time and pace.epochs is None:
        _check_on_one_layer(settings, spec, distribution)
        begun = time.monotonic()
        found = scale.fitting(
            functools.partial(settings.builder, spec),
            spec.shape,
            batches.batch_size,
            batches.steps,
            pace.seconds_left(0, 0.0),
            None if settings.leaves_search else parts.strategy is not None,
            verbose,
        )
        timed = time.monotonic() - begun
        if not found.is_searched:
            parts = parts._replace(strategy=None)
    _say_what_is_left(settings, verbose)
    replicas = distribution.num_replicas_in_sync
    keras.utils.set_random_seed(settings.seed)
    with distribution.scope():
        network = _network(settings, parts, spec, found, replicas)
    if isinstance(parts.augmentation, (str, dict)):
        parts = _for_data(parts, network, spec, batches, verbose)
    with distribution.scope():
        joint = _joint_model(settings, parts, spec, network, replicas)
    optimizer = settings.optimizer_for(joint.network)
    _say_what_trains_it(settings, optimizer, verbose)
    _say_what_is_fixed(settings, optimizer, verbose)
    combinations.check_pairs(joint, batches.batch_size, replicas)
    return joint, timed


def _check_on_one_layer(settings, spec, distribution):
    """Refuses at once what a default network of any scale would be refused.

    Scales are timed for a part of the time there is, which would be lost to a
    loss or a metric that is none.
    """
    pools = {
        2: keras.layers.GlobalAveragePooling1D,
        3: keras.layers.GlobalAveragePooling2D,
    }
    # Groups go by names of layers, which are checked with the network's own.
    values = {
        name: next(iter(value.values())) if isinstance(value, dict) else value
        for name, value in settings.values_for(settings.optimizer).items()
    }
    with distribution.scope():
        inputs = keras.Input(spec.shape)
        x = pools[len(spec.shape)]()(inputs)
        x = keras.layers.Dense(spec.num_classes)(x)
        # Called as in the space: metrics may go by the name.
        last = keras.layers.Softmax(name="probabilities")
        network = keras.Model(inputs, last(x))
        joint = JointModel(
            network,
            compile_arguments.losses(
                *(settings.loss, settings.loss_weights, network, spec)
            ),
            metrics=compile_arguments.metrics(settings.metrics, network),
            hyperparameters=_hyperparameters(settings, values),
        )
        combinations.check_dropout(joint)
    labels = np.zeros((2, spec.num_classes) if spec.one_hot else 2, "int32")
    distribution.run(joint.build_metrics, args=(labels,))
    compile_arguments.check_metrics(network)


@contextlib.contextmanager
def keeping_generators():
    """The scope behind which Python's generator and NumPy's are as before.

    A run sets them, for initial weights and the like, where a user may draw
    splits from them. Those of Keras and TensorFlow go on from the run's seed,
    for layers that draw without one.
    """
    python, arrays = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def _say_what_is_left(settings, verbose):
    """Says that what a given model was compiled with is not taken over.

    Of a loss that changes what is trained a warning does, at any `verbose`.
    """
    network = settings.asked["search_space"]
    is_compiled = isinstance(network, keras.Model) and network.compiled
    said = settings.loss, settings.loss_weights, settings.metrics
    if is_compiled and not settings.optimizer.is_given and not any(said):
        progress.message(
            "Metrics and optimizer that the model was compiled with are not "
            "taken over: give them to `AutoModel.compile`",
            verbose,
        )


def _say_what_is_fixed(settings, optimizer, verbose):
    """Says what rate is fixed where other values are given without one."""
    given = settings.parts.values
    is_default = not optimizer.is_given and isinstance(
        settings.base_schedule, str
    )
    is_some = isinstance(given, dict) and given
    if is_default and is_some and "learning_rate" not in given:
        rate = optimizer.values["learning_rate"]
        usual = optimizer.auto["learning_rate"]
        progress.message(
            f"The learning rate is fixed at {rate:g}, as `hyperparameters` "
            "has none; for one that is learned add "
            f'"learning_rate": keras_dha.{usual!r} to it',
            verbose,
        )


def _say_what_trains_it(settings, optimizer, verbose):
    """Says that the network's own default is not the usual one."""
    if optimizer is not settings.optimizer:
        progress.message(
            "No batch normalisation trains in this network, so AdamW trains "
            'it; for SGD call compile("sgd")',
            verbose,
        )


def _for_data(parts, network, spec, batches, verbose):
    """Returns the parts with the augmentation that is for these data."""
    if not combinations.is_augmented(parts.augmentation, spec, network):
        if spec.is_image:
            progress.message(
                f"Examples of shape {facts(spec.shape)[spec.image]} are taken "
                "for sequences, by the layers of the network, and are not "
                "augmented; if they are images, give as `augmentation` a "
                "keras_dha.DifferentiableAugmentation",
                verbose,
            )
        return parts._replace(augmentation=None)
    _say_what_is_an_image(spec, verbose)
    if parts.augmentation == "auto":
        flip = _flip(batches, spec, verbose)
        parts = parts._replace(augmentation={"clean": "auto", "flip": flip})
    return parts


def _say_what_is_an_image(spec, verbose):
    """Says that what may be sequences, unlike squares, is taken for images."""
    shape = facts(spec.shape)[spec.image]
    if len(shape) == 2 and shape[0] != shape[1]:
        progress.message(
            f"Examples of shape {shape} are taken for grey images and "
            "augmented; if they are none, give augmentation=None",
            verbose,
        )


def _flip(batches, spec, verbose):
    """Returns the probability of a flip to begin with, for these images."""
    from keras_dha.augmentation import mirror

    flatten = keras.tree.flatten
    pairs = (
        (flatten(x)[spec.image], flatten(y)[0])
        for x, y in itertools.islice(batches.dataset(), batches.steps)
    )
    flip = mirror.flip_probability(mirror.asymmetry(pairs))
    if flip < _SAID:
        progress.message(
            "Mirror images are unlike the images: flips begin with "
            f"{flip:.0%} of them",
            verbose,
        )
    return flip


def _network(settings, parts, spec, found, replicas):
    """Returns the network that a run begins with, searched or derived."""
    network = settings.builder(spec, **(found.arguments if found else {}))
    if replicas > 1:
        combinations.check_scope("a network", network.variables)
    decisions, strategy = find_decisions(network), parts.strategy
    if not decisions:
        combinations.check_decides(settings.asked["strategy"], network)
        # Slices of superkernels, which have nothing to share any more.
        network = derive(network)
    elif strategy is None:
        network = derive_first(network)
    else:
        combinations.check_open(decisions, strategy)
        if replicas > 1 and not strategy.mixes:
            combinations.check_statistics(network)
    if found and found.begins_small:
        network = small_images.shrunk(network)
    return network


def _joint_model(settings, parts, spec, network, replicas):
    optimizer = settings.optimizer_for(network)
    values = settings.values_for(optimizer)
    hyperparameters = _hyperparameters(settings, values)
    spec = spec.arranged(Form.of(network))
    combinations.check_pixels(parts.augmentation, network, spec)
    augmentation = _augmentation(parts.augmentation, spec)
    combinations.check_augmentation(augmentation, network, replicas)
    if MIXUP in hyperparameters.quantities:
        combinations.check_mixup(network, augmentation, spec)
    joint = JointModel(
        network,
        compile_arguments.losses(
            *(settings.loss, settings.loss_weights, network, spec)
        ),
        metrics=compile_arguments.metrics(settings.metrics, network),
        strategy=parts.strategy if find_decisions(network) else None,
        augmentation=augmentation,
        hyperparameters=hyperparameters,
        rule=optimizer.rule,
        step_share=outer_steps.share_of_step(parts.outer_every),
        refinement=parts.refinement,
        seed=settings.seed,
        # Each network has one of its own: a target knows what it counts.
        target=settings.target and settings.target.unattached(),
    )
    hyperparameters.check_groups(joint.paths)
    combinations.check_dropout(joint)
    return joint


def _hyperparameters(settings, values):
    """Returns the `hyperparameters.engine.Engine` of values."""
    parts = settings.parts
    if isinstance(parts.hyperparameters, AutoHAS):
        return parts.hyperparameters.engine(values)
    step_share = outer_steps.share_of_step(parts.outer_every)
    return LearnedHyperparameters(values, parts.horizon, step_share * STEP_SIZE)


def _augmentation(augmentation, spec):
    """Returns the built layer for the one input that is an image, or `None`."""
    if augmentation is None:
        return None
    shapes = facts(spec.shape)
    if not spec.is_image:
        raise ValueError(
            "An augmentation acts on the one input that is an image, "
            "(h, w) or (h, w, c). Leave augmentation='auto' or None, which "
            "augment nothing else, and none of several images. "
            f"Received: augmentation={augmentation!r} for inputs of shape "
            f"{spec.shape}"
        )
    shape, measured = shapes[spec.image], facts(spec.value_range)[spec.image]
    channels = (shape[2:] or (1,))[0]
    if isinstance(augmentation, dict):
        # Loaded when used: it brings all of KerasCV with it.
        from keras_dha.augmentation.layer import LEAST_CLEAN
        from keras_dha.augmentation.layer import DifferentiableAugmentation

        augmentation = DifferentiableAugmentation(
            **{
                "value_range": measured,
                "clean": LEAST_CLEAN,
                **_fitting(augmentation, channels),
            }
        )
    else:
        combinations.warn_of_range(augmentation, measured)
    if augmentation.built:
        combinations.check_channels(augmentation, channels)
    else:
        augmentation.build((None, *shape[:2], channels))
    if len(shapes) > 1:
        combinations.check_mixers(augmentation)
    return augmentation


def _fitting(arguments, channels):
    """Returns arguments without operations that need other channels."""
    from keras_dha.augmentation.operations import find_operations

    if "operations" not in arguments or channels == 3:
        return arguments
    named = find_operations(arguments["operations"])
    kept = [op.name for op in named if not op.colour_only]
    return {**arguments, "operations": kept}
