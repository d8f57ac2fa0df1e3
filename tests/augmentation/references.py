"""Independent implementations of the operations, by PIL and by NumPy.

Nothing here uses the library or TensorFlow. Images are uint8 `[h, w, c]`
with 1 or 3 channels; results are float64 of the same shape.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL import ImageEnhance
from PIL import ImageOps

GREY = 128.0


def to_pil(image):
    """Returns the image as PIL's "L" or "RGB"."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(image):
    """Returns PIL's image as float64 `[h, w, c]`."""
    array = np.asarray(image).astype("float64")
    return array[..., None] if array.ndim == 2 else array


def pil_coefficients(linear, move, height, width):
    """PIL's (a, b, c, d, e, f) of a linear map about the image's centre.

    PIL counts positions from the upper left corner of the image, so that
    the centre is at (width / 2, height / 2) and the first pixel at 0.5.
    """
    centre = np.array([width / 2.0, height / 2.0])
    offset = centre - linear @ centre + move
    return (*linear[0], offset[0], *linear[1], offset[1])


def coefficients(name, magnitude, sign, height, width):
    """PIL's coefficients of a geometric operation, output to input."""
    amount = sign * magnitude
    linear, move = np.eye(2), np.zeros(2)
    if name == "ShearX":
        linear[0, 1] = 0.3 * amount
    elif name == "ShearY":
        linear[1, 0] = 0.3 * amount
    elif name == "TranslateX":
        move[0] = 0.45 * amount * width
    elif name == "TranslateY":
        move[1] = 0.45 * amount * height
    elif name == "Rotate":
        angle = math.radians(30.0 * amount)
        linear = np.array(
            [
                [math.cos(angle), -math.sin(angle)],
                [math.sin(angle), math.cos(angle)],
            ]
        )
    return pil_coefficients(linear, move, height, width)


def bilinear(image, coefficients, fill=GREY):
    """Resamples pixel by pixel; neighbours outside the image are `fill`."""
    a, b, c, d, e, f = coefficients
    height, width, _ = image.shape
    result = np.zeros(image.shape)

    def pixel(row, column):
        inside = 0 <= row < height and 0 <= column < width
        return image[row, column].astype("float64") if inside else fill

    for i in range(height):
        for j in range(width):
            x = a * (j + 0.5) + b * (i + 0.5) + c - 0.5
            y = d * (j + 0.5) + e * (i + 0.5) + f - 0.5
            left, top = math.floor(x), math.floor(y)
            right, below = x - left, y - top
            result[i, j] = (
                (1 - below) * (1 - right) * pixel(top, left)
                + (1 - below) * right * pixel(top, left + 1)
                + below * (1 - right) * pixel(top + 1, left)
                + below * right * pixel(top + 1, left + 1)
            )
    return result


def geometric(name):
    """The NumPy reference of a geometric operation."""

    def reference(image, magnitude, sign, position):
        height, width, _ = image.shape
        return bilinear(
            image, coefficients(name, magnitude, sign, height, width)
        )

    return reference


def blended(function):
    """PIL's operation, mixed with the image by the magnitude."""

    def reference(image, magnitude, sign, position):
        changed = from_pil(function(to_pil(image)))
        return image + magnitude * (changed - image)

    return reference


def enhanced(enhancer):
    """PIL's enhancement with the factor 1 + 0.9 * sign * magnitude."""

    def reference(image, magnitude, sign, position):
        factor = 1.0 + 0.9 * sign * magnitude
        return from_pil(enhancer(to_pil(image)).enhance(factor))

    return reference


def solarize(image, magnitude, sign, position):
    """PIL's solarisation, threshold 256 down to 0."""
    threshold = 256 * (1.0 - magnitude)
    return from_pil(ImageOps.solarize(to_pil(image), threshold))


def posterize(image, magnitude, sign, position):
    """PIL's posterisation, 8 bits down to 1."""
    bits = 8 - round(7 * magnitude)
    return from_pil(ImageOps.posterize(to_pil(image), bits))


def cutout(image, magnitude, sign, position):
    """A grey square, pixel by pixel."""
    height, width, _ = image.shape
    half = 0.5 * 0.5 * magnitude * min(height, width)
    result = image.astype("float64")
    for i in range(height):
        for j in range(width):
            in_row = abs(i + 0.5 - position[1] * height) < half
            in_column = abs(j + 0.5 - position[0] * width) < half
            if in_row and in_column:
                result[i, j] = GREY
    return result


def identity(image, magnitude, sign, position):
    """The image itself."""
    return image.astype("float64")


@dataclasses.dataclass(frozen=True)
class Case:
    """One operation and what it must agree with.

    `tolerance` is in grey levels. It is 1 to 2 where PIL truncates what the
    library keeps as a real number, and rounding error elsewhere.
    """

    name: str
    reference: Callable
    tolerance: float = 1e-3

    def __str__(self):
        return self.name


CASES = (
    Case("ShearX", geometric("ShearX"), 0.01),
    Case("ShearY", geometric("ShearY"), 0.01),
    Case("TranslateX", geometric("TranslateX"), 0.01),
    Case("TranslateY", geometric("TranslateY"), 0.01),
    Case("Rotate", geometric("Rotate"), 0.01),
    Case("AutoContrast", blended(ImageOps.autocontrast), 1.0),
    Case("Equalize", blended(ImageOps.equalize)),
    Case("Invert", blended(ImageOps.invert)),
    Case("Solarize", solarize),
    Case("Posterize", posterize),
    Case("Contrast", enhanced(ImageEnhance.Contrast), 2.0),
    Case("Color", enhanced(ImageEnhance.Color), 2.0),
    Case("Brightness", enhanced(ImageEnhance.Brightness), 1.0),
    Case("Sharpness", enhanced(ImageEnhance.Sharpness), 2.0),
    Case("Cutout", cutout),
    Case("Identity", identity),
)


def noise_images(count, height=12, width=17, channels=3, seed=0):
    """Images of independent pixels of all grey levels, uint8."""
    generator = np.random.default_rng(seed)
    shape = (count, height, width, channels)
    return generator.integers(0, 256, shape).astype("uint8")


def smooth_images(count, height=24, width=32, channels=3, seed=0):
    """Images of a slope and a broad blob, grey levels 30..220, uint8."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    images = []
    for _ in range(count * channels):
        u, v = generator.uniform(0.35, 0.65, 2)
        slope = rows * generator.uniform(0.3, 1) + columns
        blob = np.exp(-8 * ((rows - v) ** 2 + (columns - u) ** 2))
        values = 0.5 * slope + 1.5 * blob
        values -= values.min()
        images.append(30 + 190 * values / values.max())
    stacked = np.stack(images).reshape(count, channels, height, width)
    return np.rint(stacked.transpose(0, 2, 3, 1)).astype("uint8")
