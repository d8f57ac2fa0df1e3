"""Packs CIFAR-10 and the flowers into the files that the benchmarks read.

    pip install -e ".[datasets,bench]"
    python -m benchmarks.pack --dataset cifar10 --data FOLDER

TensorFlow Datasets downloads the images. What is packed has the form of what
was measured (`benchmarks.images` says which), but flowers are dealt into
training and test images anew, so single numbers will differ.
"""

import argparse
import io
import pathlib
import sys

import numpy as np
from PIL import Image
from sklearn.model_selection import train_test_split

from benchmarks import images

# For each name: the set, its parts, and the side of its middle square.
SOURCES = {
    "cifar10": ("cifar10", ("train", "test"), None),
    "flowers5": ("tf_flowers", ("train",), 128),
}
# Of a set that comes in one part.
TEST_SHARE = 0.2
QUALITY = 75


def pack(name, folder):
    """Writes the packed file of a set; returns its path.

    Args:
        name: One of `SOURCES`.
        folder: Where it is to be; made if missing.
    """
    import tensorflow_datasets as tfds

    source, parts, side = SOURCES[name]
    builder = tfds.builder(source)
    builder.download_and_prepare()
    read = [_read(builder.as_dataset(split=part), side) for part in parts]
    if len(read) == 1:
        read = _divided(*read[0])
    content = {}
    for part, (encoded, labels) in zip(("train", "test"), read, strict=True):
        order = images.in_turn(labels)
        encoded = [encoded[k] for k in order]
        ends = np.cumsum([0, *map(len, encoded)])
        content[f"{part}_jpeg"] = np.frombuffer(b"".join(encoded), np.uint8)
        content[f"{part}_offsets"] = ends
        content[f"y_{part}"] = np.asarray(labels)[order]
    path = pathlib.Path(folder) / images.PACKED[name][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial_{path.name}")
    np.savez(partial, **content)
    return partial.replace(path)


def _read(dataset, side):
    """Returns the images as JPEG, a list of bytes, and their labels."""
    encoded, labels = [], []
    for example in dataset.as_numpy_iterator():
        encoded.append(_encoded(Image.fromarray(example["image"]), side))
        labels.append(int(example["label"]))
    return encoded, labels


def _encoded(image, side):
    if side is not None:
        edge = min(image.size)
        left, top = ((length - edge) // 2 for length in image.size)
        square = (left, top, left + edge, top + edge)
        image = image.crop(square).resize(
            (side, side), Image.Resampling.LANCZOS
        )
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def _divided(encoded, labels):
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=TEST_SHARE,
        stratify=labels,
        random_state=0,
    )
    return [
        ([encoded[k] for k in part], [labels[k] for k in part])
        for part in (train, test)
    ]


def main():
    """Packs one set and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", choices=SOURCES, required=True)
    parser.add_argument("--data", required=True, help="folder to write to")
    given = parser.parse_args()
    sys.stdout.write(f"{pack(given.dataset, given.data)}\n")


if __name__ == "__main__":
    main()
