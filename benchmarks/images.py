"""The image sets of the benchmarks, by name."""

import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image

import keras_dha
from keras_dha.datasets import Dataset

# Files of JPEG bytes that this repository does not hold.
PACKED = {
    "cifar10": ("cifar10_jpeg.npz", None),
    "flowers5": ("flowers5_128_jpeg.npz", 64),
}
NAMES = ("digits", "fashion_mnist", *PACKED)


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
        data = keras_dha.datasets.load(name)
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
