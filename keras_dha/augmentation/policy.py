"""A learned augmentation policy as plain data.

A policy says how often each operation is chosen, how strong it then is, and
how often images are flipped and shifted. It knows nothing of TensorFlow: it
can be read, compared, kept as JSON beside a model, and given to a
`DifferentiableAugmentation` layer in another project.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

# How far from 1 a distribution's sum may be: float32 softmax and a JSON
# rounded by hand pass, a forgotten entry does not.
_SUM_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Policy:
    """An augmentation policy: one operation per image, at one strength.

    Args:
        operations: K names of operations, each once.
        probabilities: K probabilities, of choosing each operation.
        magnitudes: L magnitude levels, rising, each in (0, 1]; 0 would be no
            change and 1 is the strongest form of every operation.
        level_probabilities: K rows of L probabilities: how the magnitude is
            distributed if this operation was chosen.
        flip: Probability of a horizontal flip, or None if flips are not used.
        shift: Probability of a random shift, or None if shifts are not used.

    Example:
    >>> policy = Policy.uniform(["Rotate", "Invert"], levels=2)
    >>> policy.mean_magnitude
    (0.75, 0.75)
    >>> Policy.from_json(policy.to_json()) == policy
    True

    References:
        Zhou et al., DHA: End-to-End Joint Optimization of Data Augmentation
        Policy, Hyper-parameter and Architecture, 2021.
    """

    operations: tuple[str, ...]
    probabilities: tuple[float, ...]
    magnitudes: tuple[float, ...]
    level_probabilities: tuple[tuple[float, ...], ...]
    flip: float | None = None
    shift: float | None = None

    def __post_init__(self):
        names = _sequence("operations", self.operations)
        rows = _sequence("level_probabilities", self.level_probabilities)
        plain = {
            "operations": names,
            "probabilities": _floats("probabilities", self.probabilities),
            "magnitudes": _floats("magnitudes", self.magnitudes),
            "level_probabilities": tuple(
                _floats("level_probabilities", row) for row in rows
            ),
            "flip": _optional_float("flip", self.flip),
            "shift": _optional_float("shift", self.shift),
        }
        for name, value in plain.items():
            # The one way to normalise a field of a frozen dataclass.
            object.__setattr__(self, name, value)
        self._check_operations()
        self._check_levels()
        for name in ("flip", "shift"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"`{name}` must be None or a probability in [0, 1]. "
                    f"Received: {name}={value}"
                )

    def _check_operations(self):
        names = self.operations
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                "`operations` must be a non-empty sequence of names. "
                f"Received: operations={names}"
            )
        if len(set(names)) < len(names):
            raise ValueError(
                "`operations` must name each operation once. "
                f"Received: operations={names}"
            )
        _check_distribution("probabilities", self.probabilities, len(names))

    def _check_levels(self):
        levels = self.magnitudes
        rising = all(a < b for a, b in zip(levels, levels[1:], strict=False))
        if not levels or not rising or not 0.0 < levels[0] <= levels[-1] <= 1:
            raise ValueError(
                "`magnitudes` must be non-empty, rising and in (0, 1]. "
                f"Received: magnitudes={levels}"
            )
        if len(self.level_probabilities) != len(self.operations):
            raise ValueError(
                "`level_probabilities` must have one row for each of the "
                f"{len(self.operations)} operations. Received: "
                f"level_probabilities={self.level_probabilities}"
            )
        for row in self.level_probabilities:
            _check_distribution("level_probabilities", row, len(levels))

    @classmethod
    def uniform(
        cls,
        operations: Sequence[str],
        levels: int = 10,
        flip: float | None = 0.5,
        shift: float | None = 0.5,
    ) -> "Policy":
        """Returns the policy that prefers nothing.

        Args:
            operations: Names of operations, each once.
            levels: Number L of magnitude levels, `1/L, 2/L, ..., 1`.
            flip: Probability of a horizontal flip, or None.
            shift: Probability of a random shift, or None.

        Returns:
            A `Policy`.
        """
        if (
            isinstance(levels, bool)
            or not isinstance(levels, int)
            or levels < 1
        ):
            raise ValueError(
                "`levels` must be an integer of at least 1. "
                f"Received: levels={levels}"
            )
        names = _sequence("operations", operations)
        count = max(len(names), 1)
        return cls(
            operations=names,
            probabilities=(1.0 / count,) * len(names),
            magnitudes=tuple((k + 1) / levels for k in range(levels)),
            level_probabilities=((1.0 / levels,) * levels,) * len(names),
            flip=flip,
            shift=shift,
        )

    @property
    def mean_magnitude(self) -> tuple[float, ...]:
        """K expected magnitudes, of each operation once it was chosen."""
        return tuple(
            sum(p * m for p, m in zip(row, self.magnitudes, strict=True))
            for row in self.level_probabilities
        )

    @property
    def entropy(self) -> float:
        """Entropy in nats of the choice of operation; `log(K)` if uniform."""
        return -sum(p * math.log(p) for p in self.probabilities if p > 0.0)

    def summary(self) -> str:
        """Returns a text table, the most probable operation first."""
        width = max(len("operation"), *map(len, self.operations))
        lines = [f"{'operation':<{width}}  probability  mean magnitude"]
        order = sorted(
            range(len(self.operations)), key=lambda k: -self.probabilities[k]
        )
        means = self.mean_magnitude
        for k in order:
            name, probability = self.operations[k], self.probabilities[k]
            lines.append(
                f"{name:<{width}}  {probability:11.3f}  {means[k]:14.2f}"
            )
        lines.append(f"{'flip':<{width}}  {_show(self.flip)}")
        lines.append(f"{'shift':<{width}}  {_show(self.shift)}")
        return "\n".join(lines)

    def get_config(self) -> dict:
        """Returns the policy as a dictionary of JSON's own types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_config(cls, config: Mapping) -> "Policy":
        """Returns the policy that `get_config` described.

        Args:
            config: A mapping with exactly the constructor's arguments.

        Raises:
            ValueError: If a field is missing, unknown or out of range.
        """
        expected = [field.name for field in dataclasses.fields(cls)]
        received = (
            sorted(map(str, config)) if isinstance(config, Mapping) else config
        )
        if received != sorted(expected):
            raise ValueError(
                f"A policy expects the fields {expected}. "
                f"Received: fields={received}"
            )
        return cls(**config)

    def to_json(self) -> str:
        """Returns the policy as JSON text."""
        return json.dumps(self.get_config(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """Returns the policy written by `to_json`.

        Args:
            text: JSON text.

        Raises:
            ValueError: If the text is not JSON or not a valid policy.
        """
        try:
            config = json.loads(text)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"A policy expects JSON text ({error}). Received: text={text!r}"
            ) from error
        return cls.from_config(config)


def _sequence(name, values):
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(
            f"`{name}` must be a sequence. Received: {name}={values!r}"
        )
    return tuple(values)


def _floats(name, values):
    try:
        return tuple(float(value) for value in _sequence(name, values))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must hold numbers. Received: {name}={values!r}"
        ) from error


def _optional_float(name, value):
    return None if value is None else _floats(name, [value])[0]


def _check_distribution(name, values, size):
    proper = all(0.0 <= value <= 1.0 for value in values)
    total = math.fsum(values)
    if len(values) != size or not proper or abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(
            f"`{name}` must hold {size} numbers in [0, 1] with sum 1, they "
            f"are {len(values)} with sum {total:g}. Received: {name}={values}"
        )


def _show(probability):
    return "   not used" if probability is None else f"{probability:11.3f}"
