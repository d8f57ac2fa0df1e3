"""Input facts: what is seen of the examples of one input, part by part."""

import numpy as np

_FEW_LEVELS = 16
# How far below and above a usual range rounding and resampling may lead, as
# shares of it.
_BELOW, _ABOVE = 0.05, 1e-3


class InputFacts:
    """Running facts about examples, refused as soon as one is wrong."""

    def __init__(self):
        self.shape = None
        self.count = 0
        self.low, self.high = np.inf, -np.inf
        self.is_uint8 = False

    def add(self, images):
        """Takes note of some examples, a NumPy array."""
        if images.dtype.kind in "OSU":
            raise ValueError(
                "Examples must be numbers; files are read in the dataset's "
                "map, for instance with `tf.io.decode_image`. "
                f"Received: examples such as {images.flat[0]!r}"
            )
        shape = tuple(images.shape[1:])
        if self.shape not in (None, shape):
            raise ValueError(
                "All images must have one shape; resize them in the dataset. "
                f"Received: shapes {self.shape} and {shape}"
            )
        if not np.all(np.isfinite(images)):
            raise ValueError(
                "Images must not contain NaN or infinite values. "
                f"Received: {int(np.sum(~np.isfinite(images)))} such values "
                f"among examples {self.count}..{self.count + len(images) - 1}"
            )
        self.shape = shape
        self.count += len(images)
        self.low = min(self.low, float(images.min()))
        self.high = max(self.high, float(images.max()))
        self.is_uint8 = images.dtype == np.uint8

    @property
    def value_range(self):
        """The usual range that the values fit in, else the measured one."""
        # Dark ones as well; but not what has a few levels, as drawings of 0
        # and 1.
        if self.is_uint8 and self.high > _FEW_LEVELS:
            return (0.0, 255.0)
        for usual in ((0.0, 1.0), (-1.0, 1.0), (0.0, 16.0), (0.0, 255.0)):
            low, high = usual
            is_low = low - _BELOW * high <= self.low
            if is_low and high / 2 < self.high <= (1.0 + _ABOVE) * high:
                return usual
        return (self.low, self.high)

    @property
    def is_constant(self):
        """Whether all values are one."""
        return not self.low < self.high
