"""Combinations: which parts of a run go together, and which are refused.

What one argument alone may be is checked where it is read; here are the rules
between a network, its data, a strategy, an augmentation, hyperparameters and
devices.
"""

import warnings

import keras
import tensorflow as tf

from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.strategies import ISTA
from keras_dha.architecture.superkernel import SlicedConvolution
from keras_dha.data_spec import image_among
from keras_dha.form import Form
from keras_dha.form import facts
from keras_dha.hyperparameters import dropout
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.nested_layers import find_layers

# What goes along one axis of examples of two, and what along both.
_ALONG_TIME = (
    keras.layers.AdditiveAttention,
    keras.layers.Attention,
    keras.layers.Conv1D,
    keras.layers.Conv1DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.RNN,
    keras.layers.SeparableConv1D,
)
_IN_THE_PLANE = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    SlicedConvolution,
)


def check_decides(strategy, network):
    """Refuses a strategy that was given for a network without choices.

    Args:
        strategy: As `keras_dha.AutoModel` takes it.
        network: `keras.Model` without free or frozen decisions.
    """
    if strategy is not None and strategy != "auto":
        raise ValueError(
            "A strategy needs choices to make, and the search space has none: "
            "put a `keras_dha.Choice` into it, or leave out `strategy`. "
            f"Received: strategy={type(strategy).__name__} for the model "
            f"{network.name!r} without choices"
        )


def check_open(decisions, strategy):
    """Refuses a network in which a search has left its decisions.

    A `keras.Model` that is given to a second run is the same object still.
    """
    again = (
        "build the network anew, or give as `search_space` a function "
        "(input_shape, num_classes) -> keras.Model that does"
    )
    if all(decision.is_frozen for decision in decisions):
        raise ValueError(
            "All choices of the search space are made, as a search leaves "
            f"them, so there is nothing to search: {again}. "
            f"Received: frozen decisions={[d.name for d in decisions[:5]]}"
        )
    coded = [d.name for d in decisions if d.code is not None]
    if coded and not isinstance(strategy, ISTA):
        raise ValueError(
            "The search space has the codes of a search by ISTA, which "
            f"another strategy does not move: {again}. "
            f"Received: decisions with codes={coded[:5]}, "
            f"strategy={type(strategy).__name__}"
        )


def check_statistics(network):
    """Refuses candidates that run alone and exchange statistics."""
    found = [
        layer.name
        for choice in find_layers(network, SearchableLayer)
        for layer in find_layers(choice, keras.layers.BatchNormalization)
        if layer.synchronized
    ]
    if found:
        raise ValueError(
            "On several devices a candidate that runs alone can exchange "
            "nothing with other devices: let its normalisation layers have "
            "synchronized=False, or search by `keras_dha.strategies.DARTS`, "
            f"which runs all candidates. Received: synchronized layers {found}"
        )


def check_scope(what, variables):
    """Refuses variables that each of several devices would move by itself."""
    extended = tf.distribute.get_strategy().extended
    outside = [
        variable.path
        for variable in variables
        if not extended.variable_created_in_scope(variable.value)
    ]
    if outside:
        raise ValueError(
            f"For several devices {what} must be made in the scope of the "
            "strategy, as the `AutoModel`: build it in "
            "`with strategy.scope():`, or give the function that builds a "
            f"network. Received: variables of elsewhere {outside[:5]}"
        )


def is_augmented(augmentation, spec, network):
    """Whether an augmentation takes data for images.

    A layer that was given takes all that may be images. Else the network says
    of examples of two axes whether they are sequences.

    Args:
        augmentation: As `methods.Parts` has it.
        spec: `DataSpec` of the training data.
        network: `keras.Model`, or what makes one.
    """
    if augmentation is None or not spec.is_image:
        return False
    if not isinstance(augmentation, (str, dict)):
        return True
    are_flat = len(facts(spec.shape)[spec.image]) == 2
    return not (are_flat and _reads_sequences(network))


def _reads_sequences(network):
    """Whether a network goes along one axis of its examples alone."""
    return (
        isinstance(network, keras.Model)
        and bool(find_layers(network, _ALONG_TIME))
        and not find_layers(network, _IN_THE_PLANE)
    )


def check_augmentation(augmentation, network, replicas):
    """Refuses what each device would move, and what has no derivatives."""
    if augmentation is None:
        return
    if replicas > 1:
        check_scope("an augmentation", augmentation.trainable_variables)
    shapes = [tensor.shape[1:] for tensor in network.inputs]
    dtype = network.inputs[image_among(shapes)].dtype
    if augmentation.estimator.follows_path and "float" not in dtype:
        raise ValueError(
            "This estimator takes derivatives by augmented images, and a "
            "network of integer inputs has none: give it float inputs, or "
            f"another estimator. Received: an input of dtype {dtype!r}, "
            f"estimator={augmentation.estimator!r}"
        )


def check_pixels(augmentation, network, spec):
    """Refuses to augment an image whose pixels have no range at all."""
    if augmentation is None or not spec.is_image:
        return
    low, high = facts(spec.value_range)[spec.image]
    if low == high:
        name = Form.of(network).inputs.names[spec.image]
        raise ValueError(
            "All pixels of the input that is an image have one value, so there "
            "is nothing to augment: look at the images, or train on them with "
            f"augmentation=None. Received: value {low} for input {name!r}"
        )


def check_channels(augmentation, channels):
    """Refuses a layer whose operations were chosen for other images."""
    if augmentation.channels != channels:
        raise ValueError(
            "The augmentation was built for images of other channels, and has "
            "the operations that fit those: give a new layer, as "
            "`layer.policy().to_layer(trainable=True)` with this one's "
            f"`value_range`. Received: images of channels={channels} and an "
            f"augmentation of channels={augmentation.channels}"
        )


def warn_of_range(augmentation, measured):
    """Warns where a layer is for pixels of quite another range.

    Dark images fill a part of theirs, and what is measured is up to twice as
    wide as what is there (`InputFacts.value_range`): so it takes less than an
    eighth of the range, or more than all of it above. Below it there is to be
    nothing, and no range about 0 where nothing is negative.
    """
    (low, high), (bottom, top) = measured, augmentation.value_range
    span = top - bottom
    is_beyond = high > top + span or low < bottom - span / 8
    is_signed = bottom < 0.0 <= low and top > 0.0
    if is_beyond or is_signed or high - low < span / 8:
        warnings.warn(
            "The augmentation is for pixels of another range than the images "
            "have, and makes something else of them: give the layer "
            f"value_range={measured}. Received: "
            f"value_range={augmentation.value_range} for images in {measured}",
            stacklevel=2,
        )


def check_mixers(augmentation):
    """Refuses to mix one input, and the labels, where others stay apart."""
    if augmentation.mixers:
        raise ValueError(
            "Mixers mix an image and all labels, but not the other inputs: "
            "with several inputs use the hyperparameter `mixup`, which blends "
            "them all. Received: an augmentation with mixers "
            f"{tuple(augmentation.mixers)}"
        )


def check_mixup(network, augmentation, spec):
    """Refuses to mix twice, and what is a number for something, as words."""
    if getattr(augmentation, "mixers", ()):
        raise ValueError(
            "Images are mixed once: give mixup's strength as a "
            "hyperparameter, or mixers to the augmentation. Received: "
            f"hyperparameters with {MIXUP!r} and an augmentation with mixers "
            f"{tuple(augmentation.mixers)}"
        )
    dtypes = {tensor.name: tensor.dtype for tensor in network.inputs}
    are_pixels = len(dtypes) == 1 and spec.is_image
    if not are_pixels and not all("float" in d for d in dtypes.values()):
        raise ValueError(
            "Mixup blends all inputs, and integers have no blend: leave out "
            "`mixup`, or give such inputs as floats. "
            f"Received: inputs {dtypes}"
        )


def check_dropout(joint):
    """Refuses a rate of dropout that nothing in a network reads.

    Code of the user's own may read it by name, in a layer or a loss; whether
    it does shows when the first step is compiled.
    """
    layers = find_layers(joint.network, keras.layers.Layer)
    if (
        dropout.RATE in joint.hyperparameters.quantities
        and not any(isinstance(layer, dropout.Dropout) for layer in layers)
        and not any(isinstance(layer, keras.layers.Lambda) for layer in layers)
        and all(map(_is_known, [*layers, *joint.loss_object.losses]))
    ):
        raise ValueError(
            f"{dropout.RATE!r} is the rate of `keras_dha.Dropout` layers: put "
            "one into the network, or leave it out. Received: hyperparameters "
            f"with {dropout.RATE!r} for the model {joint.network.name!r} "
            "without such a layer"
        )


def _is_known(found):
    """Whether the class of a layer or a loss is of Keras or of ours."""
    package = type(found).__module__.partition(".")[0]
    return package in ("keras", "keras_dha")


def check_pairs(joint, batch_size, replicas):
    """Refuses to mix where a device has an image without a partner.

    With several devices their number would decide who it is.
    """
    layer = joint.policy.augmentation
    mixes = MIXUP in joint.hyperparameters.quantities or (
        layer is not None and layer.mixers
    )
    if mixes and replicas > 1 and batch_size // replicas % 2:
        raise ValueError(
            "Images are mixed in pairs: give a `batch_size` that is a "
            "multiple of twice the number of devices. "
            f"Received: batch_size={batch_size}, {replicas} devices"
        )
