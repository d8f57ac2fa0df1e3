"""The health of a search: how decided it is, and whether it gives up.

Differentiable searches have one well-known disease: operations without
weights, the identity and nothing at all, win everywhere because they are
easiest to train. So the share of such operations is logged for each decision
beside its entropy and margin, and a search that kept nothing else says so.
What it does to the depth and width of a network is logged with it.
"""

import warnings

import keras
import numpy as np

from keras_dha.architecture import wiring
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import held_layers

# Of probabilities that are written down every epoch.
_DIGITS = 5


def trajectory(decisions, network):
    """Returns what to log of the decisions, a dict of floats.

    Args:
        decisions: List of `keras_dha.Decision`.
        network: The `keras.Model` that they belong to.

    Returns:
        For each decision `<name>/entropy` (mean over its edges, 1 is even),
        `<name>/margin` and `<name>/idle` (the share of operations that pass
        their input on or give zeros); the mean margin, `decision_margin`;
        and if there are choices outside of cells, `depth`, the number of
        those that are not idle, in expectation.
    """
    idle = options_that(is_idle, network)
    logs = {}
    for decision in decisions:
        probabilities = decision.probabilities()
        on_edges = probabilities / probabilities.sum()
        share = sum(on_edges[k] for k in idle.get(id(decision), ()))
        logs[f"{decision.name}/entropy"] = _entropy(decision, probabilities)
        logs[f"{decision.name}/margin"] = decision.margin()
        logs[f"{decision.name}/idle"] = float(share)
    logs["decision_margin"] = float(
        np.mean([decision.margin() for decision in decisions])
    )
    # A decision that several choices share counts for each of them.
    active = [
        1.0 - logs[f"{choice.decision.name}/idle"]
        for choice in find_layers(network, SearchableLayer)
        if choice.decision.place is None
    ]
    return logs | ({"depth": sum(active)} if active else {})


def probabilities(network):
    """Returns the probabilities of all options of each decision.

    Args:
        network: The searched `keras.Model`.

    Returns:
        A dict from each decision's name to a dict from option to
        probability. Options have the names of the candidates of the first
        choice that consults the decision, without the choice's own name.
    """
    found = {}
    for choice in find_layers(network, SearchableLayer):
        decision = choice.decision
        if decision.name in found:
            continue
        names = [
            layer.name.removeprefix(f"{choice.name}_")
            for layer in choice.options
        ]
        if len(set(names)) < len(names):
            names = [
                f"edge{k // decision.operations}_{name}"
                for k, name in enumerate(names)
            ]
        values = decision.probabilities()
        found[decision.name] = {
            name: round(float(p), _DIGITS)
            for name, p in zip(names, values, strict=True)
        }
    return found


def cells(network):
    """Returns edges, depth and width of each kind of searched cell.

    Args:
        network: The searched `keras.Model`.

    Returns:
        A dict from the cell's name to its `wiring.statistics`.
    """
    places, zeros = {}, {}
    for choice in find_layers(network, SearchableLayer):
        decision = choice.decision
        if decision.place is not None:
            places[id(decision)] = decision
            zeros[id(decision)] = {
                (edge, operation)
                for edge, candidates in enumerate(choice.edges)
                for operation, layer in enumerate(candidates)
                if gives_zeros(layer)
            }
    parts = {}
    for key, decision in places.items():
        table = decision.probabilities().reshape(decision.edges, -1)
        wirings = wiring.wirings(
            table, decision.keep, decision.none, zeros[key]
        )
        cell = parts.setdefault(decision.place.cell, [])
        cell.append((decision.place, wirings))
    return {name: wiring.statistics(part) for name, part in parts.items()}


def warn_of_collapse(network):
    """Warns if a search kept idle operations and nothing else.

    Args:
        network: The searched `keras.Model`, before it is derived.
    """
    kept = {
        id(layer): layer
        for layer in _kept(network)
        # Of one that is a choice itself, what that one kept says it.
        if not isinstance(layer, SearchableLayer)
    }
    if kept and all(map(is_idle, kept.values())):
        warnings.warn(
            "The architecture search has collapsed: every choice kept an "
            "operation that passes its input on or gives zeros. Give the "
            "weights more time with a longer `warmup` of the strategy, lower "
            "its `learning_rate`, raise its `margin`, give DARTS a "
            "`beta_decay`, or leave such candidates out. "
            f"Kept: {sorted(layer.name for layer in kept.values())}",
            stacklevel=2,
        )


def _kept(layer):
    """Yields the candidates that are kept where those around them are, too."""
    parts = held_layers(layer)
    if isinstance(layer, SearchableLayer):
        parts = [part for _, part, _ in layer.kept()]
        yield from parts
    for part in parts:
        yield from _kept(part)


def is_idle(layer):
    """Whether a layer gives its input or zeros, whatever it has learned."""
    return gives_zeros(layer) or _passes_on(layer)


def gives_zeros(layer):
    """Whether a layer gives zeros, whatever its input."""
    if isinstance(layer, keras.Sequential):
        parts = [part for part in layer.layers if not _passes_on(part)]
        return bool(parts) and gives_zeros(parts[-1])
    is_scale = isinstance(layer, keras.layers.Rescaling)
    return is_scale and bool(np.all(np.equal(layer.scale, 0)))


def _passes_on(layer):
    """Whether a layer gives its input."""
    if isinstance(layer, keras.Sequential):
        return all(map(_passes_on, layer.layers))
    return type(layer) is keras.layers.Identity


def options_that(test, network):
    """Returns for id(decision) the set of its options that pass a test.

    Args:
        test: Function from a candidate to a bool, as `is_idle`.
        network: The searched `keras.Model`.
    """
    found = {}
    for choice in find_layers(network, SearchableLayer):
        options = {k for k, c in enumerate(choice.options) if test(c)}
        found.setdefault(id(choice.decision), set()).update(options)
    return found


def _entropy(decision, probabilities):
    """Mean over edges, relative to that of an even distribution."""
    if decision.operations == 1 and decision.code is None:
        return 0.0
    table = probabilities.reshape(decision.edges, -1).astype(np.float64)
    if decision.code is not None:
        # One distribution over the options of all edges.
        table = table.reshape(1, -1) / table.sum()
    terms = -table * np.log(np.maximum(table, 1e-12))
    return float(np.mean(terms.sum(axis=1)) / np.log(table.shape[1]))
