"""Training data: what it is, and whether it can be trained on.

Everything that is inferred (shape, range, classes) and everything that can be
wrong (NaN, labels, shapes) is looked at once, before a model is built.
"""

import time
import warnings
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_dha import form as forms
from keras_dha.content import Content
from keras_dha.data_summary import Summary
from keras_dha.data_summary import summary_of_arrays

# Of what is looked at, evaluated or predicted, if nobody gives another one,
# and as many bytes at the most.
BATCH_SIZE, _BATCH_BYTES = 256, 2**28
# What TensorFlow says where images of a batch have several shapes: where they
# are put together, and where they are mapped and put together at once.
_UNEQUAL = (
    "Cannot batch tensors with different shapes",
    "Cannot add tensor to the batch",
)
# Seconds after which it is worth a word that a generator has not ended.
LONG = 30.0


def class_ids(labels):
    """Returns the classes that labels name, int32 `(n,)`.

    Args:
        labels: Tensor of integers `(n,)` or `(n, 1)`, or of one-hot rows
            `(n, classes)`.
    """
    if labels.shape.rank == 2 and labels.shape[1] != 1:
        labels = tf.argmax(labels, axis=1)
    return tf.cast(tf.reshape(labels, [-1]), "int32")


def may_be_endless(x, steps):
    """Whether data are a dataset of which only some steps are looked at.

    Args:
        x: As `inspect` takes it.
        steps: Integer, `steps_per_epoch`, or `None`.
    """
    # A generator does not say whether it ends; one with steps may not.
    return (
        steps is not None
        and isinstance(x, tf.data.Dataset)
        and int(x.cardinality()) < 0
    )


def _is_endless(x):
    """Whether data are a dataset that says that it never ends."""
    return (
        isinstance(x, tf.data.Dataset)
        and int(x.cardinality()) == tf.data.INFINITE_CARDINALITY
    )


def check_ends(x, name):
    """Refuses a dataset that never ends, where all of it would be read.

    Args:
        x: Data of any form.
        name: What they are called, for the message.
    """
    if _is_endless(x):
        raise ValueError(
            f"{name} must end, as all of them are read: use "
            "`dataset.take(n)`. Received: a dataset of infinite cardinality"
        )


def inspect(x, y=None, steps=None, num_classes=None):
    """Looks through training data once and returns its `DataSpec`.

    Args:
        x: NumPy array (with `y`) or `tf.data.Dataset` of (image, label),
            batched or not; or several as `form.structured` returns them.
        y: Integer or one-hot labels, or `None` for a dataset.
        steps: Integer, how many batches of an endless dataset to look at.
        num_classes: Integer, or `None` to infer it from the labels; of
            several outputs as in a `DataSpec`.

    Raises:
        ValueError: No examples, one class, labels out of range or of the
            wrong rank, NaN or infinite values, examples of several shapes.
    """
    summary = looked_through(x, y, steps)
    return summary.spec(num_classes, may_be_endless(x, steps))


def looked_through(x, y=None, steps=None):
    """Returns the `Summary` of data, from one look at each example.

    Args:
        x, y, steps: As `inspect` takes them.
    """
    if y is not None or not isinstance(x, tf.data.Dataset):
        summary = summary_of_arrays(*checked_arrays(x, y))
    else:
        element = checked_element(x)
        summary = Summary(*element)
        summary.content = Content()
        batches = in_batches(x, is_batched(element))
        if _is_endless(x) and steps is None:
            raise ValueError(
                "An endless dataset needs `steps_per_epoch`. "
                "Received: steps_per_epoch=None"
            )
        if may_be_endless(x, steps):
            batches = batches.take(steps)
        try:
            for images, labels in _watched(untuned(batches)):
                summary.add(images, labels)
                summary.content.add(images, labels)
        except tf.errors.InvalidArgumentError as error:
            if not any(text in error.message for text in _UNEQUAL):
                # An error of the user's own in the dataset says more itself.
                raise
            raise ValueError(
                "All images must have one shape; resize them in the dataset, "
                "for instance with `dataset.map`. Received a batch that "
                f"cannot be formed: {error.message.splitlines()[0]}"
            ) from error
    return summary


def content_of(dataset):
    """Returns the `Content` of all of a dataset."""
    content = Content()
    is_own = is_batched(checked_element(dataset))
    for images, labels in untuned(in_batches(dataset, is_own)):
        content.add(images, labels)
    return content


def _watched(batches):
    """Yields batches; warns once if they have not ended for long.

    Nobody knows whether those of a generator end.
    """
    begun, warned = time.monotonic(), False
    is_known = int(batches.cardinality()) != tf.data.UNKNOWN_CARDINALITY
    for number, batch in enumerate(batches):
        if not is_known and not warned and time.monotonic() - begun > LONG:
            warnings.warn(
                "All examples are looked at before training, and these have "
                "not ended yet; if they do not, give `steps_per_epoch`, or to "
                "validate on `dataset.take(n)`. "
                f"Received: {number} batches so far",
                stacklevel=2,
            )
            warned = True
        yield batch


def arranged(x, y, form=None):
    """Returns data with their parts told apart, in the form of a network.

    Args:
        x, y: As `keras_dha.AutoModel.fit` takes them.
        form: `form.Form`, or `None` to keep the form that they have.
    """
    if x is None or (y is None and not isinstance(x, tf.data.Dataset)):
        hint = ""
        if isinstance(x, (keras.utils.PyDataset, Iterator)):
            hint = "Make one of it by `tf.data.Dataset.from_generator`. "
        raise ValueError(
            "Expected arrays `x` and `y`, or a `tf.data.Dataset` of (image, "
            f"label) pairs. {hint}Received: x of type {type(x).__name__}, "
            f"y of type {type(y).__name__}"
        )
    if not isinstance(x, tf.data.Dataset):
        x, y = forms.structured(x, y)
    elif y is None:
        checked_element(x)
    else:
        raise ValueError(
            "A dataset holds its labels: `y` must be None. "
            f"Received: y of type {type(y).__name__}"
        )
    return (x, y) if form is None else form.arranged(x, y)


def checked_arrays(x, y):
    """Returns `x` and `y` as NumPy arrays of one length.

    Args:
        x, y: As `keras_dha.AutoModel.fit` takes arrays.
    """
    x, y = arranged(x, y)
    counts = set()

    def checked(part):
        part = _checked_array(part)
        counts.add(len(part))
        return part

    def labels(part):
        part = np.asarray(part)
        counts.add(len(part) if part.ndim else None)
        return part

    # Not further than the form goes: a list of examples is one array.
    x = keras.tree.map_structure_up_to(_outline(x), checked, x)
    y = keras.tree.map_structure_up_to(_outline(y), labels, y)
    if len(counts) != 1:
        shapes = [
            keras.tree.map_structure(lambda a: a.shape, part) for part in (x, y)
        ]
        raise ValueError(
            "`x` and `y` must hold the same number of examples. "
            f"Received: x of shape {shapes[0]}, y of shape {shapes[1]}"
        )
    return x, y


def _outline(given):
    """Returns a structure without what its parts hold."""
    if isinstance(given, dict):
        return dict.fromkeys(given, 0)
    return (0,) * len(given) if isinstance(given, tuple) else 0


def _checked_array(x):
    x = np.asarray(x)
    if x.dtype == object or not (
        np.issubdtype(x.dtype, np.number) or x.dtype == bool
    ):
        raise ValueError(
            "`x` must be one numeric array; images of several sizes must be "
            f"resized first. Received: dtype {x.dtype}"
        )
    if x.ndim < 2:
        raise ValueError(
            "`x` must hold examples with an axis of their own, such as (n, d); "
            f"give numbers as x[:, None]. Received: x of shape {x.shape}"
        )
    if x.dtype != np.uint8 and not _is_rounded(x):
        x = x.astype("float32")
    return x


def _is_rounded(x):
    """Whether float32 would round it, as integers that stand for words."""
    is_integer = x.dtype.kind in "iu" and x.size
    return is_integer and max(-int(x.min()), int(x.max())) > 2**24


def checked_element(dataset):
    """Returns the (image, label) spec of a dataset's elements.

    Raises:
        ValueError: They are no pairs, or have parts that have parts.
    """
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            "A dataset must give (image, label) pairs; map it to such pairs. "
            f"Received: element_spec={spec}"
        )
    for side in spec:
        parts = side.values() if isinstance(side, dict) else side
        is_several = isinstance(side, (dict, tuple))
        if is_several and any(isinstance(p, (dict, tuple)) for p in parts):
            raise ValueError(
                "Several inputs or outputs must be a dict or a tuple of "
                f"tensors. Received: element_spec={spec}"
            )
    return spec


def in_batches(dataset, is_own, batch_size=None):
    """Returns a dataset in its own batches, or in some of a size.

    Args:
        dataset: `tf.data.Dataset`.
        is_own: Whether it is batched.
        batch_size: Integer, of one that is not; default `BATCH_SIZE`.
    """
    if not is_own:
        return dataset.batch(batch_size or _size_of_batches(dataset))
    if batch_size is not None:
        raise ValueError(
            "A batched dataset has batches of its own: leave out `batch_size`. "
            f"Received: batch_size={batch_size}"
        )
    return dataset


def _size_of_batches(dataset):
    """Returns how many examples of an unbatched dataset make a batch."""
    example = bytes_of_example(dataset)
    if example is None:
        return BATCH_SIZE
    return max(1, min(BATCH_SIZE, _BATCH_BYTES // example))


def bytes_of_example(dataset):
    """Returns the bytes of an unbatched example, `None` if not known."""
    parts = keras.tree.flatten(dataset.element_spec)
    counts = [part.shape.num_elements() for part in parts]
    if None in counts:
        return None
    return sum(
        count * part.dtype.size
        for count, part in zip(counts, parts, strict=True)
    )


def is_batched_dataset(x):
    """Whether data are a dataset that has batches of its own."""
    return isinstance(x, tf.data.Dataset) and is_batched(checked_element(x))


def untuned(dataset):
    """Switches the autotuner of a `tf.data.Dataset` off.

    Its thread sleeps ever longer, up to a minute, and whoever ends an
    iterator waits for it to wake: up to as long again as the pass took.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def is_batched(spec):
    """Whether a dataset's (image, label) element spec has a batch axis.

    An unbatched image has a known size and a batch none or a small number,
    so the rank of the label decides where it can, else that of the image.
    """
    images, labels = (
        [part.shape for part in keras.tree.flatten(side)] for side in spec
    )
    if any(shape.rank is None for shape in images + labels):
        raise ValueError(
            "The dataset's shapes must have a known rank; use "
            f"`tf.ensure_shape` in its map. Received: element_spec={spec}"
        )
    if any(shape.rank == 0 for shape in images + labels):
        return False
    if any(shape.rank == 2 for shape in labels) or any(
        shape.rank == 4 for shape in images
    ):
        return True
    # Vectors of labels: batches of integers, or one-hot rows.
    # An image's height may be unknown, a number of classes is known.
    if images[0][0] is None:
        return all(shape[0] is None for shape in labels)
    # As many rows in an image as there are classes: the dtype decides.
    return len({shape[0] for shape in images + labels}) == 1 and all(
        part.dtype.is_integer for part in keras.tree.flatten(spec[1])
    )
