"""What a dataset holds, in numbers."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dha import content
from keras_dha import data

rng = np.random.default_rng(0)
X = rng.normal(size=(50, 4, 3)).astype("float32")
Y = rng.integers(0, 3, 50)


def dataset(x=X, y=Y):
    return tf.data.Dataset.from_tensor_slices((x, y))


def numbers(given):
    return data.content_of(given).numbers()


def test_the_numbers_are_means():
    means = X.astype("float64").mean(axis=(1, 2))
    expected = [50, means.mean(), (means**2).mean(), Y.mean(), (Y**2).mean()]
    assert numbers(dataset()) == pytest.approx(expected, rel=1e-12)


def test_they_are_those_of_the_examples_in_any_order_and_batches():
    expected = numbers(dataset())
    order = rng.permutation(50)
    for other in (
        dataset().batch(7),
        dataset(X[order], Y[order]).batch(16),
        dataset({"a": X}["a"] * np.float32(1.0 + 1e-7)),
    ):
        assert content.same(expected, numbers(other))
    for other in (
        dataset(X[:49], Y[:49]),
        dataset(X * np.float32(1.001)),
        dataset(X, (Y + 1) % 3),
        dataset(X, np.eye(3)[Y]).batch(10),
        dataset((X, X), Y).batch(10),
    ):
        assert not content.same(expected, numbers(other))


def test_a_summary_of_a_dataset_has_them():
    given = dataset().batch(8)
    summary = data.looked_through(given)
    assert summary.content.numbers() == numbers(given)
    assert data.looked_through(X, Y).content is None


@pytest.mark.parametrize("one_hot", [False, True])
def test_labels_are_counted(one_hot):
    y = np.eye(3)[Y] if one_hot else Y
    expected = [dict(enumerate(np.bincount(Y).tolist()))]
    assert data.looked_through(X, y).label_counts == expected
    assert data.looked_through(dataset(X, y).batch(8)).label_counts == expected
    several = data.looked_through(X, (y, Y[::-1] % 2)).label_counts
    assert several == [*expected, dict(enumerate(np.bincount(Y % 2).tolist()))]
