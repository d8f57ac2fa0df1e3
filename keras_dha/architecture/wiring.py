"""Wiring: which edges a searched cell has, how deep it is and how wide.

A cell is a graph of states: its inputs, and nodes that add up edges from
earlier states. Its output is the last node, or all nodes joined.

depth   connections on the longest path from an input to the output; where
        nodes are joined, the way into the output is one more
width   in units of a node's own width: a node counts by the share of its
        edges that come from inputs of the cell, 1 if all do

Only edges on a way from an input to the output count. The cells that search
finds tend to be shallow and wide, which trains fast and need not end well.

While a cell is searched these are expectations over the cells that could be
derived: a node keeps edges together with a probability that is proportional
to the product of their strengths, nodes are independent, and an edge whose
operation gives zeros is none. All wirings are enumerated. Of a cell that was
decided there is one.

Reference:
    Shu, Wang & Cai, "Understanding Architectures Learnt by Cell-based Neural
    Architecture Search", ICLR 2020, for depth and width of a cell.
"""

import itertools
from typing import NamedTuple

import numpy as np

# A cell with more than so many wirings has weights of edges alone.
MOST_WIRINGS = 100_000
# What strength an edge has where too few have any.
_LEAST = 1e-9


class Place(NamedTuple):
    """Where in a cell the edges of a decision are.

    Attributes:
        cell: Name of the kind of cell.
        sources: List of integers: for each edge, the state it comes from.
        node: Integer, the state that the edges end in; states have numbers
            in the order of computation.
        joined: Whether the output of the cell joins all its nodes; else it
            is its last node.
    """

    cell: str
    sources: list
    node: int
    joined: bool


class Wirings(NamedTuple):
    """The wirings of the edges of one decision, and their probabilities.

    Attributes:
        present: Boolean array `(W, E)`, which of the edges there are.
        probabilities: Array `(W,)` that sums to 1.
    """

    present: np.ndarray
    probabilities: np.ndarray


def checked_place(place, edges):
    """Returns a `Place`, or `None`, from what a `Decision` was given.

    Args:
        place: `None`, a `Place` or a dict of its fields.
        edges: Integer, how many edges the decision has.
    """
    if place is None:
        return None
    fields = place._asdict() if isinstance(place, Place) else place
    is_place = isinstance(fields, dict) and set(fields) == set(Place._fields)
    if not is_place or not all(
        isinstance(source, int) and 0 <= source < fields["node"]
        for source in fields["sources"]
    ):
        raise ValueError(
            f"`place` must have {list(Place._fields)}, with sources before "
            f"the node. Received: place={place!r}"
        )
    if len(fields["sources"]) != edges:
        raise ValueError(
            f"`place` must have a source for each of {edges} edges. "
            f"Received: place={place!r}"
        )
    return Place(**{**fields, "sources": list(fields["sources"])})


def wirings(probabilities, keep, none=None, zeros=()):
    """Returns the `Wirings` of one decision.

    Args:
        probabilities: Array `(E, O)`, of the operations of each edge.
        keep: Integer in 1..E, how many edges are kept.
        none: Optional integer, an operation that is never kept.
        zeros: Set of (edge, operation) that give zeros and may be kept.
    """
    table = np.array(probabilities, "float64")
    edges = len(table)
    # An edge is kept with its strongest operation, of which none is none.
    may_be_kept = [o for o in range(table.shape[1]) if o != none]
    strength = table[:, may_be_kept].max(axis=1)
    if np.count_nonzero(strength) < keep:
        # A sparse code: what has no strength is as good as one another.
        strength = strength + _LEAST
    total = np.maximum(table.sum(axis=1), _LEAST)
    empty = np.zeros(edges)
    for edge, operation in zeros:
        if operation != none:
            empty[edge] += table[edge, operation] / total[edge]
    present, odds = [], []
    for kept in itertools.combinations(range(edges), keep):
        weight = np.prod(strength[list(kept)])
        # Those of the kept edges that give zeros are not there.
        open_edges = [e for e in kept if empty[e] > 0]
        for gone in itertools.product((False, True), repeat=len(open_edges)):
            missing = {e for e, g in zip(open_edges, gone, strict=True) if g}
            present.append(
                [e in kept and e not in missing for e in range(edges)]
            )
            chances = [
                empty[e] if e in missing else 1 - empty[e] for e in open_edges
            ]
            odds.append(weight * np.prod(chances))
    odds = np.array(odds)
    return Wirings(np.array(present), odds / odds.sum())


def statistics(parts):
    """Returns what there is to say of a cell.

    Args:
        parts: List of (`Place`, `Wirings`), one for each decision of a cell.

    Returns:
        Dict: `edges`, a dict from `"<source>-<node>"` to the probability
        that the edge is there, `depth` and `width`. The last two are missing
        if there are more than `MOST_WIRINGS` wirings.
    """
    parts = sorted(parts, key=lambda part: part[0].node)
    found = {
        "edges": {
            f"{source}-{place.node}": float(weight)
            for place, each in parts
            for source, weight in zip(
                place.sources, each.probabilities @ each.present, strict=True
            )
        }
    }
    sizes = [len(each.probabilities) for _, each in parts]
    if np.prod(sizes, dtype="float64") > MOST_WIRINGS:
        return found
    # Of every wiring of the whole cell the wirings of its decisions.
    numbers = np.indices(sizes).reshape(len(sizes), -1)
    chances = np.ones(numbers.shape[1])
    edges = []
    for number, (place, each) in zip(numbers, parts, strict=True):
        chances = chances * each.probabilities[number]
        edges += [
            (source, place.node, each.present[number, edge])
            for edge, source in enumerate(place.sources)
        ]
    nodes = sorted({place.node for place, _ in parts})
    depth, width = _extent(edges, nodes, parts[-1][0].joined)
    return {
        "depth": float(chances @ depth),
        "width": float(chances @ width),
        **found,
    }


def _extent(edges, nodes, joined):
    """Returns depth and width of each wiring, arrays `(W,)`.

    Args:
        edges: List of (source, node, boolean array `(W,)`).
        nodes: Sorted list of the states that edges end in.
        joined: Whether the output joins all nodes.
    """
    size = len(edges[0][2])
    inputs = {source for source, _, _ in edges} - set(nodes)
    # The longest way from an input to each state.
    longest = {state: np.zeros(size) for state in inputs}
    for node in nodes:
        longest[node] = np.full(size, -np.inf)
        for source, end, present in edges:
            if end == node:
                way = np.where(present, longest[source] + 1, -np.inf)
                longest[node] = np.maximum(longest[node], way)
    leads = {node: np.full(size, joined or node == nodes[-1]) for node in nodes}
    leads |= {state: np.zeros(size, bool) for state in inputs}
    for source, end, present in sorted(edges, key=lambda e: -e[1]):
        leads[source] = leads[source] | (present & leads[end])
    if joined:
        depth = np.max([longest[node] + 1 for node in nodes], axis=0)
    else:
        depth = longest[nodes[-1]]
    width = np.zeros(size)
    for node in nodes:
        arriving = [
            (source in inputs, present & leads[node] & (longest[source] >= 0))
            for source, end, present in edges
            if end == node
        ]
        every = np.sum([live for _, live in arriving], axis=0)
        direct = np.sum([live for outside, live in arriving if outside], axis=0)
        width += direct / np.maximum(every, 1)
    # Where no way is left there is no depth either.
    return np.maximum(depth, 0.0), width
