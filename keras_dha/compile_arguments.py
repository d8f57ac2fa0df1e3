"""Compile arguments: losses, their weights and metrics, output by output.

`compile` takes them before there is a network. Once there is one they are
matched with its outputs, and what is not said gets its default: the
cross-entropy that fits an output's last layer and its labels, and accuracy.
"""

import keras
import numpy as np

from keras_dha.architecture.choice import Choice
from keras_dha.form import Form
from keras_dha.form import facts
from keras_dha.losses import OutputLosses
from keras_dha.nested_layers import output_layers


def losses(loss, weights, network, spec):
    """Returns the `losses.OutputLosses` of a network.

    Args:
        loss, weights: As given to `keras_dha.AutoModel.compile`.
        network: A functional or Sequential `keras.Model`.
        spec: `data_spec.DataSpec` of the training data.
    """
    outputs = Form.of(network).outputs
    one_hot = facts(outputs.arranged(spec.one_hot, list))
    return OutputLosses(
        [
            _loss(asked, last, rows)
            for asked, last, rows in zip(
                _of_each(outputs, "loss", loss),
                output_layers(network),
                one_hot,
                strict=True,
            )
        ],
        [
            _checked_weight(weight)
            for weight in _of_each(outputs, "loss_weights", weights)
        ],
    )


def metrics(asked, network):
    """Returns metrics as `keras.Model.compile` takes them for a network.

    Args:
        asked: As given to `keras_dha.AutoModel.compile`.
        network: A functional or Sequential `keras.Model`.
    """
    outputs = Form.of(network).outputs
    names = outputs.names
    if len(names) == 1:
        return asked or ["accuracy"]
    if not asked:
        return outputs.packed([["accuracy"] for _ in names], list)
    if isinstance(asked, dict) and set(asked) <= set(names):
        given = [asked.get(name) for name in names]
        return outputs.packed([_as_list(part) for part in given], list)
    if isinstance(asked, (list, tuple)) and len(asked) == len(names):
        return outputs.packed([_as_list(part) for part in asked], list)
    raise ValueError(
        "`metrics` of several outputs must be a dict by output name, or a list "
        f"with those of each output {names}. Received: metrics={asked!r}"
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


def _loss(loss, last, one_hot):
    if loss is None:
        kind = (
            keras.losses.CategoricalCrossentropy
            if one_hot
            else keras.losses.SparseCategoricalCrossentropy
        )
        return kind(from_logits=not _ends_in_softmax(last))
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
