"""The genotype: which candidate each decision has picked, as plain data."""

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_layers


def genotype(model):
    """Returns the architecture that `model` stands for now.

    Args:
        model: A `keras.Model` with or without `keras_dha.Choice` layers.

    Returns:
        A dict, JSON-able, from the name of each choice to
        `{"choice": name of the candidate, "frozen": bool,
        "probabilities": {candidate name: float}}`; empty for a plain model.

    Example:

    >>> genotype(supernet)["stage1_block1"]["choice"]
    'stage1_block1_conv3'
    """
    found = {}
    for choice in find_layers(model, Choice):
        probabilities = choice.decision.probabilities()
        names = [candidate.name for candidate in choice.candidates]
        found[choice.name] = {
            "choice": choice.chosen_candidate().name,
            "frozen": choice.decision.is_frozen,
            "probabilities": {
                name: float(p)
                for name, p in zip(names, probabilities, strict=True)
            },
        }
    return found
