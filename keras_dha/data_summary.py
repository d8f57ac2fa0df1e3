"""The summary of data: facts about all their parts, from one look at each.

What is wrong is refused as soon as it is seen.
"""

import keras
import numpy as np

from keras_dha import form as forms
from keras_dha.data_spec import DataSpec
from keras_dha.input_facts import InputFacts
from keras_dha.label_facts import LabelFacts


def summary_of_arrays(x, y):
    """Returns the `Summary` of arrays."""
    summary = Summary(x, y)
    # In parts: one mask over a large array would double its memory.
    for start in range(0, len(keras.tree.flatten(x)[0]), 4096):
        part = slice(start, start + 4096)
        summary.add(
            *keras.tree.map_structure(lambda a, part=part: a[part], (x, y))
        )
    return summary


class Summary:
    """Running facts about examples, refused as soon as one is wrong.

    Args:
        x, y: Something of the form of the data.

    Attributes:
        content: `content.Content` of a dataset, `None` of arrays.
    """

    content = None

    def __init__(self, x, y):
        self._x, self._y = x, y
        self._inputs = [InputFacts() for _ in keras.tree.flatten(x)]
        self._labels = [LabelFacts() for _ in keras.tree.flatten(y)]

    def add(self, x, y):
        """Takes note of some examples, arrays or tensors."""
        x, y = keras.tree.flatten(x), keras.tree.flatten(y)
        if len(x[0]) == 0:
            return
        for facts, part in zip(self._inputs, x, strict=True):
            facts.add(np.asarray(part))
        for facts, part in zip(self._labels, y, strict=True):
            facts.add(np.asarray(part))

    @property
    def shape(self):
        """Shape of one example."""
        return forms.like(self._x, [facts.shape for facts in self._inputs])

    @property
    def one_hot(self):
        """Whether labels are one-hot rows."""
        return forms.like(self._y, [bool(f.one_hot) for f in self._labels])

    @property
    def label_counts(self):
        """How many examples each class has, a dict for each output."""
        return [dict(sorted(facts.labels.items())) for facts in self._labels]

    def check_classes(self, num_classes):
        """Refuses labels that are none of the classes."""
        self._check_count()
        for facts, number in zip(
            self._labels, forms.facts(num_classes), strict=True
        ):
            facts.check_classes(number)

    def _check_count(self):
        if self._inputs[0].count == 0:
            raise ValueError("The data hold no examples. Received: 0 examples")

    def spec(self, num_classes, is_part=False):
        """Returns the `DataSpec` of what was seen.

        Args:
            num_classes: As `data.inspect` takes it.
            is_part: Whether it is a part of the data.
        """
        self._check_count()
        if num_classes is None:
            known = [None] * len(self._labels)
        else:
            known = forms.facts(num_classes)
        classes = [
            facts.classes(number, is_part)
            for facts, number in zip(self._labels, known, strict=True)
        ]
        if all(facts.is_constant for facts in self._inputs):
            raise ValueError(
                "All pixels have one value; there is nothing to learn from. "
                f"Received: value {self._inputs[0].low}"
            )
        return DataSpec(
            self.shape,
            forms.like(self._y, classes),
            self.one_hot,
            forms.like(self._x, [f.value_range for f in self._inputs]),
            self._inputs[0].count,
        )
