"""Preparation: from what `fit` is given to training and search batches."""

import math

import keras
import tensorflow as tf

from keras_dha import arguments
from keras_dha import batches
from keras_dha import combinations
from keras_dha import data
from keras_dha import form as forms
from keras_dha import search_space


def prepare(
    settings,
    joint,
    known,
    replicas,
    x,
    y,
    batch_size,
    shuffle,
    steps,
    search_data,
):
    """Checks the data of a `fit`.

    Args:
        settings: `settings.Settings`.
        joint: The `JointModel` that goes on, or `None` at the first `fit`.
        known: `DataSpec` of the first `fit`, or of the run that goes on, or
            `None`.
        replicas: Integer, devices that share a batch.
        x, y, batch_size, shuffle, steps, search_data: As given to `fit`.

    Returns:
        (`DataSpec`, training batches, search batches or `None`,
        `data_summary.Summary`; `None` where a dataset may have no end, of
        which a part was looked at, and maybe another one the next time).

    Raises:
        ValueError: The data cannot be used, or are others than before.
    """
    if batch_size is not None:
        batch_size = arguments.checked_count("batch_size", batch_size)
    form = known_form(settings, joint)
    search_pair = _search_pair(search_data, form)
    x, y = data.arranged(x, y, form)
    classes = known.num_classes if known else _classes(settings)
    summary = data.looked_through(x, y, steps)
    is_endless = data.may_be_endless(x, steps)
    spec = summary.spec(classes, is_endless)
    if known is not None and not spec.is_like(known):
        raise ValueError(
            "The data must look like those of the first `fit`. "
            f"Received: shape {spec.shape}, one_hot={spec.one_hot}; "
            f"before: shape {known.shape}, one_hot={known.one_hot}"
        )
    if batch_size is None:
        batch_size = batches.fitting_batch_size(x, spec.count)
    if is_endless:
        # Looked at were so many batches of another size.
        spec = spec._replace(count=steps * batch_size)
    if batch_size % replicas:
        raise ValueError(
            "`batch_size` must be a multiple of the number of replicas. "
            f"Received: batch_size={batch_size}, replicas={replicas}"
        )
    learns = _learns(settings, joint, spec, search_data)
    made = batches.prepare(
        x,
        y,
        spec,
        batch_size,
        settings.search_split if learns and search_pair is None else None,
        search_pair,
        settings.seed,
        shuffle,
        replicas,
        is_endless,
    )
    return known or spec, *made, None if is_endless else summary


def _classes(settings):
    """Returns the number of classes that a given network tells apart.

    As in a `DataSpec`, with `None` for what is to be inferred, as it is if
    there is no network yet. A class may have no example.
    """
    network = settings.asked["search_space"]
    if not isinstance(network, keras.Model):
        return None
    widths = [tensor.shape[-1] for tensor in network.outputs]
    numbers = [width if width and width > 1 else None for width in widths]
    if len(numbers) == 1:
        return numbers[0]
    return forms.Form.of(network).outputs.packed(numbers, list)


def split(x, y, share, form):
    """Splits the last examples off arrays, as Keras' `validation_split`.

    Args:
        x, y: As given to `fit`, no dataset.
        share: Float in (0, 1).
        form: `form.Form` that data are brought into, or `None`.

    Returns:
        Two pairs (x, y): the first examples and the last.
    """
    x, y = data.checked_arrays(*data.arranged(x, y, form))
    first = math.floor(forms.count(x) * (1.0 - share))
    if not 0 < first < forms.count(x):
        raise ValueError(
            "`validation_split` must leave examples on both sides. Received: "
            f"validation_split={share}, {forms.count(x)} examples"
        )
    return [
        keras.tree.map_structure(lambda part, rows=rows: part[rows], (x, y))
        for rows in (slice(first), slice(first, None))
    ]


def known_form(settings, joint):
    """Returns the network's `form.Form`, `None` if it is still to be made.

    Args:
        settings: `settings.Settings`.
        joint: The `JointModel` that goes on, or `None` at the first `fit`.
    """
    if joint is not None:
        return joint.form
    return search_space.known_form(settings.asked["search_space"])


def arrange(form, spec, *made):
    """Brings batches that came before the network into its form.

    Args:
        form: `form.Form` of the network.
        spec: `DataSpec` of the data.
        *made: Their batches; `None` is left out.

    Returns:
        The `DataSpec` in that form.
    """
    for each in made:
        if each is not None:
            each.arrange(form)
    return spec.arranged(form)


def batches_in(x, batch_size):
    """Returns to how many batches data amount, 0 if that is not known.

    Args:
        x: Arrays, or a `tf.data.Dataset` as it was given, batched or not.
        batch_size: Integer.
    """
    if not isinstance(x, tf.data.Dataset):
        return forms.count(x) / batch_size
    count = max(0, int(x.cardinality()))
    if not data.is_batched(x.element_spec):
        return count / batch_size
    size = keras.tree.flatten(x.element_spec[0])[0].shape[0]
    # What does not say how large its batches are counts as trained by those.
    return count * (size or batch_size) / batch_size


def _search_pair(given, form):
    if given is None:
        return None
    x, y = data.arranged(*arguments.pair(given), form)
    data.check_ends(x, "`search_data`")
    return x, y


def _learns(settings, joint, spec, search_data):
    """Returns whether search data are of use; refuses those that are not."""
    if joint is None:
        # What a function makes is not there yet.
        is_augmented = combinations.is_augmented(
            settings.parts.augmentation, spec, settings.asked["search_space"]
        )
        learns = settings.learns_from_search_data(is_augmented)
        names = ("method", "strategy", "augmentation", "hyperparameters")
        asked = ", ".join(f"{n}={settings.asked[n]!r}" for n in names)
    else:
        learns = joint.needs_search_data
        asked = "a further `fit`, in which nothing but weights is learned"
    if search_data is not None and not learns:
        raise ValueError(
            "Nothing learns from `search_data` here: leave it out, or let "
            "augmentation or hyperparameters be learned, or the architecture "
            "by a strategy that follows it, as DARTS. Received: search_data "
            f"of type {type(search_data).__name__}, {asked}"
        )
    return learns
