"""Data to evaluate on or to predict for: must look like the training data."""

import keras
import numpy as np
import tensorflow as tf

from keras_dha import data
from keras_dha import form as forms
from keras_dha.batches import first_of
from keras_dha.data_summary import summary_of_arrays


def evaluable(x, y, spec, form=None, batch_size=None, steps=None):
    """Returns data to evaluate on, as `keras.Model.evaluate` takes them.

    Args:
        x: NumPy array (with `y`) or `tf.data.Dataset`, batched or not; or
            several.
        y: Labels, or `None` for a dataset.
        spec: `DataSpec` of the training data.
        form: `form.Form` of the network that the data are brought into, or
            `None` before there is one.
        batch_size: Integer, of a dataset that is not batched; default 256.
        steps: Integer, how many batches are read; `None` for all.

    Returns:
        Pair of arrays, or (batched dataset, `None`).

    Raises:
        ValueError: The data do not look like the training data. Of a dataset
            only shapes and length are known without reading it.
    """
    if steps is None:
        data.check_ends(x, "Data to evaluate on")
    x, y = data.arranged(x, y, form)
    if isinstance(x, tf.data.Dataset) and y is None:
        x = data.in_batches(
            x, data.is_batched(data.checked_element(x)), batch_size
        )
        if int(x.cardinality()) == 0:
            raise ValueError(
                "Data to evaluate on must hold examples: leave out "
                "drop_remainder=True where there are fewer than a batch. "
                "Received: a dataset of cardinality 0"
            )
        images, labels = x.element_spec
        shape = _each(images, lambda part: tuple(part.shape[1:]))
        one_hot = _each(labels, lambda part: part.shape[1:] not in ([], [1]))
    else:
        x, y = data.checked_arrays(x, y)
        summary = summary_of_arrays(x, y)
        shape = _each(x, lambda part: part.shape[1:])
        one_hot = summary.one_hot
        if _same_form(one_hot, spec.one_hot):
            summary.check_classes(spec.num_classes)
    _check_alike(shape, one_hot, spec)
    return x, y


def validatable(x, y, spec, form=None, batch_size=None):
    """Returns data to evaluate on after each epoch, looked through once.

    Else what is wrong in a dataset would end a run after its first epoch.

    Args:
        x, y, spec, form, batch_size: As for `evaluable`.

    Returns:
        As `evaluable`.

    Raises:
        ValueError: The data do not look like the training data, have labels
            of other classes or NaN, or can be read only once.
    """
    x, y = evaluable(x, y, spec, form, batch_size)
    if isinstance(x, tf.data.Dataset):
        summary = data.looked_through(x)
        summary.check_classes(spec.num_classes)
        _check_alike(summary.shape, summary.one_hot, spec)
        first_of(x)
    return x, y


def _check_alike(shape, one_hot, spec):
    """Refuses data of another form than the training data."""
    alike = _same_form(shape, spec.shape) and all(
        tf.TensorShape(found).is_compatible_with(expected)
        for found, expected in zip(
            forms.facts(shape), forms.facts(spec.shape), strict=True
        )
    )
    if not alike or one_hot != spec.one_hot:
        raise ValueError(
            "The data must look like the training data. Received: shape "
            f"{shape}, one_hot={one_hot}; training data: shape "
            f"{spec.shape}, one_hot={spec.one_hot}"
        )


def predictable(x, spec, form, batch_size=None, steps=None):
    """Returns data to predict for, as `keras.Model.predict` takes them.

    Args:
        x: Array of examples, or `tf.data.Dataset` of examples or of
            (example, label), batched or not; or several arrays.
        spec: `DataSpec` of the training data, in the form of the network.
        form: `form.Form` of the network.
        batch_size, steps: As for `evaluable`.

    Raises:
        ValueError: The examples do not look like the training data, or do
            not end.
    """
    if steps is None:
        data.check_ends(x, "Data to predict for")
    if isinstance(x, tf.data.Dataset):
        element = x.element_spec
        examples = element[0] if isinstance(element, tuple) else element
        wanted = form.inputs.arranged(examples)
        if wanted != examples:
            x = x.map(lambda *e: (form.inputs.arranged(e[0]),))
        expected = forms.facts(spec.shape)
        parts = keras.tree.flatten(wanted)
        is_own = parts[0].shape.rank != len(expected[0])
        x = data.in_batches(x, is_own, batch_size)
        if not is_own:
            parts = [tf.TensorSpec([None, *part.shape]) for part in parts]
    else:
        if isinstance(x, list) and len(form.inputs.names) > 1:
            x = tuple(x)
        elif not isinstance(x, dict) and len(form.inputs.names) == 1:
            x = np.asarray(x)
        x = form.inputs.arranged(x)
        x = keras.tree.map_structure_up_to(x, np.asarray, x)
        parts = keras.tree.flatten(x)
    for part, shape in zip(parts, forms.facts(spec.shape), strict=True):
        _check_predictable(part.shape, shape)
    return x


def _check_predictable(shape, of_example):
    expected = (None, *of_example)
    if tf.TensorShape(shape).is_compatible_with(expected):
        return
    hint = ""
    if tf.TensorShape(shape).is_compatible_with(of_example):
        hint = " For a single example give x[None]."
    raise ValueError(
        f"Expected examples of shape {expected}.{hint} "
        f"Received: shape {tuple(shape)}"
    )


def _each(structure, function):
    """Returns a fact about each part of data, in a spec's form."""
    found = [function(part) for part in keras.tree.flatten(structure)]
    return forms.like(structure, found)


def _same_form(one, other):
    if isinstance(one, dict):
        return isinstance(other, dict) and set(one) == set(other)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other)
    return not isinstance(other, (dict, list))
