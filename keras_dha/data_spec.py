"""What is known about data: one example, or what an example consists of."""

from typing import NamedTuple

from keras_dha import form as forms


class DataSpec(NamedTuple):
    """What is known about a labelled set of examples.

    Of data with several inputs, shape and range are a dict by name or a list
    of those of each input; of several outputs so are classes and one-hot.

    Attributes:
        shape: Shape of one example.
        num_classes: Integer.
        one_hot: Whether labels are one-hot rows rather than integers.
        value_range: (low, high) of the values, (0, 255) for uint8.
        count: Number of examples.
    """

    shape: tuple | dict | list
    num_classes: int | dict | list
    one_hot: bool | dict | list
    value_range: tuple | dict | list
    count: int

    @property
    def image(self):
        """Number of the one input that is an image, or `None`."""
        return image_among(forms.facts(self.shape))

    @property
    def is_image(self):
        """Whether there is one input that is an image."""
        return self.image is not None

    @property
    def is_single(self):
        """Whether there is one input and one output, both without names."""
        return not any(
            isinstance(field, (dict, list))
            for field in (self.shape, self.num_classes)
        )

    def arranged(self, form):
        """Returns the same in the form of a network, a `form.Form`."""
        x, y = form.inputs, form.outputs
        return DataSpec(
            x.arranged(self.shape, list),
            y.arranged(self.num_classes, list),
            y.arranged(self.one_hot, list),
            x.arranged(self.value_range, list),
            self.count,
        )

    def is_like(self, other):
        """Whether examples and labels have the form of another spec's."""
        ours, theirs = (self.shape, self.one_hot), (other.shape, other.one_hot)
        return ours == theirs

    @classmethod
    def from_json(cls, fields):
        """Returns the spec of `_asdict()`, whose tuples JSON made lists."""
        fields = dict(fields)
        for name in ("shape", "value_range"):
            fields[name] = _tuples(fields[name])
        return cls(**fields)


def _tuples(value):
    if isinstance(value, dict):
        return {name: tuple(part) for name, part in value.items()}
    if isinstance(value[0], list):
        return [tuple(part) for part in value]
    return tuple(value)


def image_among(shapes):
    """Returns the number of the one shape that is of an image, or `None`.

    An image is `(h, w)` or `(h, w, c)`; of several none is the one.

    Args:
        shapes: List of shapes of one example.
    """
    found = [k for k, shape in enumerate(shapes) if len(shape) in (2, 3)]
    return found[0] if len(found) == 1 else None
