"""The latency table: what is timed, and how the parts add up."""

import json
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.cost import NetworkCost
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.latency import LatencyTable
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import ISTA
from keras_dha.nested_layers import find_layers


def model(width=2):
    """Two like choices, the second one with a choice inside a candidate."""
    x = inputs = keras.Input((8, 8, width))
    for k in range(2):
        inner = Choice(
            [layers.Conv2D(width, 1), layers.Identity()], name=f"inner{k}"
        )
        deep = [inner] if k else [layers.ReLU()]
        x = Choice(
            [
                layers.Conv2D(width, 3, padding="same", name=f"three{k}"),
                keras.Sequential(
                    [*deep, layers.Conv2D(width, 3, padding="same")],
                    name=f"deep{k}",
                ),
            ],
            name=f"outer{k}",
        )(x)
    return keras.Model(inputs, layers.Flatten()(x))


@pytest.fixture(scope="module")
def measured():
    made = model()
    return made, LatencyTable.measure(made, repeats=3)


def test_parts_that_are_alike_are_timed_once(measured):
    _, table = measured
    # The network; conv 3x3 (twice); the two deep ones; conv 1x1, identity.
    assert len(table.entries) == 6
    assert all(e["milliseconds"] > 0 for e in table.entries.values())


def by_layer(table, name):
    (found,) = [
        e["milliseconds"] for e in table.entries.values() if e["layer"] == name
    ]
    return found


def test_the_sum_over_parts(measured):
    made, table = measured
    names = ["three0", "deep0", "deep1", made.name]
    three, deep0, deep1, whole = (by_layer(table, n) for n in names)
    others = [
        e["milliseconds"]
        for e in table.entries.values()
        if e["layer"] not in names
    ]
    cost = NetworkCost(made, (), latency_ms=table.terms(made))
    order = {
        c.name: k
        for k, d in enumerate(cost.decisions)
        for c in find_layers(made, Choice)
        if c.decision is d
    }

    def of(**chosen):
        indices = [0, 0, 0]
        for name, index in chosen.items():
            indices[order[name]] = index
        return cost.of(indices)["latency_ms"]

    # Of first candidates, what was measured of the whole.
    np.testing.assert_allclose(of(), whole)
    np.testing.assert_allclose(of(outer0=1), whole - three + deep0)
    np.testing.assert_allclose(of(outer1=1), whole - three + deep1)
    change = of(outer1=1, inner1=1) - of(outer1=1)
    np.testing.assert_allclose(abs(change), abs(others[0] - others[1]))
    # Inside a candidate that is not chosen nothing matters.
    np.testing.assert_allclose(of(inner1=1), whole)


def test_measuring_changes_no_decision():
    made = model()
    decisions = find_decisions(made)
    decisions[0].freeze(1)
    decisions[1].sampled.assign(1)
    LatencyTable.measure(made, repeats=1)
    assert [int(d.chosen) for d in decisions] == [1, -1, -1]
    assert [int(d.sampled) for d in decisions] == [1, 1, 0]


def test_measuring_changes_no_weight_of_a_code():
    made = model()
    decisions = find_decisions(made)
    LearnedArchitecture(decisions, ISTA())
    for decision in decisions:
        decision.freeze()
    scales = [decision.code.scales.numpy() for decision in decisions]
    assert np.any(scales[0] != 1.0)
    LatencyTable.measure(made, repeats=1)
    for decision, before in zip(decisions, scales, strict=True):
        np.testing.assert_array_equal(decision.code.scales, before)


def test_a_table_fits_every_network_that_is_built_alike(measured, tmp_path):
    _, table = measured
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json")
    assert loaded.get_config() == table.get_config()
    other = model()
    decisions = find_decisions(other)
    terms = dict((path, v) for v, path in loaded.terms(other))
    assert len(decisions) == 3 and len(terms) >= 5
    with pytest.raises(ValueError, match="does not hold.*Received: layer"):
        loaded.terms(model(width=3))


def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "tables" / "table.json"
    LatencyTable("keras", {}, "here").save(path)

    def failing(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_dha.atomic.os.replace", failing)
    with pytest.raises(OSError, match="No space"):
        LatencyTable("keras", {}, "there").save(path)
    assert LatencyTable.load(path).device == "here"
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="one file.*Received: path="):
        LatencyTable("keras", {}, "here").save(path.parent)
    assert list(path.parent.iterdir()) == [path]


def test_the_network_that_is_timed_does_not_give_zeros():
    x = inputs = keras.Input((8, 8, 2))
    x = Choice([layers.Rescaling(0.0, name="none"), layers.ReLU(name="relu")])(
        x
    )
    made = keras.Model(inputs, layers.Dense(2)(x))
    table = LatencyTable.measure(made, repeats=1)
    cost = NetworkCost(made, (), latency_ms=table.terms(made))
    whole, none, relu = (
        by_layer(table, name) for name in (made.name, "none", "relu")
    )
    np.testing.assert_allclose(cost.of([1])["latency_ms"], whole)
    np.testing.assert_allclose(cost.of([0])["latency_ms"], whole - relu + none)


def test_a_node_inside_a_candidate_is_timed():
    inputs = keras.Input((8, 8, 2))
    node = NodeChoice(
        [
            [layers.Conv2D(2, 1, name=f"conv{e}"), layers.ReLU(name=f"relu{e}")]
            for e in range(2)
        ],
        name="node",
    )
    inside = keras.Model(inputs, node([inputs, inputs]), name="inside")
    outer = Choice([inside, layers.Identity(name="skip")], name="outer")
    made = keras.Model(inputs, layers.Dense(2)(outer(inputs)))
    table = LatencyTable.measure(made, repeats=1)
    assert len(table.terms(made)) == 3


class Own(keras.Model):
    """A candidate that has a call, and nothing else."""

    def __init__(self, units=1, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(units), layers.Dense(2)]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


class Required(Own):
    def __init__(self, units):
        super().__init__(units)


class Held(layers.Layer):
    """Keras cannot write down what it was made with."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


@pytest.mark.parametrize(
    "candidates",
    [
        lambda: [Own(3), Own(4)],
        lambda: [Required(3), Required(4)],
        lambda: [Held(keras.ops.sin), Held(keras.ops.cos)],
        lambda: [keras.Sequential([Required(n)]) for n in (3, 4)],
    ],
)
def test_layers_that_do_not_say_what_they_are_are_told_apart(candidates):
    inputs = keras.Input((2,))
    made = keras.Model(inputs, Choice(candidates())(inputs))
    table = LatencyTable.measure(made, repeats=1)
    for entry, value in zip(
        table.entries.values(), (9.0, 4.0, 2.0), strict=True
    ):
        entry["milliseconds"] = value
    cost = NetworkCost(made, (), latency_ms=table.terms(made))
    assert cost.of([0]) == {"latency_ms": 9.0}
    assert cost.of([1]) == {"latency_ms": 7.0}


def test_litert_times_what_it_can_run():
    pytest.importorskip("ai_edge_litert")
    made = model()
    table = LatencyTable.measure(made, engine="litert", repeats=2)
    assert table.engine == "litert"
    assert len(table.entries) == 6
    cost = NetworkCost(made, (), latency_ms=table.terms(made))
    assert cost.of([0, 0, 0])["latency_ms"] > 0


def test_litert_is_asked_for_before_anything_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    needed = r"needs ai_edge_litert, .*keras_dha\[litert\]"
    with pytest.raises(ImportError, match=needed):
        LatencyTable.measure("not looked at", engine="litert")


def test_a_plain_network_is_one_part():
    derived = derive(model())
    table = LatencyTable.measure(derived, repeats=2)
    (entry,) = table.entries.values()
    assert table.terms(derived) == [(entry["milliseconds"], frozenset())]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", json.dumps({"format": "keras_dha.latency_table"})],
)
def test_files_that_are_no_table(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="latency table.*Received"):
        LatencyTable.load(path)


def test_an_engine_that_is_none():
    with pytest.raises(ValueError, match="`engine`.*Received"):
        LatencyTable.measure(model(), engine="tensorrt")


def test_examples_of_no_one_size():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.Dense(2, name="mine")(inputs))
    with pytest.raises(ValueError, match=r"one size.*Input.*\(None, 3\)"):
        LatencyTable.measure(model)
