"""The catalogue of augmentation operations.

An operation is a pure batch function plus what a caller has to know about
it: does it need colour, a sign, a position, or is it a warp that composes
with other warps. A new operation is one function and one row of `OPERATIONS`.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from keras_dha.augmentation import geometric
from keras_dha.augmentation import photometric
from keras_dha.augmentation import surrogates


@dataclasses.dataclass(frozen=True)
class Operation:
    """One augmentation operation.

    Calling it augments a batch; arguments it has no use for are ignored, so
    that all operations can be called alike.

    Attributes:
        name: Name in policies and reports.
        function: The batch function, `(images, magnitude)` followed by `sign`
            if `signed` and by `position` if `positioned`.
        signed: Whether it has two directions.
        positioned: Whether it happens at a random place.
        colour_only: Whether it needs exactly three channels.
        warp: For an affine operation its five warp parameters at magnitude 1
            (see `geometric.affine_matrix`), otherwise None.
        surrogate: A function of the same arguments whose derivatives stand
            in for those that the operation lacks, or None if it has them.

    Example:
    >>> rotate = find_operations(["Rotate"])[0]
    >>> images = tf.random.uniform([2, 8, 8, 3], maxval=255.0)
    >>> rotate(images, tf.constant([0.0, 1.0]), sign=tf.ones(2)).shape
    TensorShape([2, 8, 8, 3])
    """

    name: str
    function: Callable
    signed: bool = False
    positioned: bool = False
    colour_only: bool = False
    warp: tuple[float, ...] | None = None
    surrogate: Callable | None = None

    @property
    def geometric(self):
        """Whether the operation is a warp that composes with others."""
        return self.warp is not None

    def __call__(
        self, images, magnitude, sign=None, position=None, differentiable=False
    ):
        """Augments a batch of images.

        Args:
            images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
            magnitude: float32 tensor of shape `[n]` in 0..1.
            sign: float32 tensor of shape `[n]`, each -1 or 1.
            position: float32 tensor of shape `[n, 2]` in 0..1.
            differentiable: Whether to add the surrogate's derivatives.

        Returns:
            float32 tensor of the shape of `images`.
        """
        extra = []
        if self.signed:
            extra.append(sign)
        if self.positioned:
            extra.append(position)
        result = self.function(images, magnitude, *extra)
        if differentiable and self.surrogate is not None:
            # Straight through: the operation's value, the surrogate's slope.
            slope = self.surrogate(images, magnitude, *extra)
            result += slope - tf.stop_gradient(slope)
        return result


def _warp(name, function, limits):
    return Operation(name, function, signed=True, warp=limits)


OPERATIONS = (
    _warp("ShearX", geometric.shear_x, geometric.SHEAR_X),
    _warp("ShearY", geometric.shear_y, geometric.SHEAR_Y),
    _warp("TranslateX", geometric.translate_x, geometric.TRANSLATE_X),
    _warp("TranslateY", geometric.translate_y, geometric.TRANSLATE_Y),
    _warp("Rotate", geometric.rotate, geometric.ROTATE),
    Operation("AutoContrast", photometric.auto_contrast),
    Operation("Equalize", photometric.equalize, surrogate=surrogates.equalize),
    Operation("Invert", photometric.invert),
    Operation("Solarize", photometric.solarize, surrogate=surrogates.solarize),
    Operation(
        "Posterize", photometric.posterize, surrogate=surrogates.posterize
    ),
    Operation("Contrast", photometric.contrast, signed=True),
    Operation("Color", photometric.color, signed=True, colour_only=True),
    Operation("Brightness", photometric.brightness, signed=True),
    Operation("Sharpness", photometric.sharpness, signed=True),
    Operation(
        "Cutout",
        geometric.cutout,
        positioned=True,
        surrogate=surrogates.cutout,
    ),
    Operation("Identity", photometric.identity),
)


def find_operations(names):
    """Returns the operations of the given names, in that order.

    Args:
        names: Sequence of names, each once.

    Returns:
        Tuple of `Operation`.

    Raises:
        ValueError: If a name is unknown or given twice, or none is given.
    """
    names = tuple(names)
    catalogue = {operation.name: operation for operation in OPERATIONS}
    unknown = [name for name in names if name not in catalogue]
    if unknown:
        raise ValueError(
            f"Unknown augmentation operations {unknown}. Expected names out "
            f"of {list(catalogue)}. Received: operations={list(names)}"
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            "`operations` must hold at least one name, and each name once. "
            f"Received: operations={list(names)}"
        )
    return tuple(catalogue[name] for name in names)


def fitting_operations(names, channels):
    """Returns the operations to use on images of so many channels.

    Args:
        names: Sequence of names, or None for all operations that fit.
        channels: Number of channels of the images.

    Returns:
        Tuple of `Operation`.

    Raises:
        ValueError: If a name is unknown or given twice, if an operation that
            was asked for needs another number of channels, or if the number
            of channels is not known.
    """
    if channels is None:
        raise ValueError(
            "The number of channels of the images must be known. "
            f"Received: channels={channels}"
        )
    if names is None:
        return tuple(
            operation
            for operation in OPERATIONS
            if channels == 3 or not operation.colour_only
        )
    operations = find_operations(names)
    misfits = [
        operation.name for operation in operations if operation.colour_only
    ]
    if channels != 3 and misfits:
        raise ValueError(
            f"The operations {misfits} need images of 3 channels. "
            f"Received: channels={channels}"
        )
    return operations
