"""Targets: the penalty against differences, the check against all choices."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import carried_over
from keras_dha.architecture import knapsack
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.cost import count
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.latency import LatencyTable
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.target import Target
from keras_dha.auto_model import AutoModel
from keras_dha.joint_model import JointModel
from tests.references import central_difference


def space(input_shape=(8, 8, 1), num_classes=3):
    """Two residual branches, small, middle, large: 9 architectures."""
    x = inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for k in range(2):
        branch = Choice(
            [
                layers.Conv2D(4, 5, padding="same", name=f"large{k}"),
                layers.Conv2D(4, 3, padding="same", name=f"middle{k}"),
                layers.Conv2D(4, 1, name=f"small{k}"),
            ],
            name=f"choice{k}",
        )(x)
        x = layers.ReLU()(layers.Add()([x, branch]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(num_classes, "softmax")(x))


def attached(limits, **arguments):
    target = Target(limits, **arguments)
    target.attach(space())
    return target


def everything():
    """All architectures, with the costs of their derived models."""
    model = space()
    found = {}
    for indices in itertools.product(range(3), range(3)):
        for decision, index in zip(find_decisions(model), indices, strict=True):
            decision.freeze(index)
        found[indices] = count(derive(model))
    return found


COSTS = everything()


@pytest.mark.parametrize("limit", [300, 450, 2000])
def test_penalty_and_gradient(limit):
    target = attached({"params": limit, "flops": 60_000}, weight=0.7)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=6)

    def penalty(values):
        p = np.exp(values.reshape(2, 3))
        p = p / p.sum(axis=1, keepdims=True)
        total = 0.0
        for name, bound in (("params", limit), ("flops", 60_000)):
            mean = sum(
                p[0, i] * p[1, j] * c[name] for (i, j), c in COSTS.items()
            )
            total += 0.7 * max(0.0, mean / bound - 1)
        return total

    split = [tf.nn.softmax(part) for part in tf.split(tf.constant(logits), 2)]
    np.testing.assert_allclose(target.penalty(split), penalty(logits))
    gradient = target.gradient(tf.constant(logits))
    for k in range(6):

        def at(value, k=k):
            moved = logits.copy()
            moved[k] = value
            return penalty(moved)

        np.testing.assert_allclose(
            gradient[k], central_difference(at, logits[k]), rtol=1e-6, atol=1e-9
        )


def test_a_frozen_decision_counts_as_certain():
    target = attached({"params": 300})
    frozen, _ = target.cost.decisions
    logits = tf.zeros(6)
    free = target.gradient(logits)
    frozen.freeze(0)
    gradient = target.gradient(logits)
    np.testing.assert_array_equal(gradient[:3], np.zeros(3))
    np.testing.assert_allclose(gradient[3:], free[3:], rtol=1e-6)


@pytest.mark.parametrize("frozen", [None, 0, 2])
@pytest.mark.parametrize("limit", sorted({c["params"] for c in COSTS.values()}))
def test_the_best_architecture_within_the_limit(limit, frozen):
    target = attached({"params": limit})
    rng = np.random.default_rng(limit)
    decisions = target.cost.decisions
    for decision in decisions:
        decision.logits.assign(rng.normal(size=3))
    logs = [np.log(d.probabilities()) for d in decisions]
    if frozen is not None:
        decisions[0].freeze(frozen)
    within = [i for i, c in COSTS.items() if c["params"] <= limit]
    # What is frozen is kept if it can be.
    kept = [i for i in within if frozen is None or i[0] == frozen]
    expected = max(kept or within, key=lambda i: logs[0][i[0]] + logs[1][i[1]])
    target.decide()
    assert tuple(int(d.chosen) for d in decisions) == expected
    assert target.reached == {"params": COSTS[expected]["params"]}


def test_an_operation_that_is_never_kept_is_not_kept_within_a_limit():
    decision = Decision(3, none=0, name="decision")
    candidates = [
        layers.Rescaling(0.0),
        layers.Dense(3, name="small"),
        keras.Sequential([layers.Dense(4), layers.Dense(3)], name="large"),
    ]
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Choice(candidates, decision)(inputs))
    target = Target({"params": 20})
    target.attach(model)
    decision.logits.assign([5.0, 0.0, 1.0])
    target.decide()
    assert decision.kept() == [1]
    with pytest.raises(ValueError, match="smallest.*params 12"):
        Target({"params": 11}).attach(model)


def test_a_target_that_nothing_can_meet_names_the_smallest():
    least = min(c["params"] for c in COSTS.values())
    with pytest.raises(ValueError, match=f"params {least}.*Received"):
        attached({"params": least - 1})
    assert attached({"params": least}).reached is None


def test_limits_that_only_together_cannot_be_met():
    """Few weights here cost time there: each alone could be had."""
    choice = Choice(
        [
            layers.Conv2D(8, 1, name="once"),
            keras.Sequential(
                [
                    layers.AveragePooling2D(4, 1, padding="same"),
                    layers.Conv2D(8, 3, strides=1, padding="same"),
                ],
                name="wide",
            ),
        ],
        name="choice",
    )
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, choice(inputs))
    table = LatencyTable.measure(model, repeats=1)
    slow, fast = 10.0, 1.0
    for entry in table.entries.values():
        entry["milliseconds"] = fast if entry["layer"] == "wide" else slow
    limits = {"params": 24, "latency_ms": 5.0}
    for name, limit in limits.items():
        options = {"latency_table": table} if name == "latency_ms" else {}
        Target({name: limit}, **options).attach(model)
    with pytest.raises(ValueError, match="No architecture"):
        Target(limits, table).attach(model)


X = np.random.default_rng(0).uniform(0, 255, (96, 8, 8, 1)).astype("uint8")
Y = np.arange(96) % 3


def test_a_selection_that_stops_early_meets_the_limits(monkeypatch):
    """Both halves together are too dear, and greed begins with one of them."""
    inputs = x = keras.Input((4,))
    milliseconds = {}
    for k, options in enumerate((3, 2)):
        candidates = [
            keras.Sequential(
                [layers.Dense(n), layers.Dense(4)], name=f"{k}of{n}"
            )
            for n in (1, 20, 10)[:options]
        ]
        times = dict(zip(candidates, (10.0, 1.0, 5.0), strict=False))
        milliseconds |= {c.name: t for c, t in times.items()}
        x = Choice(candidates, name=f"choice{k}")(x)
    model = keras.Model(inputs, x)
    table = LatencyTable.measure(model, repeats=1)
    for entry in table.entries.values():
        # Equal candidates of both choices are in it once, by the first name.
        entry["milliseconds"] = milliseconds.get(entry["layer"], 11.0)
    terms = Target({"latency_ms": 1e3}, table)
    terms.attach(model)
    limits = {"params": 13 + 184, "latency_ms": terms.cost.of([0, 1])}
    limits["latency_ms"] = limits["latency_ms"]["latency_ms"]
    target = Target(limits, table)
    monkeypatch.setattr(knapsack, "_MOST_VISITS", 0)
    target.attach(model)
    decisions = target.cost.decisions
    decisions[0].logits.assign([0.0, 0.0, 9.0])
    target.decide()
    chosen = tuple(int(d.chosen) for d in decisions)
    assert chosen in {(0, 1), (1, 0)}
    assert all(target.reached[m] <= limit for m, limit in limits.items())


def fitted(target, **arguments):
    model = AutoModel(space, method="dsnas", seed=0, target=target, **arguments)
    model.fit(X, Y, epochs=4, batch_size=16, verbose=0)
    return model


@pytest.mark.parametrize("weight", [1.0, 1e-9])
def test_a_run_ends_within_its_target(weight, tmp_path):
    """Also where the penalty does nothing and only the check is left."""
    costs = sorted(c["params"] for c in COSTS.values())
    limit = costs[3] if weight == 1 else costs[0]
    model = fitted({"params": limit, "flops": 1e9, "weight": weight})
    assert model.joint.target.weight == weight
    network = model.export_model()
    assert network.count_params() <= limit
    found = model.result.cost["target"]
    assert found["params"] == {
        "limit": limit,
        "reached": network.count_params(),
    }
    assert found["flops"]["reached"] == count(network)["flops"]
    summary = model.result.summary()
    assert f"{network.count_params():,} of at most {limit:,}" in summary
    named = [g["choice"] for g in model.result.genotype.values()]
    assert all(network.get_layer(name) for name in named)
    model.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    assert loaded.result.cost == model.result.cost
    loaded.fit(X, Y, epochs=1, batch_size=16, verbose=0)
    assert loaded.result.cost["target"] == found


def test_an_estimate_before_a_run_leaves_its_target():
    """Each network has a target of its own, which counts its decisions."""
    limit = min(c["params"] for c in COSTS.values())
    target = {"params": limit, "weight": 1e-9}
    model = AutoModel(space, method="dsnas", seed=0, target=target)
    for _ in range(2):
        model.estimate(X, Y, epochs=4, batch_size=16)
        assert model.settings.target.reached is None
    model.fit(X, Y, epochs=4, batch_size=16, verbose=0)
    network = model.export_model()
    assert network.count_params() <= limit
    reached = model.result.cost["target"]["params"]["reached"]
    assert reached == network.count_params()


def test_the_penalty_moves_the_logits_towards_what_is_cheap():
    moved = {}
    for limit in (1e9, min(c["params"] for c in COSTS.values())):
        keras.utils.set_random_seed(0)
        joint = JointModel(
            space(),
            keras.losses.SparseCategoricalCrossentropy(),
            strategy=DSNAS(),
            target=Target({"params": limit}),
        )
        joint.architecture.start()
        step = tf.function(joint.train_step, autograph=False)
        for _ in range(40):
            step((tf.constant(X[:16]), tf.constant(Y[:16])), tf.constant(0.1))
        decisions = joint.architecture.decisions
        moved[limit] = np.mean([d.probabilities()[2] for d in decisions])
    (_, free), (_, bound) = moved.items()
    assert bound > 0.5 > free


def test_nothing_hardens_while_the_target_is_exceeded():
    joint = JointModel(
        space(),
        keras.losses.SparseCategoricalCrossentropy(),
        strategy=DSNAS(margin=0.2),
        target=Target({"params": 300}),
    )
    large, other = joint.architecture.decisions
    large.logits.assign([2.0, 0.0, 0.0])
    assert joint.target.is_exceeded()
    assert joint.architecture.harden() == []
    assert not large.is_frozen
    other.logits.assign([-9.0, -9.0, 9.0])
    large.logits.assign([-9.0, 0.0, 2.0])
    assert not joint.target.is_exceeded()
    assert joint.architecture.harden() == [large, other]


def test_a_plain_network_and_a_target():
    network = derive(space())
    size = network.count_params()
    model = AutoModel(
        network,
        augmentation=None,
        hyperparameters=None,
        target={"params": size},
        seed=0,
    )
    model.fit(X, Y, epochs=1, verbose=0)
    reached = model.result.cost["target"]["params"]["reached"]
    assert reached == size
    model = AutoModel(network, target={"params": size - 1})
    with pytest.raises(ValueError, match="No architecture.*Received"):
        model.fit(X, Y, epochs=1, verbose=0)


def test_a_search_that_was_saved_goes_on_to_its_target(tmp_path):
    joint = JointModel(
        space(),
        keras.losses.SparseCategoricalCrossentropy(),
        strategy=DSNAS(),
        target=Target({"params": 450, "latency_ms": 1e3}),
    )
    joint.save(tmp_path / "joint.keras")
    loaded = keras.saving.load_model(tmp_path / "joint.keras")
    assert loaded.target.get_config() == joint.target.get_config()
    logits = tf.constant(np.random.default_rng(0).normal(size=6), "float32")
    np.testing.assert_array_equal(
        loaded.target.gradient(logits), joint.target.gradient(logits)
    )
    carried_over.derived(loaded)
    assert loaded.target.reached["params"] <= 450


def test_config_round_trip():
    table = LatencyTable("keras", {"a": {"milliseconds": 1.0}}, "here")
    made = Target(
        {"params": 10, "latency_ms": 2.5}, table, 0.5, {"params": 9.0}
    )
    saved = keras.saving.serialize_keras_object(made)
    copy = keras.saving.deserialize_keras_object(saved)
    assert copy.get_config() == made.get_config()


@pytest.mark.parametrize(
    "target",
    [
        {},
        3,
        {"size": 3},
        {"params": 0},
        {"params": -5},
        {"params": True},
        {"params": "small"},
        {"params": 3, "weight": 0.0},
        {"params": 3, "latency_table": LatencyTable("keras", {}, "here")},
        {"latency_ms": 3, "latency_table": "table.json"},
    ],
)
def test_bad_targets(target):
    with pytest.raises(ValueError, match="Received: .*target|Received: .*="):
        AutoModel(target=target)
