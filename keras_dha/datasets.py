"""Datasets by name or folder, as arrays with a fixed test part.

A test part is the publisher's own where there is one. Otherwise a fifth of
each class is held out, the same images on every machine for a given seed.
"""

import dataclasses
import gzip
import pathlib

import numpy as np

from keras_dha import extras
from keras_dha import image_folders

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Where the Debian package dataset-fashion-mnist puts its files.
DEBIAN_FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
TEST_SHARE = 0.2
# So many images are resized at a time.
_AT_ONCE = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, in a training and a test part.

    Attributes:
        name: String that suits as a file name.
        x_train: Array `(n, height, width, channels)`.
        y_train: Integer array `(n,)`.
        x_test: Array `(m, height, width, channels)`.
        y_test: Integer array `(m,)`.
        class_names: Tuple of strings, the label's meaning.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple


def load(name_or_path, seed=0, image_size=None, limit=None):
    """Loads a dataset.

    Args:
        name_or_path: One of
            `"digits"`: 1,797 handwritten digits, 8x8, grey values 0 to 16,
            from scikit-learn;
            `"fashion_mnist"`: 70,000 articles of clothing, 28x28, uint8,
            from the Debian package `dataset-fashion-mnist` if installed, or
            else downloaded by `keras.datasets`;
            `"tfds:<name>"`: an image classification dataset of TensorFlow
            Datasets, which may be downloaded;
            or the path of a folder with a subfolder of images per class,
            directly or within `train` and `test` (or `val`). What is
            transparent in an image is white.
        seed: Integer that fixes which images are held out where there is no
            test part, and which are kept under `limit`.
        image_size: Integer or (height, width) to resize to. Needed for
            folders and for tfds images of several sizes.
        limit: Integer, how many training images to keep: a random subset
            with the classes in proportion. The test part stays whole.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: An unknown name; a folder with no images or one class, or
            with a part `test` or `val` and none to train on.
        ImportError: What is needed to read the dataset is not installed.

    Example:

    >>> digits = keras_dha.datasets.load("digits")
    >>> digits.x_train.shape
    (1438, 8, 8, 1)
    """
    name = str(name_or_path)
    size = _checked_size(image_size)
    folder = as_folder(name)
    if name == "digits":
        data = _digits(seed)
    elif name == "fashion_mnist":
        data = _fashion_mnist()
    elif name.startswith("tfds:"):
        data = _tfds(name.removeprefix("tfds:"), seed, size)
    elif folder is not None and folder.is_dir():
        data = _folder(folder, seed, size)
    else:
        raise ValueError(
            'Expected "digits", "fashion_mnist", "tfds:<name>" or the path '
            f"of a folder that exists. Received: name_or_path={name!r}"
        )
    if limit is not None:
        data = _limited(data, limit, seed)
    if size is not None and data.x_train.shape[1:3] != size:
        data = dataclasses.replace(
            data,
            x_train=_resized(data.x_train, size),
            x_test=_resized(data.x_test, size),
        )
    return data


def short_name(name_or_path):
    """Returns the `name` that `load` gives a dataset.

    Args:
        name_or_path: As `load` takes it.
    """
    name = str(name_or_path)
    if name.startswith("tfds:"):
        return name.removeprefix("tfds:").split("/")[0].split(":")[0]
    return pathlib.Path(name).expanduser().resolve().name


def as_folder(name_or_path):
    """Returns the path that `load` would read, `None` for a known name.

    Args:
        name_or_path: As `load` takes it.
    """
    name = str(name_or_path)
    if name in ("digits", "fashion_mnist") or name.startswith("tfds:"):
        return None
    return pathlib.Path(name).expanduser()


def held_out(labels, share, seed, most=1.0):
    """Chooses examples to hold out, the same share of every class.

    Args:
        labels: Integer array `(n,)`.
        share: Float in (0, 1).
        seed: Integer.
        most: Float, the share of all that may be held out. Where classes are
            so small, and so many, that one of each would be more, it is one
            of some of them.

    Returns:
        Boolean array `(n,)`. Every class of two or more examples has some on
        both sides, but for `most`.
    """
    generator = np.random.default_rng(seed)
    chosen, small = np.zeros(len(labels), bool), []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        size = min(round(share * len(members)), len(members) - 1)
        chosen[members[:size]] = True
        if not size and len(members) > 1:
            small.append(members[0])
    room = max(1, round(most * len(labels))) - np.sum(chosen)
    if len(small) > room:
        small = generator.permutation(small)[: max(0, room)]
    chosen[np.asarray(small, int)] = True
    return chosen


def _checked_size(image_size):
    if image_size is None:
        return None
    size = np.broadcast_to(image_size, 2) if np.size(image_size) < 3 else None
    if size is None or any(int(s) != s or s < 1 for s in size):
        raise ValueError(
            "`image_size` must be a positive integer or two of them. "
            f"Received: image_size={image_size!r}"
        )
    return tuple(int(s) for s in size)


def _split(name, images, labels, class_names, seed):
    test = held_out(labels, TEST_SHARE, seed)
    return Dataset(
        name,
        images[~test],
        labels[~test],
        images[test],
        labels[test],
        tuple(class_names),
    )


def _digits(seed):
    extras.require(("sklearn",), "datasets", "The digits dataset")
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = loaded.images[..., None].astype("float32")
    labels = loaded.target.astype("int64")
    return _split("digits", images, labels, map(str, range(10)), seed)


def _fashion_mnist():
    if DEBIAN_FASHION_MNIST.is_dir():
        parts = [
            (
                _idx(DEBIAN_FASHION_MNIST / f"{part}-images-idx3-ubyte.gz"),
                _idx(DEBIAN_FASHION_MNIST / f"{part}-labels-idx1-ubyte.gz"),
            )
            for part in ("train", "t10k")
        ]
    else:
        import keras

        parts = keras.datasets.fashion_mnist.load_data()
    (x_train, y_train), (x_test, y_test) = parts
    return Dataset(
        "fashion_mnist",
        x_train[..., None],
        y_train.astype("int64"),
        x_test[..., None],
        y_test.astype("int64"),
        FASHION_MNIST_CLASSES,
    )


def _idx(path):
    """Reads a file of the MNIST format: magic, sizes, then bytes."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _tfds(name, seed, size):
    extras.require(("tensorflow_datasets",), "datasets", f"tfds:{name}")
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            "TensorFlow Datasets does not know this dataset. "
            f"Received: name_or_path='tfds:{name}'"
        ) from error
    if {"image", "label"} - set(builder.info.features):
        raise ValueError(
            "Expected an image classification dataset, with the features "
            f"'image' and 'label'. Received: tfds:{name} with "
            f"{sorted(builder.info.features)}"
        )
    builder.download_and_prepare()
    splits = builder.info.splits
    test = next((s for s in ("test", "validation") if s in splits), None)
    class_names = builder.info.features["label"].names
    stem = short_name(f"tfds:{name}")
    train = _tfds_arrays(builder, "train", size)
    if test is None:
        return _split(stem, *train, class_names, seed)
    return Dataset(
        stem, *train, *_tfds_arrays(builder, test, size), tuple(class_names)
    )


def _tfds_arrays(builder, split, size):
    shape = builder.info.features["image"].shape
    if size is None and None in shape:
        raise ValueError(
            "The images of this dataset have several sizes: `image_size` is "
            f"needed. Received: image_size=None, name={builder.name!r}"
        )
    images, labels = [], []
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    for example in dataset.as_numpy_iterator():
        image = example["image"]
        if size is not None:
            image = _resized(image[None], size)[0]
        images.append(image)
        labels.append(example["label"])
    return np.stack(images), np.asarray(labels, "int64")


def _folder(path, seed, size):
    train, test = image_folders.parts(path)
    if size is None:
        raise ValueError(
            "Images of a folder are resized: `image_size` is needed. "
            f"Received: image_size=None, name_or_path={str(path)!r}"
        )
    class_names = image_folders.class_names(train, least=2)
    extras.require(("PIL",), "datasets", "Reading images from a folder")
    images, labels = image_folders.read(train, class_names, size)
    name = short_name(path)
    if test is None:
        return _split(name, images, labels, class_names, seed)
    extra = set(image_folders.class_names(test, least=1)) - set(class_names)
    if extra:
        raise ValueError(
            "The test part has classes that the training part lacks. "
            f"Received: {sorted(extra)} in {str(test)!r}"
        )
    return Dataset(
        name,
        images,
        labels,
        *image_folders.read(test, class_names, size),
        tuple(class_names),
    )


def _resized(images, size):
    """Resizes images; integer types are rounded."""
    if len(images) > _AT_ONCE:
        # In floats all of them would take several times their memory.
        starts = range(0, len(images), _AT_ONCE)
        slices = [_resized(images[k : k + _AT_ONCE], size) for k in starts]
        return np.concatenate(slices)
    import keras

    resized = keras.ops.image.resize(
        images.astype("float32"),
        size,
        antialias=True,
        data_format="channels_last",
    )
    resized = keras.ops.convert_to_numpy(resized)
    if np.issubdtype(images.dtype, np.integer):
        resized = np.clip(np.rint(resized), 0, np.iinfo(images.dtype).max)
    return resized.astype(images.dtype)


def _limited(data, limit, seed):
    count = len(data.y_train)
    classes = len(np.unique(data.y_train))
    if isinstance(limit, bool) or limit != int(limit) or limit < classes:
        raise ValueError(
            "`limit` must be an integer of at least the number of classes, "
            f"here {classes}. Received: limit={limit!r}"
        )
    limit = int(limit)
    if limit >= count:
        return data
    shuffled = np.random.default_rng(seed).permutation(count)
    # Each class in turn by its share: the first of all, then the second ...
    turn = np.zeros(count)
    for label in np.unique(data.y_train):
        members = shuffled[data.y_train[shuffled] == label]
        turn[members] = np.arange(len(members)) / len(members)
    order = shuffled[np.argsort(turn[shuffled], kind="stable")]
    kept = np.sort(order[:limit])
    return dataclasses.replace(
        data, x_train=data.x_train[kept], y_train=data.y_train[kept]
    )
