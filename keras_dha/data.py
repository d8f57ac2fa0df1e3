"""Training data: what it is, and whether it can be trained on.

Everything that is inferred (shape, range, classes) and everything that can be
wrong (NaN, labels, shapes) is looked at once, before a model is built.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class DataSpec(NamedTuple):
    """What is known about a labelled set of examples.

    Attributes:
        shape: Shape of one example.
        num_classes: Integer.
        one_hot: Whether labels are one-hot rows rather than integers.
        value_range: (low, high) of the values, (0, 255) for uint8.
        count: Number of examples.
    """

    shape: tuple
    num_classes: int
    one_hot: bool
    value_range: tuple
    count: int

    @property
    def is_image(self):
        """Whether an example is an image, `(h, w)` or `(h, w, c)`."""
        return len(self.shape) in (2, 3)


def class_ids(labels):
    """Returns the classes that labels name, int32 `(n,)`.

    Args:
        labels: Tensor of integers `(n,)` or `(n, 1)`, or of one-hot rows
            `(n, classes)`.
    """
    if labels.shape.rank == 2 and labels.shape[1] > 1:
        labels = tf.argmax(labels, axis=1)
    return tf.cast(tf.reshape(labels, [-1]), "int32")


def inspect(x, y=None, steps=None, num_classes=None):
    """Looks through training data once and returns its `DataSpec`.

    Args:
        x: NumPy array (with `y`) or `tf.data.Dataset` of (image, label),
            batched or not.
        y: Integer or one-hot labels, or `None` for a dataset.
        steps: Integer, how many batches of an endless dataset to look at.
        num_classes: Integer, or `None` to infer it from the labels.

    Raises:
        ValueError: No examples, one class, labels out of range or of the
            wrong rank, NaN or infinite values, examples of several shapes.
    """
    if y is not None or not isinstance(x, tf.data.Dataset):
        summary = _summary_of_arrays(*checked_arrays(x, y))
    else:
        summary = _Summary()
        batches = as_batches(x, 256)
        cardinality = int(x.cardinality())
        if cardinality == tf.data.INFINITE_CARDINALITY and steps is None:
            raise ValueError(
                "An endless dataset needs `steps_per_epoch`. "
                "Received: steps_per_epoch=None"
            )
        # A generator does not say whether it ends; one with steps may not.
        if cardinality < 0 and steps is not None:
            batches = batches.take(steps)
        try:
            for images, labels in batches:
                summary.add(images.numpy(), labels.numpy())
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                "All images must have one shape; resize them in the dataset, "
                "for instance with `dataset.map`. Received a batch that "
                f"cannot be formed: {error.message.splitlines()[0]}"
            ) from None
    return summary.spec(num_classes)


def evaluable(x, y, spec):
    """Returns data to evaluate on, as `keras.Model.evaluate` takes them.

    Args:
        x: NumPy array (with `y`) or `tf.data.Dataset`, batched or not.
        y: Labels, or `None` for a dataset.
        spec: `DataSpec` of the training data.

    Returns:
        Pair of arrays, or (batched dataset, `None`).

    Raises:
        ValueError: The data do not look like the training data. Of a dataset
            only the shapes are known without reading it.
    """
    if isinstance(x, tf.data.Dataset) and y is None:
        x = as_batches(x, 256)
        images, labels = x.element_spec
        shape = images.shape[1:]
        one_hot = labels.shape.rank == 2 and labels.shape[1] != 1
    else:
        x, y = checked_arrays(x, y)
        summary = _summary_of_arrays(x, y)
        summary.check_classes(spec.num_classes)
        shape, one_hot = x.shape[1:], summary.one_hot
    alike = tf.TensorShape(shape).is_compatible_with(spec.shape)
    if not alike or one_hot != spec.one_hot:
        raise ValueError(
            "The data must look like the training data. Received: shape "
            f"{tuple(shape)}, one_hot={one_hot}; training data: shape "
            f"{spec.shape}, one_hot={spec.one_hot}"
        )
    return x, y


def predictable(x, spec):
    """Returns data to predict for, as `keras.Model.predict` takes them.

    Args:
        x: Array of examples, or `tf.data.Dataset` of examples or of
            (example, label), batched or not.
        spec: `DataSpec` of the training data.

    Raises:
        ValueError: The examples do not look like the training data.
    """
    if not isinstance(x, tf.data.Dataset):
        x = np.asarray(x)
        shape, expected = x.shape, (None, *spec.shape)
    else:
        element = x.element_spec
        examples = element[0] if isinstance(element, tuple) else element
        if examples.shape.rank == len(spec.shape):
            x = x.batch(256)
            examples = tf.TensorSpec([None, *examples.shape])
        shape, expected = examples.shape, (None, *spec.shape)
    if not tf.TensorShape(shape).is_compatible_with(expected):
        hint = ""
        if tf.TensorShape(shape).is_compatible_with(spec.shape):
            hint = " For a single example give x[None]."
        raise ValueError(
            f"Expected examples of shape {expected}.{hint} "
            f"Received: shape {tuple(shape)}"
        )
    return x


def _summary_of_arrays(x, y):
    summary = _Summary()
    # In parts: one mask over a large array would double its memory.
    for start in range(0, len(x), 4096):
        part = slice(start, start + 4096)
        summary.add(x[part], y[part])
    return summary


class _Summary:
    """Running facts about examples, refused as soon as one is wrong."""

    def __init__(self):
        self.shape = None
        self.count = 0
        self.low, self.high = np.inf, -np.inf
        self.is_uint8 = False
        self.one_hot = None
        self.labels = set()
        self.width = None

    def add(self, images, labels):
        if len(images) == 0:
            return
        shape = tuple(images.shape[1:])
        if self.shape not in (None, shape):
            raise ValueError(
                "All images must have one shape; resize them in the dataset. "
                f"Received: shapes {self.shape} and {shape}"
            )
        if not np.all(np.isfinite(images)):
            raise ValueError(
                "Images must not contain NaN or infinite values. "
                f"Received: {int(np.sum(~np.isfinite(images)))} such values "
                f"among examples {self.count}..{self.count + len(images) - 1}"
            )
        self.shape = shape
        self.count += len(images)
        self.low = min(self.low, float(images.min()))
        self.high = max(self.high, float(images.max()))
        self.is_uint8 = images.dtype == np.uint8
        self._add_labels(labels)

    def _add_labels(self, labels):
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        self.one_hot = labels.ndim == 2
        if labels.ndim > 2:
            raise ValueError(
                "Labels must be integers of shape (n,) or one-hot rows of "
                f"shape (n, classes). Received: shape {labels.shape}"
            )
        if self.one_hot:
            self.width = labels.shape[1]
            if not np.allclose(labels.sum(axis=1), 1.0, atol=1e-3):
                raise ValueError(
                    "One-hot labels must sum to 1 in each row. Received rows "
                    f"with sums {np.unique(labels.sum(axis=1))[:5]}"
                )
            labels = labels.argmax(axis=1)
        elif not _are_integers(labels):
            raise ValueError(
                "Labels must be integers 0..classes-1 or one-hot rows; number "
                "names by `np.unique(y, return_inverse=True)[1]`. "
                f"Received: labels={labels[:5]}"
            )
        self.labels.update(np.unique(labels.astype(np.int64)).tolist())

    def check_classes(self, num_classes):
        """Refuses labels that are none of `num_classes`, if that is known."""
        if self.count == 0:
            raise ValueError("The data hold no examples. Received: 0 examples")
        if min(self.labels) < 0:
            raise ValueError(
                "Labels must be integers from 0. "
                f"Received: smallest label {min(self.labels)}"
            )
        if num_classes is None:
            return
        if max(self.labels) >= num_classes or (
            self.one_hot and self.width != num_classes
        ):
            raise ValueError(
                f"Labels must be of the classes 0..{num_classes - 1}. "
                f"Received: labels up to {max(self.labels)}"
                + (f", {self.width} columns" if self.one_hot else "")
            )

    def spec(self, num_classes):
        self.check_classes(num_classes)
        if len(self.labels) < 2:
            raise ValueError(
                "There must be at least two classes to tell apart. "
                f"Received: only label {min(self.labels)}"
            )
        classes = num_classes or self.width or max(self.labels) + 1
        is_inferred = num_classes is None and not self.one_hot
        if is_inferred and classes - len(self.labels) > classes / 2:
            raise ValueError(
                "Labels must be integers 0..classes-1 without large gaps; "
                "number them anew, for instance with "
                "`np.unique(y, return_inverse=True)[1]`. Received: "
                f"{len(self.labels)} different labels up to "
                f"{max(self.labels)}"
            )
        low, high = (0.0, 255.0) if self.is_uint8 else (self.low, self.high)
        if not low < high:
            raise ValueError(
                "All pixels have one value; there is nothing to learn from. "
                f"Received: value {low}"
            )
        return DataSpec(
            self.shape,
            int(classes),
            bool(self.one_hot),
            _rounded_range(low, high),
            self.count,
        )


def _are_integers(labels):
    if labels.dtype == object or not np.issubdtype(labels.dtype, np.number):
        return labels.dtype == bool
    return bool(np.all(np.isfinite(labels) & (labels == np.round(labels))))


def _rounded_range(low, high):
    """The usual range that the values fit in, else the measured one."""
    for usual in ((0.0, 1.0), (-1.0, 1.0), (0.0, 16.0), (0.0, 255.0)):
        if usual[0] <= low and usual[1] / 2 < high <= usual[1]:
            return usual
    return (low, high)


def checked_arrays(x, y):
    """Returns `x` and `y` as NumPy arrays of one length."""
    if x is None or y is None:
        raise ValueError(
            "Expected arrays `x` and `y`, or a `tf.data.Dataset` of (image, "
            f"label) pairs. Received: x of type {type(x).__name__}, y of type "
            f"{type(y).__name__}"
        )
    if isinstance(x, tf.data.Dataset):
        raise ValueError(
            "A dataset holds its labels: `y` must be None. "
            f"Received: y of type {type(y).__name__}"
        )
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype == object or not (
        np.issubdtype(x.dtype, np.number) or x.dtype == bool
    ):
        raise ValueError(
            "`x` must be one numeric array; images of several sizes must be "
            f"resized first. Received: dtype {x.dtype}"
        )
    if x.ndim < 2 or y.ndim < 1 or len(x) != len(y):
        raise ValueError(
            "`x` and `y` must hold the same number of examples. "
            f"Received: x of shape {x.shape}, y of shape {y.shape}"
        )
    if x.dtype != np.uint8:
        x = x.astype("float32")
    return x, y


def as_batches(dataset, batch_size):
    """Returns a dataset of (images, labels) batches, whatever it was.

    Args:
        dataset: `tf.data.Dataset` of pairs, batched or not. It counts as
            batched if its labels have a batch axis.
        batch_size: Batch size for a dataset that is not batched.
    """
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            "A dataset must give (image, label) pairs; map it to such pairs. "
            f"Received: element_spec={spec}"
        )
    if is_batched(spec):
        return dataset
    return dataset.batch(batch_size)


def is_batched(spec):
    """Whether a dataset's (image, label) element spec has a batch axis.

    An unbatched image has a known size and a batch none or a small number,
    so the rank of the label decides where it can, else that of the image.
    """
    images, labels = spec
    if images.shape.rank is None or labels.shape.rank is None:
        raise ValueError(
            "The dataset's shapes must have a known rank; use "
            f"`tf.ensure_shape` in its map. Received: element_spec={spec}"
        )
    if labels.shape.rank == 0:
        return False
    if labels.shape.rank == 2 or images.shape.rank == 4:
        return True
    # A vector of labels: a batch of integers, or one one-hot row.
    if images.shape[0] is None:
        return True
    # As many rows in an image as there are classes: the dtype decides.
    return images.shape[0] == labels.shape[0] and labels.dtype.is_integer
