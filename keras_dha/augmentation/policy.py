"""A learned augmentation policy as plain data.

A policy is a set of sub-policies, of which each image gets one: a sequence of
steps, each an operation with a distribution over its magnitude and a chance
of being left out. A single operation (TrivialAugment) is a sub-policy of one
step, DHA's 14 x 14 pairs are sub-policies of two, DADA's have probabilities of
application: one form holds all.

It knows nothing of TensorFlow: it can be read, compared, kept as JSON beside a
model, and given to a `DifferentiableAugmentation` layer in another project.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from keras_dha.augmentation import fields

# Raised when the fields of a policy's JSON change their meaning.
VERSION = 1

MIXERS = ("mixup", "cutmix")


@dataclasses.dataclass(frozen=True)
class Policy:
    """An augmentation policy: one sub-policy per image.

    Args:
        operations: R steps, each the name of an operation. Without
            `sub_policies` each name once.
        probabilities: S probabilities, of choosing each sub-policy.
        magnitudes: L magnitude levels, rising, each in (0, 1]; 0 would be no
            change and 1 is the strongest form of every operation.
        level_probabilities: R rows of L probabilities: how the magnitude is
            distributed where this step is carried out; then one row for each
            of mixup and cutmix that is used.
        sub_policies: S sequences of N step indices, done in that order, or
            None for S = R single operations.
        application: R probabilities of carrying a step out once its
            sub-policy was chosen, or None for always.
        flip: Probability of a horizontal flip, or None if flips are not used.
        shift: Probability of a random shift, or None if shifts are not used.
        mixup: Probability of blending in another image, or None.
        cutmix: Probability of pasting in a part of another image, or None.

    Example:
    >>> policy = Policy.uniform(["Rotate", "Invert"], levels=2)
    >>> policy.mean_magnitude
    (0.75, 0.75)
    >>> Policy.from_json(policy.to_json()) == policy
    True
    >>> layer = policy.to_layer(value_range=(0, 1), default_training=True)

    References:
        - Zhou et al., DHA: End-to-End Joint Optimization of Data Augmentation
          Policy, Hyper-parameter and Architecture, 2021.
        - Li et al., DADA: Differentiable Automatic Data Augmentation, 2020.
    """

    operations: tuple[str, ...]
    probabilities: tuple[float, ...]
    magnitudes: tuple[float, ...]
    level_probabilities: tuple[tuple[float, ...], ...]
    sub_policies: tuple[tuple[int, ...], ...] | None = None
    application: tuple[float, ...] | None = None
    flip: float | None = None
    shift: float | None = None
    mixup: float | None = None
    cutmix: float | None = None

    def __post_init__(self):
        for name, value in self._plain().items():
            object.__setattr__(self, name, value)
        self._check_operations()
        self._check_sub_policies()
        self._check_levels()
        for name in ("flip", "shift", *MIXERS):
            fields.check_probability(name, getattr(self, name))
        if (self.mixup or 0.0) + (
            self.cutmix or 0.0
        ) > 1.0 + fields.SUM_TOLERANCE:
            raise ValueError(
                "`mixup` and `cutmix` exclude each other, so their "
                "probabilities may not exceed 1 together. Received: "
                f"mixup={self.mixup}, cutmix={self.cutmix}"
            )

    def _plain(self):
        rows = fields.sequence("level_probabilities", self.level_probabilities)
        plain = {
            "operations": fields.sequence("operations", self.operations),
            "probabilities": fields.floats("probabilities", self.probabilities),
            "magnitudes": fields.floats("magnitudes", self.magnitudes),
            "level_probabilities": tuple(
                fields.floats("level_probabilities", row) for row in rows
            ),
        }
        if self.sub_policies is not None:
            plain["sub_policies"] = tuple(
                fields.indices("sub_policies", steps)
                for steps in fields.sequence("sub_policies", self.sub_policies)
            )
        if self.application is not None:
            plain["application"] = fields.floats(
                "application", self.application
            )
        for name in ("flip", "shift", *MIXERS):
            plain[name] = fields.optional_float(name, getattr(self, name))
        return plain

    def _check_operations(self):
        names = self.operations
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                "`operations` must be a non-empty sequence of names. "
                f"Received: operations={names}"
            )
        if self.sub_policies is None and len(set(names)) < len(names):
            raise ValueError(
                "`operations` must name each operation once. "
                f"Received: operations={names}"
            )

    def _check_sub_policies(self):
        steps = self.steps
        count = len(self.operations)
        proper = bool(steps) and all(
            isinstance(k, int) and not isinstance(k, bool) and 0 <= k < count
            for sub_policy in steps
            for k in sub_policy
        )
        if not proper or {len(s) for s in steps} != {max(len(steps[0]), 1)}:
            raise ValueError(
                "`sub_policies` must be sequences of one length, at least 1, "
                f"of indices into the {count} operations. "
                f"Received: sub_policies={self.sub_policies}"
            )
        fields.check_distribution(
            "probabilities", self.probabilities, len(steps)
        )
        chances = self.application
        if chances is not None and (
            len(chances) != count or not all(0 <= p <= 1 for p in chances)
        ):
            raise ValueError(
                f"`application` must be None or {count} probabilities, one "
                f"for each operation. Received: application={chances}"
            )

    def _check_levels(self):
        levels = self.magnitudes
        if not fields.are_magnitudes(levels):
            raise ValueError(
                "`magnitudes` must be non-empty, rising and in (0, 1]. "
                f"Received: magnitudes={levels}"
            )
        expected = len(self.operations) + len(self.mixers)
        if len(self.level_probabilities) != expected:
            raise ValueError(
                "`level_probabilities` must have one row for each of the "
                f"{len(self.operations)} operations and the mixers in use "
                f"{self.mixers}. Received: "
                f"level_probabilities={self.level_probabilities}"
            )
        for row in self.level_probabilities:
            fields.check_distribution("level_probabilities", row, len(levels))

    @classmethod
    def uniform(
        cls,
        operations: Sequence[str],
        levels: int | Sequence[float] = 10,
        flip: float | None = 0.5,
        shift: float | None = 0.5,
        sub_policies: Sequence[Sequence[int]] | None = None,
        application: float | None = None,
        mixup: float | None = None,
        cutmix: float | None = None,
    ) -> "Policy":
        """Returns the policy that prefers nothing.

        Args:
            operations: Names of operations.
            levels: Number L of magnitude levels, `1/L, 2/L, ..., 1`, or the
                levels themselves.
            flip, shift, mixup, cutmix: Probabilities, or None.
            sub_policies: As for the constructor.
            application: Probability of carrying a step out, the same for
                all, or None for always.

        Returns:
            A `Policy`.
        """
        names = fields.sequence("operations", operations)
        levels = fields.magnitudes_of(levels)
        size = len(names if sub_policies is None else sub_policies)
        rows = len(names) + (mixup is not None) + (cutmix is not None)
        return cls(
            operations=names,
            probabilities=(1.0 / max(size, 1),) * size,
            magnitudes=levels,
            level_probabilities=((1.0 / len(levels),) * len(levels),) * rows,
            sub_policies=sub_policies,
            application=(
                None if application is None else (application,) * len(names)
            ),
            flip=flip,
            shift=shift,
            mixup=mixup,
            cutmix=cutmix,
        )

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """S sequences of step indices, also where `sub_policies` is None."""
        if self.sub_policies is not None:
            return self.sub_policies
        return tuple((k,) for k in range(len(self.operations)))

    @property
    def mixers(self) -> tuple[str, ...]:
        """Which of mixup and cutmix are used."""
        return tuple(m for m in MIXERS if getattr(self, m) is not None)

    @property
    def mean_magnitude(self) -> tuple[float, ...]:
        """R expected magnitudes, of each step where it is carried out."""
        rows = self.level_probabilities[: len(self.operations)]
        return tuple(
            sum(p * m for p, m in zip(row, self.magnitudes, strict=True))
            for row in rows
        )

    @property
    def entropy(self) -> float:
        """Entropy in nats of the choice of sub-policy; `log(S)` if uniform."""
        return -sum(p * math.log(p) for p in self.probabilities if p > 0.0)

    def usage(self) -> dict[str, tuple[float, float]]:
        """Returns for each operation how often and how strongly it is done.

        Returns:
            Dict from an operation's name to the expected number of times it
            is done to an image (its probability, if sub-policies have one
            step) and to the mean magnitude of these.
        """
        chances = self.application or (1.0,) * len(self.operations)
        means = self.mean_magnitude
        found = {name: [0.0, 0.0] for name in self.operations}
        for p, steps in zip(self.probabilities, self.steps, strict=True):
            for k in steps:
                entry = found[self.operations[k]]
                entry[0] += p * chances[k]
                entry[1] += p * chances[k] * means[k]
        return {
            name: (share, weighted / share if share else 0.0)
            for name, (share, weighted) in found.items()
        }

    def summary(self, statistics: Mapping | None = None) -> str:
        """Returns a text table, the most frequent operation first.

        Args:
            statistics: Dict from an operation's name to a dict of further
                columns, numbers by name.
        """
        usage, more = self.usage(), statistics or {}
        columns = list(next(iter(more.values()), {}))
        width = max(len("operation"), *map(len, usage))
        titles = ["probability", "mean magnitude", *columns]
        lines = ["  ".join([f"{'operation':<{width}}", *titles])]
        for name in sorted(usage, key=lambda name: -usage[name][0]):
            values = [*usage[name], *(more[name][c] for c in columns)]
            decimals = [3, *[2] * (len(values) - 1)]
            cells = [
                f"{value:{len(title)}.{places}f}"
                for value, title, places in zip(
                    values, titles, decimals, strict=True
                )
            ]
            lines.append("  ".join([f"{name:<{width}}", *cells]))
        for name in ("flip", "shift", *self.mixers):
            lines.append(f"{name:<{width}}  {_show(getattr(self, name))}")
        return "\n".join(lines)

    def without(self, names: Iterable[str]) -> "Policy":
        """Returns the policy without some operations.

        Sub-policies that have a step with one of them are dropped; the
        others keep the ratios of their probabilities.

        Args:
            names: Names of operations; some sub-policy must be left.
        """
        names = set(names)
        gone = {k for k, n in enumerate(self.operations) if n in names}
        kept = [
            s for s, steps in enumerate(self.steps) if not gone & set(steps)
        ]
        total = math.fsum(self.probabilities[s] for s in kept)
        if not total > 0.0:
            raise ValueError(
                "Some sub-policy must do without the operations that are to "
                f"be left out. Received: names={sorted(names)}"
            )
        rows = [
            k for k in range(len(self.level_probabilities)) if k not in gone
        ]
        steps = [k for k in rows if k < len(self.operations)]
        place = {k: index for index, k in enumerate(steps)}
        chances, subs = self.application, self.sub_policies
        return dataclasses.replace(
            self,
            operations=tuple(self.operations[k] for k in steps),
            probabilities=tuple(self.probabilities[s] / total for s in kept),
            level_probabilities=[self.level_probabilities[k] for k in rows],
            application=chances and tuple(chances[k] for k in steps),
            sub_policies=subs
            and tuple(tuple(place[k] for k in subs[s]) for s in kept),
        )

    def to_layer(self, **arguments):
        """Returns a `DifferentiableAugmentation` that carries the policy out.

        It fits images of any size and number of channels (operations that
        need colour are left out of those without, with a warning), and is
        not trainable. Each image is augmented: what a run left as it was is
        no part of the policy, but an argument, `clean`.

        Args:
            **arguments: Of the layer; `value_range` above all. What the policy
                says itself is changed in it, by `dataclasses.replace`.
        """
        # A policy itself needs neither TensorFlow nor Keras.
        from keras_dha.augmentation import arguments as check
        from keras_dha.augmentation.layer import DifferentiableAugmentation

        said = {k: v for k, v in arguments.items() if k in check.DEFAULTS}
        check.agreeing(self, said, defaults={})
        return DifferentiableAugmentation(
            **{"policy": self, "trainable": False, **arguments}
        )

    def get_config(self) -> dict:
        """Returns the policy as a dictionary of JSON's own types."""
        fields = {"version": VERSION, **dataclasses.asdict(self)}
        return json.loads(json.dumps(fields))

    @classmethod
    def from_config(cls, config: Mapping) -> "Policy":
        """Returns the policy that `get_config` described.

        Args:
            config: A mapping of `version` and exactly the constructor's
                arguments.

        Raises:
            ValueError: If a field is missing, unknown or out of range.
        """
        expected = ["version", *(f.name for f in dataclasses.fields(cls))]
        received = (
            sorted(map(str, config)) if isinstance(config, Mapping) else config
        )
        if received != sorted(expected):
            raise ValueError(
                f"A policy expects the fields {expected}. "
                f"Received: fields={received}"
            )
        config = dict(config)
        version = config.pop("version")
        if version != VERSION:
            raise ValueError(
                f"A policy of version {VERSION} is expected; use the release "
                f"that wrote it. Received: version={version!r}"
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


def _show(probability):
    return "   not used" if probability is None else f"{probability:11.3f}"
