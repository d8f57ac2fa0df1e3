"""Content: what a dataset holds, in numbers that no shuffling changes.

Of each part, images as labels, the mean of the examples' means and of the
squares of these. They are compared as what was computed: other processors
round otherwise.
"""

import keras
import numpy as np

# Far less than what other examples make out, and more than rounding does.
_CLOSE = 1e-5


class Content:
    """Running sums over the examples of a dataset."""

    def __init__(self):
        self._count, self._sums = 0, np.zeros(1)

    def add(self, *parts):
        """Takes note of a batch, any structure of arrays or tensors."""
        parts, sums = keras.tree.flatten(parts), []
        for part in map(np.asarray, parts):
            rest = tuple(range(1, part.ndim))
            means = part.mean(axis=rest, dtype="float64")
            sums += [means.sum(), np.square(means).sum()]
        self._count += len(parts[0])
        self._sums = self._sums + np.asarray(sums)

    def numbers(self):
        """Returns how many examples there are and their means, a list."""
        return [self._count, *(self._sums / max(1, self._count)).tolist()]


def same(one, other):
    """Whether two lists of `Content.numbers` are of the same examples."""
    return len(one) == len(other) and np.allclose(one, other, _CLOSE, 0.0)
