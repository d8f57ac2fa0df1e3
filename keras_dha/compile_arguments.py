"""Compile arguments: losses, their weights and metrics, output by output.

`compile` takes them before there is a network. Once there is one they are
matched with its outputs, and what is not said gets its default: the
cross-entropy that fits an output's last layer and its labels, and accuracy.
"""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_dha.architecture.choice import Choice
from keras_dha.form import Form
from keras_dha.form import facts
from keras_dha.losses import OutputLosses
from keras_dha.nested_layers import compiled_with
from keras_dha.nested_layers import output_layers

# How many examples show whether an output gives probabilities.
_EXAMPLES = 4
# Neither probabilities that sum to 1 nor logits.
_BOUNDED = (
    keras.activations.sigmoid,
    keras.activations.hard_sigmoid,
    keras.activations.tanh,
    keras.activations.hard_tanh,
    keras.activations.softsign,
)
# One of these is what an output has by default.
_DEFAULTS = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)
_FUNCTIONS_OF_DEFAULTS = (
    keras.losses.categorical_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)


def losses(loss, weights, network, spec):
    """Returns the `losses.OutputLosses` of a network.

    Args:
        loss, weights: As given to `keras_dha.AutoModel.compile`.
        network: A functional or Sequential `keras.Model`.
        spec: `data_spec.DataSpec` of the training data.
    """
    outputs = Form.of(network).outputs
    one_hot = facts(outputs.arranged(spec.one_hot, list))
    asked = _of_each(outputs, "loss", loss)
    from_logits = [not known for known in _give_softmax(network, spec, asked)]
    return OutputLosses(
        [
            _loss(*each)
            for each in zip(asked, from_logits, one_hot, strict=True)
        ],
        [
            _checked_weight(weight)
            for weight in _of_each(outputs, "loss_weights", weights)
        ],
    )


def metrics(asked, network):
    """Returns metrics as `keras.Model.compile` takes them for a network.

    Args:
        asked: As given to `keras_dha.AutoModel.compile`; none are asked for
            by an empty list, and accuracy by `None`.
        network: A functional or Sequential `keras.Model`.
    """
    outputs = Form.of(network).outputs
    names = outputs.names
    usual = ["accuracy"] if asked is None else []
    if len(names) == 1:
        return asked or usual
    if not asked:
        return outputs.packed([list(usual) for _ in names], list)
    if isinstance(asked, dict) and set(asked) <= set(names):
        given = [asked.get(name) for name in names]
        return outputs.packed([_as_list(part) for part in given], list)
    if isinstance(asked, (list, tuple)) and len(asked) == len(names):
        return outputs.packed([_as_list(part) for part in asked], list)
    raise ValueError(
        "`metrics` of several outputs must be a dict by output name, or a list "
        f"with those of each output {names}. Received: metrics={asked!r}"
    )


def check_metrics(network):
    """Refuses metrics that give more than a number, once they are built.

    Logs and histories hold a number an epoch, and files of them do.

    Args:
        network: A compiled `keras.Model`.
    """
    shapes = {
        name: tuple(np.shape(value))
        for name, value in network.get_metrics_result().items()
    }
    several = {name: shape for name, shape in shapes.items() if shape}
    if several:
        raise ValueError(
            "A metric must give one number, as `keras.metrics.F1Score` does "
            f'with average="macro". Received: metrics of shapes {several}'
        )


def warn_of_another_loss(network, loss):
    """Warns if a model was compiled with a loss that it is not trained by.

    Args:
        network: As `search_space` of `keras_dha.AutoModel`.
        loss: As given to `keras_dha.AutoModel.compile`.
    """
    if loss is not None or not isinstance(network, keras.Model):
        return
    asked = compiled_with(network)
    others = [
        each
        for each in keras.tree.flatten(asked.get("loss"))
        if each is not None and not _is_default(each)
    ]
    weights = keras.tree.flatten(asked.get("loss_weights"))
    if others or any(weight not in (None, 1) for weight in weights):
        warnings.warn(
            "The model was compiled with a loss of its own, which is not taken "
            "over: it is trained by the cross-entropy. Give loss and "
            "`loss_weights` to `AutoModel.compile`. Received: "
            f"loss={asked['loss']!r}, "
            f"loss_weights={asked.get('loss_weights')!r} of the model, none "
            "of `AutoModel.compile`",
            # The line that calls `fit`.
            stacklevel=3,
        )


def _is_default(loss):
    """Whether a loss is the cross-entropy that an output gets by itself.

    Whether it is for logits follows from the output, and the mean is taken
    whatever its reduction says.
    """
    loss = keras.losses.get(loss)
    if type(loss) not in _DEFAULTS:
        return loss in _FUNCTIONS_OF_DEFAULTS
    found, usual = loss.get_config(), type(loss)().get_config()
    return all(
        found[name] == usual[name]
        for name in {*usual} - {"name", "dtype", "from_logits", "reduction"}
    )


def _as_list(given):
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _of_each(outputs, name, given):
    """Returns what is given for each output, a list in their order."""
    if not isinstance(given, (dict, list, tuple)):
        return [given] * len(outputs.names)
    is_dict = isinstance(given, dict)
    if is_dict and set(given) == set(outputs.names):
        return [given[n] for n in outputs.names]
    if not is_dict and len(given) == len(outputs.names):
        return list(given)
    raise ValueError(
        f"`{name}` must be given for each output {outputs.names}, as a dict by "
        f"name or a list in this order. Received: {name}={given!r}"
    )


def _checked_weight(weight):
    if weight is None:
        return 1.0
    is_number = isinstance(weight, (int, float, np.number))
    if not is_number or isinstance(weight, bool) or not 0 <= weight < np.inf:
        raise ValueError(
            "`loss_weights` must be numbers of at least 0, one for each "
            f"output. Received: {weight!r}"
        )
    return weight


def _loss(loss, from_logits, one_hot):
    if loss is None:
        kind = (
            keras.losses.CategoricalCrossentropy
            if one_hot
            else keras.losses.SparseCategoricalCrossentropy
        )
        return kind(from_logits=from_logits)
    if isinstance(loss, str):
        # Under its snake-case name Keras has a function, which has a mean.
        classes = {
            name.lower(): found
            for name, found in vars(keras.losses).items()
            if isinstance(found, type)
        }
        loss = classes.get(loss.replace("_", "").lower(), loss)
    found = keras.losses.get(loss)
    if isinstance(found, keras.losses.Loss):
        return found
    raise ValueError(
        "`loss` must be a `keras.losses.Loss`, such as "
        "`keras.losses.CategoricalFocalCrossentropy()`. "
        f"Received: loss={loss!r}"
    )


def _give_softmax(network, spec, losses):
    """Returns whether each output without a loss gives probabilities, a list.

    By its last layer; or, where that does not say, as after an `Average` of
    two heads, by what comes out.
    """
    known = [
        _ends_in_softmax(last) if loss is None else False
        for last, loss in zip(output_layers(network), losses, strict=True)
    ]
    if None not in known:
        return known
    return [
        _are_probabilities(found) if is_softmax is None else is_softmax
        for is_softmax, found in zip(
            known, keras.tree.flatten(_outputs(network, spec)), strict=True
        )
    ]


def _ends_in_softmax(last):
    """Returns whether a last layer is a softmax; `None` if it may be."""
    if isinstance(last, keras.Model) and last.layers:
        return _ends_in_softmax(last.layers[-1])
    if isinstance(last, Choice):
        return _ends_alike(last)
    activation = getattr(last, "activation", None)
    if (
        isinstance(last, keras.layers.Softmax)
        or activation is keras.activations.softmax
    ):
        return True
    # A layer that is nothing but that, for its dtype, hands on what it gets.
    hands_on = activation is keras.activations.linear and isinstance(
        last, keras.layers.Activation
    )
    if any(activation is each for each in _BOUNDED):
        raise ValueError(
            "The default loss is for probabilities or logits: end in a "
            "softmax, or in no activation, or give a loss to `compile`. "
            f"Received: activation={activation.__name__!r} of the last layer, "
            f"{last.name!r}"
        )
    keras_own = vars(keras.activations).values()
    if any(activation is each for each in keras_own) and not hands_on:
        return False
    return None


def _ends_alike(choice):
    """Returns whether all candidates end in a softmax; `None` if they may."""
    found = {_ends_in_softmax(candidate) for candidate in choice.candidates}
    if {True, False} <= found:
        raise ValueError(
            "The candidates of an output must all end in a softmax, or none: "
            "put it behind the choice, or give a loss to `compile`. "
            f"Received: {choice.name!r} with candidates "
            f"{[candidate.name for candidate in choice.candidates]}"
        )
    return found.pop() if len(found) == 1 else None


def _outputs(network, spec):
    """Returns what a network makes of a few examples that mean nothing."""
    generator = np.random.default_rng(0)
    inputs = Form.of(network).inputs
    found = []
    for tensor, shape, (low, high) in zip(
        network.inputs,
        facts(inputs.arranged(spec.shape, list)),
        facts(inputs.arranged(spec.value_range, list)),
        strict=True,
    ):
        size = (tensor.shape[0] or _EXAMPLES, *shape)
        # Integers may be words, of which the first is always there.
        values = np.zeros(size)
        if "float" in tensor.dtype:
            values = generator.uniform(low, high, size)
        found.append(tf.cast(values, tensor.dtype))
    return network(inputs.packed(found), training=False)


def _are_probabilities(rows):
    rows = keras.ops.convert_to_numpy(rows)
    # Of bfloat16 a sum of probabilities is not as exact.
    error = 1e-3 if rows.dtype.itemsize > 2 else 1e-2
    rows = rows.astype("float32")
    is_one = np.allclose(rows.sum(axis=-1), 1.0, rtol=0.0, atol=error)
    return bool(is_one and np.all(rows >= 0.0))
