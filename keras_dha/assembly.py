"""Assembly: from a network, its data and a method's parts to a joint model."""

import functools
import time

import keras

from keras_dha import optimizers
from keras_dha import scale
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive_first
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.joint_model import JointModel

# Share of training images that no policy touches: it bounds what a policy can
# do to clean images.
CLEAN_SHARE = 0.1


def assemble(settings, spec, distribution, pace, batch_size, steps, verbose=0):
    """Returns the joint model that a first `fit` starts from.

    Args:
        settings: `settings.Settings`.
        spec: `data.DataSpec` of the training data.
        distribution: `tf.distribute.Strategy`.
        pace: The run's `pace.StepPace` or `pace.ClockPace`.
        batch_size: Integer.
        steps: Integer, those of an epoch.
        verbose: Whether to say what was chosen by the time there is.

    Returns:
        (`JointModel`, seconds that finding its scale took).
    """
    fitting, timed = {}, 0.0
    if settings.fits_time and pace.epochs is None:
        begun = time.monotonic()
        fitting = scale.fitting(
            functools.partial(settings.builder, spec),
            batch_size,
            steps,
            pace.seconds_left(0, 0.0),
            verbose,
        )
        timed = time.monotonic() - begun
    keras.utils.set_random_seed(settings.seed)
    with distribution.scope():
        return _joint_model(settings, spec, fitting), timed


def _joint_model(settings, spec, fitting):
    parts, optimizer = settings.parts, settings.optimizer
    network = settings.builder(spec, **fitting)
    decisions, strategy = find_decisions(network), parts.strategy
    if decisions and strategy is None:
        network = derive_first(network)
    hyperparameters = _engine(
        parts, optimizers.resolved(optimizer, parts.values)
    )
    augmentation = _augmentation(parts.augmentation, spec)
    if MIXUP in hyperparameters.quantities and getattr(
        augmentation, "mixers", ()
    ):
        raise ValueError(
            "Images are mixed once: give mixup's strength as a "
            "hyperparameter, or mixers to the augmentation. Received: "
            f"hyperparameters with {MIXUP!r} and an augmentation with mixers "
            f"{tuple(augmentation.mixers)}"
        )
    joint = JointModel(
        network,
        _loss(settings.loss, network, spec),
        metrics=settings.metrics or ["accuracy"],
        strategy=strategy if decisions else None,
        augmentation=augmentation,
        hyperparameters=hyperparameters,
        rule=optimizer.rule,
        seed=settings.seed,
        target=settings.target,
    )
    hyperparameters.check_groups(
        [v.path for v in joint.weight_vector.variables]
    )
    return joint


def _engine(parts, values):
    if isinstance(parts.hyperparameters, AutoHAS):
        return parts.hyperparameters.engine(values)
    return LearnedHyperparameters(values, parts.horizon)


def _augmentation(augmentation, spec):
    if augmentation is None or not spec.is_image:
        return None
    channels = (spec.shape[2:] or (1,))[0]
    if isinstance(augmentation, (str, dict)):
        # Loaded when used: it brings all of KerasCV with it.
        from keras_dha.augmentation.layer import DifferentiableAugmentation

        arguments = {} if augmentation == "auto" else augmentation
        augmentation = DifferentiableAugmentation(
            **{
                "value_range": spec.value_range,
                "clean": CLEAN_SHARE,
                **_fitting(arguments, channels),
            }
        )
    if not augmentation.built:
        augmentation.build((None, *spec.shape[:2], channels))
    return augmentation


def _fitting(arguments, channels):
    """Returns arguments without operations that need other channels."""
    from keras_dha.augmentation.operations import find_operations

    if "operations" not in arguments or channels == 3:
        return arguments
    named = find_operations(arguments["operations"])
    kept = [op.name for op in named if not op.colour_only]
    return {**arguments, "operations": kept}


def _loss(loss, network, spec):
    if loss is None:
        kind = (
            keras.losses.CategoricalCrossentropy
            if spec.one_hot
            else keras.losses.SparseCategoricalCrossentropy
        )
        return kind(from_logits=not _ends_in_softmax(network))
    if isinstance(loss, str) and "_" in loss:
        # Under its snake-case name Keras has a function, which has a mean.
        loss = "".join(part.capitalize() for part in loss.split("_"))
    found = keras.losses.get(loss)
    if isinstance(found, keras.losses.Loss):
        return found
    raise ValueError(
        "`loss` must be a `keras.losses.Loss`, such as "
        "`keras.losses.CategoricalFocalCrossentropy()`. "
        f"Received: loss={loss!r}"
    )


def _ends_in_softmax(last):
    if isinstance(last, keras.Model):
        return _ends_in_softmax(last.layers[-1])
    if isinstance(last, Choice):
        return _ends_in_softmax(last.candidates[0])
    activation = getattr(last, "activation", None)
    return (
        isinstance(last, keras.layers.Softmax)
        or activation is keras.activations.softmax
    )
