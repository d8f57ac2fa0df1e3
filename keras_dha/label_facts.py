"""Label facts: what is seen of the labels of one output, part by part."""

import collections
import contextlib
import re

import numpy as np
import tensorflow as tf

# Of a dataset that is not looked at whole a class may not be seen.
_KNOWN_OTHERWISE = (
    "give one-hot labels, a `keras.Model` as `search_space`, or a larger "
    "`steps_per_epoch`"
)
_OUT_OF_RANGE = re.compile(
    r"label value of (-?\d+) which is outside the valid range of \[0, (\d+)\)"
)


class LabelFacts:
    """Running facts about labels, refused as soon as one is wrong."""

    def __init__(self):
        self.one_hot = None
        # How many examples each class has.
        self.labels = collections.Counter()
        self.width = None

    def add(self, labels):
        """Takes note of some labels, a NumPy array."""
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
        classes, counts = np.unique(labels.astype(np.int64), return_counts=True)
        self.labels.update(
            dict(zip(classes.tolist(), counts.tolist(), strict=True))
        )

    def check_classes(self, num_classes):
        """Refuses labels that are none of `num_classes`, if that is known."""
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

    def classes(self, num_classes, is_part=False):
        """Returns how many classes there are.

        Args:
            num_classes: Integer, or `None` to infer it.
            is_part: Whether these labels are of a part of the data.
        """
        self.check_classes(num_classes)
        classes = num_classes or self.width or max(self.labels) + 1
        is_inferred = num_classes is None and not self.one_hot
        if is_part and not is_inferred:
            return int(classes)
        has_gaps = is_inferred and classes - len(self.labels) > classes / 2
        if is_part and (has_gaps or len(self.labels) < 2):
            raise ValueError(
                "The classes of a dataset that is not looked at whole are "
                "those of its first epoch, and too few of them were seen: "
                f"{_KNOWN_OTHERWISE}. Received: {len(self.labels)} different "
                f"labels up to {max(self.labels)}"
            )
        if len(self.labels) < 2:
            raise ValueError(
                "There must be at least two classes to tell apart. "
                f"Received: only label {min(self.labels)}"
            )
        if has_gaps:
            raise ValueError(
                "Labels must be integers 0..classes-1 without large gaps; "
                "number them anew, for instance with "
                "`np.unique(y, return_inverse=True)[1]`. Received: "
                f"{len(self.labels)} different labels up to "
                f"{max(self.labels)}"
            )
        return int(classes)


@contextlib.contextmanager
def explained():
    """The scope in which a label of no class is an error of ours.

    TensorFlow says so at the end of a page on the graph that it was met in.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = _OUT_OF_RANGE.search(error.message)
        if found is None:
            raise
        label, classes = map(int, found.groups())
        raise ValueError(
            f"Labels must be of the classes 0..{classes - 1}. Those of a "
            "dataset that is not looked at whole are those of its first "
            f"epoch: {_KNOWN_OTHERWISE}. Received: label {label}"
        ) from None


def _are_integers(labels):
    if labels.dtype == object or not np.issubdtype(labels.dtype, np.number):
        return labels.dtype == bool
    return bool(np.all(np.isfinite(labels) & (labels == np.round(labels))))
