"""The result of a run: what was found, on which way, and at what cost."""

import dataclasses
import json
import math

import keras
import numpy as np

from keras_dha import result_format
from keras_dha.architecture.genotype import chosen_names
from keras_dha.augmentation.policy import Policy

# What a history holds of each operation of a learned policy.
STATISTICS = ("probability", "magnitude", "share", "influence")
# What `json` calls numbers that are none in JSON.
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What one `keras_dha.AutoModel.fit` found.

    Attributes:
        genotype: Dict from each choice's name to `{"choice",
            "frozen", "probabilities"}`; empty if nothing was chosen.
        policy: The `keras_dha.augmentation.policy.Policy` that was learned,
            or that of a layer that is not trainable, or `None`.
        hyperparameters: Dict from name to `{"value", "start", "learned",
            "at_bounds"}`, the last one the shares of updates that ended at
            the lower and the upper bound. What is learned has its `"bounds"`
            at the end, and `"advice"`, a sentence, if it spent most updates
            at one of them. A learning rate is the multiplier of the base
            schedule, and has `"steps"` and `"rates"` as well, what the two
            came to in the course of the run. What AutoHAS learned has its
            `"basis"` and its `"probabilities"`.
        history: Dict from a quantity's name to its values, one an epoch, as
            callbacks get them in their logs. Of each operation of a learned
            policy there are "policy/Rotate/probability" and "magnitude", its
            "share" of all that was done to images of outer steps, and their
            mean "influence", how much more than other images they lowered
            the search loss, in standard deviations. The history alone has
            "phase", the phase of most steps of an epoch, and, if there is an
            architecture to decide, "decisions", dicts from a decision to the
            probability of each of its options, and "cells", for spaces of
            cells, from a kind of cell to `edges`, the probability of each,
            `depth` and `width` (`keras_dha.architecture.wiring`).
        cost: Dict: `seconds` in all, `phases` (for each phase its `seconds`
            and `steps`), `parameters` of the derived network, `undone`, how
            often it diverged and was set back, and with a target, `target`:
            for each limit `{"limit", "reached"}`.
        versions: Dict from the name of what the run was made with to its
            version.
        class_names: List of what the classes 0, 1, ... are called, or `None`
            if nobody said, as arrays do not; `keras-dha fit` does.

    Example:

    >>> result = model.result
    >>> keras_dha.SearchResult.from_json(result.to_json()) == result
    True
    """

    genotype: dict
    policy: Policy | None
    hyperparameters: dict
    history: dict
    cost: dict
    versions: dict = dataclasses.field(default_factory=dict)
    class_names: list | None = None

    def to_json(self):
        """Returns the result as JSON text.

        JSON has no NaN and no infinity: what a history has of them are the
        texts "NaN", "Infinity" and "-Infinity" there, and numbers again when
        it is read.
        """
        fields = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        }
        if self.policy is not None:
            fields["policy"] = json.loads(self.policy.to_json())
        fields["history"] = {
            name: [_finite_or_text(value) for value in values]
            for name, values in self.history.items()
        }
        return json.dumps(fields, indent=2)

    @classmethod
    def from_json(cls, text):
        """Returns the result that `to_json` wrote; runs no code from it.

        Args:
            text: String.

        Raises:
            ValueError: The text is not a result.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"A search result must be JSON. Received: {error}"
            ) from None
        names = {f.name for f in dataclasses.fields(cls)}
        is_object = isinstance(fields, dict)
        if not is_object or set(fields) != names:
            raise ValueError(
                f"A search result must have the fields {sorted(names)}. "
                f"Received: {sorted(fields) if is_object else fields!r}"
            )
        for name in sorted(names - {"policy", "class_names"}):
            if not isinstance(fields[name], dict):
                raise ValueError(
                    f"`{name}` must be an object. "
                    f"Received: {name}={fields[name]!r}"
                )
        for values in fields["history"].values():
            if isinstance(values, list):
                values[:] = [_number_of_text(value) for value in values]
        result_format.check(fields)
        if fields["policy"] is not None:
            fields["policy"] = Policy.from_json(json.dumps(fields["policy"]))
        _check_operations(fields["policy"], fields["history"])
        return cls(**fields)

    def learning_rate_schedule(self, name="learning_rate"):
        """Returns the learning rate of the run as a Keras schedule.

        The run's own update rule at these rates, but without search, is
        `keras.optimizers.SGD(result.learning_rate_schedule(), momentum=0.9)`
        for instance.

        Args:
            name: String; for groups of layers a key of `hyperparameters`.

        Returns:
            A stock `PiecewiseConstantDecay` of about a hundred pieces over
            the run's steps.
        """
        found = self.hyperparameters.get(name, {})
        if "rates" not in found:
            known = [k for k, v in self.hyperparameters.items() if "rates" in v]
            raise ValueError(
                f"`name` must be one of {known}. Received: name={name!r}"
            )
        steps, rates = found["steps"], found["rates"]
        if len(rates) == 1:
            steps, rates = [0, 2], rates * 2
        # Each rate counts until half way to the next one that was seen.
        ends = [(a + b) // 2 for a, b in zip(steps, steps[1:], strict=False)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(ends, rates)

    def summary(self):
        """Returns the result as text for people."""
        parts = [
            self._architecture(),
            self._policy(),
            self._hyperparameters(),
            self._cost(),
        ]
        return "\n\n".join(parts)

    def _architecture(self):
        if not self.genotype:
            return "Architecture: as given, nothing to choose"
        lines = ["Architecture found"]
        width = max(len(name) for name in self.genotype)
        for name, gene in self.genotype.items():
            picked = chosen_names({name: gene})
            shown = " + ".join(p.removeprefix(f"{name}_") for p in picked)
            kept, rest = len(picked), len(gene["probabilities"])
            lines.append(f"  {name:<{width}}  {shown}  ({kept} of {rest})")
        return "\n".join(lines)

    def _policy(self):
        if self.policy is None:
            return "Augmentation: none"
        # A policy that was given has no statistics, nor has one so far in the
        # first epoch.
        statistics = mean_statistics(self.history)
        title = "Augmentation policy" + (" learned" if statistics else "")
        return f"{title}\n{_indented(self.policy.summary(statistics))}"

    def _hyperparameters(self):
        lines = ["Hyperparameters"]
        for name, found in self.hyperparameters.items():
            if not found["learned"]:
                lines.append(f"  {name:<14} {found['value']:.4g} (fixed)")
                continue
            path = [found["start"], *_thinned(self.history.get(name, []))]
            lines.append(
                f"  {name:<14} " + " -> ".join(f"{v:.3g}" for v in path)
            )
        lines.append("  (the learning rate multiplies the base schedule)")
        return "\n".join(lines)

    def _cost(self):
        phases = ", ".join(
            f"{name} "
            + (f"{spent['steps']} steps in " if spent["steps"] else "")
            + f"{spent['seconds']:.0f} s"
            for name, spent in self.cost["phases"].items()
        )
        lines = [
            f"Cost: {self.cost['seconds']:.0f} s in all ({phases}); the "
            f"network has {self.cost['parameters']:,} parameters"
        ]
        for name, found in self.cost.get("target", {}).items():
            lines.append(
                f"  {name:<14} {found['reached']:,.6g} of at most "
                f"{found['limit']:,.6g}"
            )
        return "\n".join(lines)


def operations(history):
    """Returns what a history holds of each operation of a learned policy.

    Args:
        history: That of a `SearchResult`.

    Returns:
        Dict from an operation to a dict from a quantity, such as `"share"`,
        to its values, one an epoch; empty if no policy was learned.
    """
    found = {}
    for name, values in history.items():
        kind, *parts = name.split("/")
        if kind == "policy" and len(parts) == 2:
            found.setdefault(parts[0], {})[parts[1]] = values
    return found


def mean_statistics(history):
    """Returns share and influence of each operation where they were noted.

    Args:
        history: That of a `SearchResult`.

    Returns:
        Dict from an operation to `"mean share"` and `"mean influence"`, or
        `None` if no policy was learned.
    """
    found, noted = {}, operations(history)
    # In epochs without outer steps all shares are zero.
    counted = sum(np.array(values["share"]) for values in noted.values())
    epochs = max(np.count_nonzero(counted), 1)
    for name, values in noted.items():
        shares, total = values["share"], sum(values["share"])
        moved = np.dot(shares, values["influence"])
        found[name] = {
            "mean share": total / epochs,
            "mean influence": float(moved) / max(total, 1e-12),
        }
    return found or None


def _finite_or_text(value):
    """Returns a value as JSON can hold it: a text if it is not finite."""
    is_infinite = isinstance(value, float) and not math.isfinite(value)
    return json.dumps(value) if is_infinite else value


def _number_of_text(value):
    """Returns what `_finite_or_text` was given."""
    is_text = isinstance(value, str) and value in _NOT_FINITE
    return float(value) if is_text else value


def _check_operations(policy, history):
    found = operations(history)
    if policy and found and not set(policy.usage()) <= set(found):
        raise ValueError(
            "The history of a policy must be of its operations, "
            f"{sorted(policy.usage())}. Received: {sorted(found)}"
        )
    for name, values in found.items():
        lengths = {quantity: len(each) for quantity, each in values.items()}
        is_whole = set(lengths) == set(STATISTICS)
        if not is_whole or len(set(lengths.values())) != 1:
            raise ValueError(
                "The history of an operation must have as many values of "
                f"each of {list(STATISTICS)}. Received: `policy/{name}/` with "
                f"{lengths}"
            )


def _thinned(values, most=6):
    """A few of the values, evenly spaced, the last one among them."""
    if len(values) <= most:
        return values
    last = len(values) - 1
    return [values[round((k + 1) * last / most)] for k in range(most)]


def _indented(text):
    return "\n".join(f"  {line}" for line in text.splitlines())
