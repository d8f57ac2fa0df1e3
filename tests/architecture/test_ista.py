"""ISTA: sparse codes, their gradient, their recovery and their end."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import carried_over
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import GDAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from keras_dha.joint_step import search_gradient
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW
from tests.references import central_difference


def searched(edges=3, operations=7, keep=2, seed=0, **arguments):
    decision = Decision(edges * operations, edges=edges, keep=keep)
    learned = LearnedArchitecture([decision], ISTA(**arguments), seed=seed)
    learned.start()
    learned.advance_to(1.0)  # no exploration any more
    return decision, learned


def sample(learned, seed=0):
    rng = np.random.default_rng(seed)
    learned.sample(lambda k, n: rng.uniform(size=n).astype("float32"))


@pytest.mark.parametrize("measurement", ["orthogonal", "uniform"])
def test_the_measurement_matrix(measurement):
    decision, _ = searched(measurement=measurement)
    matrix = decision.code.measurement.numpy()
    assert matrix.shape == (7, 21)
    if measurement == "orthogonal":
        # Rows at right angles; 21 columns of norm 1 have a square of 21.
        np.testing.assert_allclose(
            matrix @ matrix.T, 3.0 * np.eye(7), atol=1e-4
        )
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), 1.0, 1e-6)
        assert matrix.min() < -0.1
    else:
        assert 0 < matrix.min() and matrix.max() < 1
        assert abs(matrix.mean() - 0.5) < 0.1
    again, _ = searched(measurement=measurement)
    np.testing.assert_array_equal(matrix, again.code.measurement)
    other, _ = searched(measurement=measurement, seed=1)
    assert np.any(matrix != other.code.measurement.numpy())


def test_a_code_is_never_longer_than_its_options():
    decision, _ = searched(edges=1, operations=4, keep=1)
    assert decision.code.code.shape == (4,)


def test_weights_equal_the_fixed_point_of_the_recovered_code():
    """alpha = A^T b - E z, E = A^T A - I, which is z up to the penalty."""
    decision, _ = searched()
    code = decision.code
    a, b, z = (
        v.numpy().astype("float64")
        for v in (code.measurement, code.code, code.sparse)
    )
    expected = a.T @ b - (a.T @ a - np.eye(21)) @ z
    found = code.weights_of_all().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.max(np.abs(found - z)) < 1e-4 < np.max(np.abs(z))
    # And it follows the code, with the sparse code as it was.
    code.code.assign_add(np.full(7, 0.1))
    moved = a.T @ (b + 0.1) - (a.T @ a - np.eye(21)) @ z
    np.testing.assert_allclose(code.weights_of_all(), moved, atol=1e-5)


@pytest.mark.parametrize("edges, keep", [(1, 1), (3, 2)])
def test_the_gradient_of_the_code_equals_differences(edges, keep):
    """dL/db = A_S g_S, with g_S the gradient of the weights of what runs."""
    decision, learned = searched(edges, 4, keep)
    sample(learned)
    layer = NodeChoice(
        [
            [layers.Rescaling(2.0 + e + o, name=f"{e}{o}") for o in range(4)]
            for e in range(edges)
        ],
        keep=keep,
        decision=decision,
    )
    x = [tf.constant([[1.0, 2.0 + e]]) for e in range(edges)]
    code = decision.code.code

    def loss():
        return tf.reduce_sum(tf.tanh(0.2 * layer(x, training=True)))

    with tf.GradientTape() as tape:
        value = loss()
    found = tape.gradient(value, code.value).numpy()
    start = code.numpy()
    for k in range(len(start)):

        def at(distance, k=k):
            moved = start.copy()
            moved[k] += distance
            code.assign(moved)
            return float(loss())

        expected = central_difference(at, 0.0, 1e-2)
        code.assign(start)
        assert found[k] == pytest.approx(expected, abs=2e-3)
    # In closed form: g by differences of the outputs' weights.
    matrix = decision.code.measurement.numpy()
    support = decision.kept()
    g = []
    for option in support:
        edge, operation = divmod(option, 4)
        y = (2.0 + edge + operation) * x[edge]
        total = layer(x, training=True)
        g.append(
            float(tf.reduce_sum(0.2 * y * (1 - tf.tanh(0.2 * total) ** 2)))
        )
    np.testing.assert_allclose(found, matrix[:, support] @ g, rtol=1e-4)
    assert np.max(np.abs(found)) > 1e-2


def test_every_operation_can_be_kept():
    """In the published code the last one could not."""
    seen, rng = set(), np.random.default_rng(0)
    decision, _ = searched(edges=2, operations=7, keep=2)
    for _ in range(150):
        decision.code.code.assign(rng.normal(size=7))
        decision.code.recover()
        kept = decision.kept()
        assert len({k // 7 for k in kept}) == 2
        strongest = np.abs(decision.code.sparse.numpy()).reshape(2, 7)
        assert [k % 7 for k in kept] == list(strongest.argmax(axis=1))
        seen |= set(kept)
    assert seen == set(range(14))


def test_a_decision_freezes_when_its_code_rests():
    resting, moving = Decision(4, name="rest"), Decision(4, name="move")
    learned = LearnedArchitecture([resting, moving], ISTA(tolerance=1e-2))
    strategy = learned.strategy
    # At three looks in a row: once alone it may be where it turns round.
    for distance in (0.0, 0.0, 1.0, 0.0, 0.0):
        resting.code.code.assign_add(distance * np.ones(4))
        assert not strategy.harden([resting, moving])
        moving.code.code.assign_add(np.ones(4))
        weights = resting.code.weights_of_all().numpy()
    assert strategy.harden([resting, moving]) == [resting]
    assert not moving.is_frozen
    (kept,) = resting.kept()
    assert resting.code.scales.numpy()[kept] == pytest.approx(weights[kept])
    for _ in range(2):
        assert strategy.harden([resting, moving]) == []
    assert strategy.harden([resting, moving]) == [moving]
    assert strategy.harden([resting, moving]) == []


def test_a_code_that_is_not_finite_leaves_its_decision_open():
    """Training that has diverged is gone back from at the guard's next look."""
    decision, learned = searched(edges=1, operations=3, keep=1, tolerance=1e9)
    before = decision.code.sparse.numpy()
    decision.code.code.assign([np.nan] * 3)
    assert not learned.harden() and not decision.is_frozen
    np.testing.assert_array_equal(decision.code.sparse, before)


def test_frozen_codes_and_weights_do_not_drift():
    decision, learned = searched()
    for _ in range(3):
        learned.update(np.ones(7, "float32"))  # Adam would move on alone
    decision.code.recover()
    decision.freeze()
    sample(learned)
    before = [v.numpy() for v in decision.variables if "drawn" not in v.path]
    factors = np.asarray(decision.factors(training=True))
    for seed in range(5):
        learned.update(np.ones(7, "float32"))
        learned.strategy.harden([decision])
        sample(learned, seed)
    after = [v for v in decision.variables if "drawn" not in v.path]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old, err_msg=new.path)
    np.testing.assert_array_equal(decision.factors(training=True), factors)
    np.testing.assert_array_equal(decision.factors(training=False), factors)
    # They are more than credits.
    uncredited = decision.factors(training=True, credits=False)
    np.testing.assert_array_equal(uncredited, factors)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(decision.factors(training=True))
    gradient = tape.gradient(total, decision.code.code.value)
    assert gradient is None or not np.any(gradient.numpy())


def test_exploration_falls_from_its_share_to_nothing():
    decision, learned = searched(edges=1, operations=8, keep=1, exploration=0.5)
    (kept,) = decision.kept()
    draws = np.random.default_rng(0).uniform(size=(400, 8)).astype("float32")
    sample = tf.function(
        lambda u: learned.strategy.sample(decision, u)[0], autograph=False
    )
    shares = []
    for progress in (1e-6, 0.5, 1.0):
        learned.advance_to(progress)
        tried = [int(sample(tf.constant(u))) != kept for u in draws]
        shares.append(np.mean(tried))
    # One in eight of the random choices is what is kept anyway.
    np.testing.assert_allclose(shares, [0.4375, 0.21875, 0.0], atol=0.07)


def test_what_is_tried_runs_at_the_weight_of_what_is_kept():
    decision, learned = searched(edges=1, operations=4, keep=1)
    learned.advance_to(0.5)
    code = decision.code
    (kept,) = decision.kept()
    weights = code.weights_of_all().numpy()
    matrix = code.measurement.numpy()
    for option in range(4):
        decision.sampled.assign(option)
        with tf.GradientTape() as tape:
            factor = decision.factors(training=True)[0]
        sign = -1.0 if weights[option] < 0 else 1.0
        expected = (
            weights[kept] if option == kept else sign * abs(weights[kept])
        )
        assert float(factor) == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(
            tape.gradient(factor, code.code.value), matrix[:, option], rtol=1e-5
        )


def test_a_run_of_the_joint_step_moves_codes_and_saves_them(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = Choice([layers.Dense(4, name="a"), layers.Dense(4, "tanh", name="b")])(
        inputs
    )
    joint = JointModel(
        keras.Model(inputs, layers.Dense(2)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=ISTA(),
    )
    (decision,) = find_decisions(joint.network)
    joint.architecture.start()
    joint.architecture.advance_to(0.5)
    before = decision.parameter.numpy()
    rng = np.random.default_rng(0)
    data = (
        tf.constant(rng.normal(size=(8, 4)), "float32"),
        tf.constant(rng.integers(0, 2, 8)),
    )
    joint.train_step(data, 1.0)
    assert np.any(decision.parameter.numpy() != before)
    np.testing.assert_array_equal(decision.logits, [0.0, 0.0])
    joint.save(tmp_path / "joint.keras")
    copy = keras.saving.load_model(tmp_path / "joint.keras")
    (theirs,) = find_decisions(copy.network)
    for name in ("code", "measurement", "sparse", "scales"):
        np.testing.assert_array_equal(
            getattr(theirs.code, name), getattr(decision.code, name)
        )


def outputs_along(joint, tangent, images):
    """What the network gives once its weights went along a tangent."""
    vector = joint.weight_vector
    weights = vector.read()
    vector.write(weights + 0.3 * tangent)
    outputs = joint.network(images, training=True).numpy()
    vector.write(weights)
    return outputs


def powers_of_the_gradient(joint, data):
    """What slots hold if all gradients were that of these data."""
    gradient = search_gradient(joint, data, joint.weight_vector.read())
    return [gradient.numpy() ** order for order in joint.rule.orders]


@pytest.mark.parametrize("rule", [SGD(), AdamW()])
def test_what_is_made_of_gradients_is_absorbed_the_other_way(rule):
    """L(s w) has 1/s of the gradients; what it answers to, s times as much."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = Choice([layers.Dense(3, name=n) for n in "ab"], name="c")(inputs)
    joint = JointModel(
        keras.Model(inputs, layers.Dense(2)(layers.Activation("tanh")(x))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=ISTA(),
        rule=rule,
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": Range(1e-3, 1.0, start=0.1)}
        ),
    )
    (decision,) = find_decisions(joint.network)
    decision.freeze(0)
    decision.code.scales.assign([-0.5, 1.0])
    rng = np.random.default_rng(0)
    data = (
        tf.constant(rng.normal(size=(8, 4)), "float32"),
        tf.constant(rng.integers(0, 2, 8)),
    )
    tangents = joint.hyperparameters.tangents["learning_rate"]
    direction = rng.normal(size=joint.weight_vector.size).astype("float32")
    for tangent in (tangents.weights, tangents.averaged):
        tangent.assign(direction)
    powers = powers_of_the_gradient(joint, data)
    for k, power in enumerate(powers):
        joint.slots[k].assign(power)
        tangents.slots[k].assign(power)
    expected = outputs_along(joint, direction, data[0])
    derived = carried_over.derived(joint)
    found = derived.hyperparameters.tangents["learning_rate"]
    for tangent in (found.weights, found.averaged):
        np.testing.assert_allclose(
            outputs_along(derived, tangent, data[0]), expected, atol=1e-5
        )
    for slots in (derived.slots, found.slots):
        np.testing.assert_allclose(
            slots, powers_of_the_gradient(derived, data), rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize(
    "strategy",
    [ISTA(exploration=0.0), DARTS(), GDAS(), None],
    ids=lambda strategy: type(strategy).__name__,
)
def test_what_could_undo_a_weight_rests_while_its_decision_is_free(strategy):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    ends = [layers.BatchNormalization(name=f"end_{n}") for n in "ab"]
    candidates = [
        keras.Sequential([layers.Dense(3), layers.BatchNormalization(), end])
        for end in ends
    ]
    x = layers.BatchNormalization(name="behind")(Choice(candidates)(inputs))
    joint = JointModel(
        keras.Model(inputs, layers.Dense(2)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=strategy or DSNAS(),
        hyperparameters=LearnedHyperparameters({"learning_rate": 0.1}),
    )
    (decision,) = find_decisions(joint.network)
    joint.architecture.start()
    joint.architecture.advance_to(0.5)
    rng = np.random.default_rng(0)
    data = (
        tf.constant(rng.normal(size=(8, 4)), "float32"),
        tf.constant(rng.integers(0, 2, 8)),
    )

    def moved():
        before = [v.numpy() for v in joint.network.trainable_variables]
        joint.train_step(data, 1.0)
        return {
            v.path
            for v, old in zip(
                joint.network.trainable_variables, before, strict=True
            )
            if np.any(v.numpy() != old)
        }

    while_free = moved()
    assert {"behind/gamma", "dense/kernel"} & while_free
    ended = [p for p in while_free if p.rpartition("end_")[1]]
    # Credits of DSNAS are of what runs: there nothing is to be undone.
    assert bool(ended) == (strategy is None)
    decision.freeze()
    kept = ends[decision.kept()[0]].name
    frozen = {p for p in moved() if "end_" in p}
    assert {p.partition("end_")[2] for p in frozen} == {
        f"{kept}/{name}".partition("end_")[2] for name in ("gamma", "beta")
    }
