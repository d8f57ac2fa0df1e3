"""Which of a network's weights are handed to it together, as one piece.

Handed in one by one, each weight of a candidate would be an input of every
branch of its choice, with a derivative of zeros wherever another runs. So the
weights of all candidates of an edge are one piece of the vector, from which a
candidate takes its own where it runs (`keras_dha.given_weights`).
"""

import math
from typing import NamedTuple

from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.nested_layers import find_layers


class Layout(NamedTuple):
    """How a vector of weights consists of pieces, in their order.

    Attributes:
        variables: For each piece the list of its variables.
        sizes: For each piece its number of elements.
        piece_of: Dict from a variable's id to the number of its piece.
        candidates: Dict from a candidate's id to (piece, places), which
            variables of the piece it uses.
    """

    variables: list
    sizes: list
    piece_of: dict
    candidates: dict


def layout(network, variables):
    """Returns the `Layout` of a network's weights.

    One piece are the weights of an edge's candidates, which may have some in
    common, if they stand together in the vector, and if the edge does not share
    its graph with others, to which it hands its weights one by one. Edges
    within candidates are parts of these. All other weights are pieces of their
    own.

    Args:
        network: A built Keras model.
        variables: List of Keras variables, in the order of the vector.
    """
    number = {id(v): k for k, v in enumerate(variables)}
    edges, claimed = {}, set()
    for edge in _outermost_edges(network):
        own = [
            [number[id(v)] for v in c.trainable_variables if id(v) in number]
            for c in edge
        ]
        together = sorted({k for numbers in own for k in numbers})
        start = min(together, default=0)
        is_row = together == [*range(start, start + len(together))]
        if together and is_row and claimed.isdisjoint(together):
            claimed.update(together)
            edges[start] = list(zip(edge, own, strict=True))
    found = Layout([], [], {}, {})
    for k, variable in enumerate(variables):
        if k in edges or k not in claimed:
            found.variables.append([])
            found.sizes.append(0)
        for candidate, own in edges.get(k, ()):
            if own:
                places = {place - k for place in own}
                found.candidates[id(candidate)] = len(found.sizes) - 1, places
        found.piece_of[id(variable)] = len(found.sizes) - 1
        found.variables[-1].append(variable)
        found.sizes[-1] += math.prod(variable.shape)
    return found


def _outermost_edges(network):
    """Returns the edges that are in no candidate and share no graph."""
    searchables = find_layers(network, SearchableLayer)
    inner = {
        id(layer)
        for searchable in searchables
        for candidate in searchable.options
        for layer in find_layers(candidate, SearchableLayer)
    }
    return [
        edge
        for searchable in searchables
        if id(searchable) not in inner
        for k, edge in enumerate(searchable.edges)
        if k not in searchable.shared_edges
    ]
