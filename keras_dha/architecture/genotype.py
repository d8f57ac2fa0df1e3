"""The genotype: which candidate each decision has picked, as plain data."""

from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.nested_layers import find_layers


def genotype(model):
    """Returns the architecture that `model` stands for now.

    Args:
        model: A `keras.Model` with or without searchable layers.

    Returns:
        A dict, JSON-able, from the name of each choice to
        `{"choice": name of the candidate, "frozen": bool,
        "probabilities": {candidate name: float}}`; empty for a plain model.
        The choice of a `keras_dha.NodeChoice` of several edges is a list;
        where edges have candidates of one name, theirs begin with `edge0_`
        and so on.

    Example:

    >>> genotype(supernet)["stage1_block1"]["choice"]
    'stage1_block1_conv3'
    """
    found = {}
    for choice in find_layers(model, SearchableLayer):
        decision = choice.decision
        probabilities = decision.probabilities()
        names = [candidate.name for candidate in choice.options]
        if len(set(names)) < len(names):
            # They are distinct on each edge.
            names = [
                f"edge{k // decision.operations}_{name}"
                for k, name in enumerate(names)
            ]
        kept = [names[k] for k in decision.kept()]
        found[choice.name] = {
            "choice": kept if decision.edges > 1 else kept[0],
            "frozen": decision.is_frozen,
            "probabilities": {
                name: float(p)
                for name, p in zip(names, probabilities, strict=True)
            },
        }
    return found


def chosen_names(found):
    """Returns the names of all candidates that a genotype has chosen.

    Args:
        found: A genotype.
    """
    names = []
    for gene in found.values():
        choice = gene["choice"]
        names += [choice] if isinstance(choice, str) else choice
    return names
