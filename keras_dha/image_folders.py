"""Image folders: a subfolder of images for each class.

Hidden files and folders are no part of them. Of images of any mode the colours
are read, on a white page where they are transparent, and all are resized to one
size.
"""

import warnings

import numpy as np

_IMAGE_SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png"),
    *(".tif", ".tiff", ".webp"),
)
# What a part is called, in capitals or not; the first that is there counts, of
# parts to test on the first with classes.
_TRAINING = ("train", "training")
_TESTING = ("test", "testing", "val", "valid", "validation")


def parts(path):
    """Returns the folders of training and of test images, or `None` of these.

    Args:
        path: `pathlib.Path` of a folder with a subfolder for each class,
            directly or within `train` and `test` (or `val`).

    Raises:
        ValueError: There is a part to test on and none to train on, which
            would be taken for classes.
    """
    train, others = _named(path, _TRAINING), _named(path, _TESTING)
    # Trains are a class like any other.
    if train and (others or _subfolders(train[0])):
        # Images that have no class measure nothing, if others do.
        labelled = [part for part in others if _subfolders(part)]
        return train[0], next(iter(labelled or others), None)
    folders = _folders(path)
    for part in folders:
        is_named = any(word in part.name.lower() for word in ("test", "val"))
        # To look into folders takes long, so not into those of classes.
        if is_named and _subfolders(part):
            trained_on = [f for f in folders if "train" in f.name.lower()]
            if part in others or any(map(_subfolders, trained_on)):
                raise ValueError(
                    "A part `test` or `val` of a folder needs a part `train` "
                    "beside it; to read the images of one part give its own "
                    f"path. Received: {part.name!r} without 'train' in "
                    f"{str(path)!r}"
                )
    return path, None


def _folders(path):
    """Returns the subfolders that are not hidden, by name."""
    found = [e for e in path.iterdir() if e.is_dir() and e.name[0] != "."]
    return sorted(found, key=lambda entry: entry.name)


def _named(path, names):
    """Returns the subfolders of some names, in the order of these."""
    found = _folders(path)
    return [e for name in names for e in found if e.name.lower() == name]


def _files(folder):
    """Returns the images in a folder, but for hidden ones.

    Notebooks leave copies in folders named .ipynb_checkpoints.
    """
    found = {
        file.relative_to(folder).parts: file
        for file in folder.rglob("*")
        if file.suffix.lower() in _IMAGE_SUFFIXES
    }
    # By text: paths compare otherwise from system to system.
    return [
        found[parts]
        for parts in sorted(found)
        if not any(part.startswith(".") for part in parts)
    ]


def _subfolders(folder):
    """Returns the names of the subfolders with images, in order."""
    return [entry.name for entry in _folders(folder) if _files(entry)]


def class_names(folder, least):
    """Returns the names of the classes in a folder, in order.

    Args:
        folder: `pathlib.Path`.
        least: Integer, how many there must be.
    """
    names = _subfolders(folder)
    if len(names) < least:
        raise ValueError(
            f"A folder must have at least {least} subfolders with images "
            f"({', '.join(_IMAGE_SUFFIXES)}), one for each class. "
            f"Received: {len(names)} in {str(folder)!r}"
        )
    empty = [e.name for e in _folders(folder) if e.name not in names]
    if empty:
        warnings.warn(
            "Subfolders without images are left out "
            f"({', '.join(_IMAGE_SUFFIXES)} are read). Received: {empty[:5]} "
            f"in {str(folder)!r}",
            stacklevel=2,
        )
    return names


def read(folder, names, size):
    """Returns all images and their labels.

    Args:
        folder: `pathlib.Path` with a subfolder for each class.
        names: List of the classes' names; a label is a place in it.
        size: (height, width) to resize to.

    Returns:
        (uint8 array `(n, height, width, 3)`, int64 array `(n,)`).

    Raises:
        ValueError: An image cannot be read.
    """
    import PIL.Image
    import PIL.ImageOps

    images, labels = [], []
    for label, name in enumerate(names):
        for file in _files(folder / name):
            try:
                with PIL.Image.open(file) as image:
                    # Cameras say which side is up.
                    upright = PIL.ImageOps.exif_transpose(image)
                    resized = _in_colour(upright).resize(size[::-1])
            except Exception as error:
                # Pillow raises a `SyntaxError` for some broken files.
                raise ValueError(
                    f"This image cannot be read. Received: {str(file)!r} "
                    f"({error})"
                ) from error
            images.append(np.asarray(resized))
            labels.append(label)
    return np.stack(images), np.asarray(labels, "int64")


def _in_colour(image):
    """Returns a Pillow image as RGB, of 16 bits the upper eight.

    What is transparent is white, as on a page: drawings may be in their
    transparency alone.
    """
    import PIL.Image

    if image.mode == "F":
        raise ValueError("its values are floats, of a range that none knows")
    if image.mode.startswith("I"):
        # Converted by Pillow, values would be cut off at 255.
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(page, image)
    return image.convert("RGB")
