"""Depth and width of cells, against cells that were counted by hand."""

import itertools

import numpy as np
import pytest

from keras_dha.architecture import health
from keras_dha.architecture import spaces
from keras_dha.architecture import wiring
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions


def darts_cell(cell):
    """The statistics of a cell of DARTS, given its genotype."""
    parts = []
    for number, kept in enumerate(cell):
        sources = [source for _, source in kept]
        table = np.zeros((number + 2, 1))
        table[sources] = 1.0
        place = wiring.Place(
            "normal", list(range(number + 2)), number + 2, joined=True
        )
        parts.append((place, wiring.wirings(table, keep=2)))
    return wiring.statistics(parts)


def nodes(*sources):
    return tuple(tuple(("skip_connect", s) for s in node) for node in sources)


@pytest.mark.parametrize(
    "cell, depth, width",
    [
        # Three nodes of inputs, one half of another node.
        (spaces.DARTS_V2.normal, 3, 3.5),
        # Node 2, from inputs, feeds half of the three others.
        (nodes((0, 1), (1, 2), (0, 2), (1, 2)), 3, 2.5),
        # As wide and shallow as it gets, and as narrow and deep.
        (nodes((0, 1), (0, 1), (0, 1), (0, 1)), 2, 4),
        (nodes((0, 1), (1, 2), (2, 3), (3, 4)), 5, 1.5),
    ],
)
def test_cells_of_darts_counted_by_hand(cell, depth, width):
    found = darts_cell(cell)
    assert (found["depth"], found["width"]) == (depth, width)
    for node, kept in enumerate(cell):
        for source in range(node + 2):
            there = source in [s for _, s in kept]
            weight = found["edges"][f"{source}-{node + 2}"]
            assert weight == there


EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))


def small_cell(*weights):
    """A cell of NAS-Bench-201: of each edge the probability it is there."""
    return wiring.statistics(
        [
            (
                wiring.Place("cell", [past], node, joined=False),
                wiring.wirings([[1 - p, p]], keep=1, zeros={(0, 0)}),
            )
            for (node, past), p in zip(EDGES, weights, strict=True)
        ]
    )


@pytest.mark.parametrize(
    "weights, depth, width",
    [
        # 1 of 0; 2 half of 0; 3 a third of 0.
        ((1, 1, 1, 1, 1, 1), 3, 1 + 1 / 2 + 1 / 3),
        # The chain.
        ((1, 0, 1, 0, 0, 1), 3, 1),
        # The shortcut alone; node 1 and 2 lead nowhere.
        ((1, 1, 1, 1, 0, 0), 1, 1),
        # No edge into node 1, so the edges that leave it carry nothing.
        ((0, 1, 1, 1, 1, 1), 2, 1 + 1 / 2),
        # No way through at all.
        ((1, 1, 1, 0, 0, 0), 0, 0),
        ((0, 0, 0, 0, 0, 0), 0, 0),
    ],
)
def test_cells_of_nas_bench_201_counted_by_hand(weights, depth, width):
    found = small_cell(*weights)
    assert found["depth"] == pytest.approx(depth)
    assert found["width"] == pytest.approx(width)
    assert list(found["edges"].values()) == list(weights)


def test_an_expectation_is_the_mean_over_drawn_cells():
    p = np.array([0.9, 0.3, 0.6, 0.5, 0.2, 0.7])
    found = small_cell(*p)
    # Every cell by itself, weighted by hand.
    depth = width = 0.0
    for cell in itertools.product((0, 1), repeat=6):
        chance = np.prod(np.where(cell, p, 1 - p))
        depth += chance * small_cell(*cell)["depth"]
        width += chance * small_cell(*cell)["width"]
    assert found["depth"] == pytest.approx(depth)
    assert found["width"] == pytest.approx(width)
    np.testing.assert_allclose(list(found["edges"].values()), p)


def test_kept_edges_are_drawn_by_the_product_of_their_strengths():
    # Two of three edges; an edge is as strong as its best operation, and
    # none is no operation.
    table = [[0.5, 0.2, 0.3], [0.0, 0.4, 0.6], [0.8, 0.1, 0.1]]
    each = wiring.wirings(table, keep=2, none=0)
    a, b, c = 0.3, 0.6, 0.1
    total = a * b + a * c + b * c
    found = each.probabilities @ each.present
    expected = np.array([a * b + a * c, a * b + b * c, a * c + b * c]) / total
    np.testing.assert_allclose(found, expected)


def test_edges_without_strength_are_kept_where_others_lack():
    each = wiring.wirings([[1.0], [0.0], [0.0]], keep=2)
    found = each.probabilities @ each.present
    np.testing.assert_allclose(found, [1, 0.5, 0.5], atol=1e-8)


def test_a_kept_edge_of_zeros_is_not_there():
    # Operation 0 gives zeros and, unlike above, may be kept.
    table = [[0.25, 0.75], [0.5, 0.5]]
    each = wiring.wirings(table, keep=1, zeros={(0, 0), (1, 0)})
    found = each.probabilities @ each.present
    np.testing.assert_allclose(found, [0.6 * 0.75, 0.4 * 0.5])


def test_a_cell_of_too_many_wirings_has_weights_alone(monkeypatch):
    monkeypatch.setattr(wiring, "MOST_WIRINGS", 63)
    found = small_cell(*(0.5,) * 6)  # 64 wirings
    assert set(found) == {"edges"}
    monkeypatch.setattr(wiring, "MOST_WIRINGS", 64)
    assert set(small_cell(*(0.5,) * 6)) == {"edges", "depth", "width"}


def test_the_space_of_darts_before_and_after_it_is_decided():
    network = spaces.darts((8, 8, 3), 3, channels=2, cells=3, none=True)
    even = health.cells(network)["normal"]
    for node in range(4):
        for source in range(node + 2):
            weight = even["edges"][f"{source}-{node + 2}"]
            assert weight == pytest.approx(2 / (node + 2))
    assert 2 < even["depth"] < 5 and 1.5 < even["width"] < 4
    operations = 8
    for decision in find_decisions(network):
        # On each of the two inputs the last operation.
        decision.freeze([operations - 1, 2 * operations - 1])
    for cell in health.cells(network).values():
        assert (cell["depth"], cell["width"]) == (2, 4)
    assert "depth" not in health.trajectory(find_decisions(network), network)


def test_the_space_of_nas_bench_201():
    network = spaces.nas_bench_201((8, 8, 3), 3, channels=2, cells=1)
    (cell,) = health.cells(network).values()
    np.testing.assert_allclose(list(cell["edges"].values()), 0.8, rtol=1e-6)
    for decision in find_decisions(network):
        # nor_conv_3x3, but none on the edges out of node 1.
        decision.freeze(0 if decision.name.endswith("_1") else 3)
    (cell,) = health.cells(network).values()
    assert (cell["depth"], cell["width"]) == (2, 1.5)


def test_the_depth_of_a_plain_space_is_what_is_not_idle():
    network = spaces.resnet((8, 8, 3), 3, width=2, blocks=2)
    decisions = find_decisions(network)
    optional = [d for d in decisions if d.num_candidates == 4]
    assert 0 < len(optional) < len(decisions)
    assert health.cells(network) == {}
    depth = health.trajectory(decisions, network)["depth"]
    assert depth == pytest.approx(len(decisions) - 0.25 * len(optional))
    optional[0].freeze(3)
    depth = health.trajectory(decisions, network)["depth"]
    assert depth == pytest.approx(len(decisions) - 1 - 0.25 * len(optional[1:]))


def test_a_place_is_saved_with_its_decision():
    decision = Decision(4, edges=2, place={**place(), "sources": [0, 1]})
    copy = Decision.from_config(decision.get_config())
    assert copy.place == decision.place == wiring.Place("c", [0, 1], 2, True)


def place():
    return {"cell": "c", "sources": [0], "node": 2, "joined": True}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"sources": [0, 1]}, "a source for each of 1 edges.*Received"),
        ({"sources": [2]}, "sources before the node.*Received"),
        ({"sources": ["0"]}, "sources before the node.*Received"),
        ({"spam": 1}, "`place` must have.*'joined'.*Received"),
    ],
)
def test_a_place_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        Decision(3, place={**place(), **wrong})
