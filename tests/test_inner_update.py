import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import inner_update
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW
from tests.references import central_difference

RNG = np.random.default_rng(0)
SIZES = [2, 3]
START = RNG.normal(size=5).astype("float32")
GRADIENTS = RNG.normal(size=(8, 5)).astype("float32")
DECAYED = np.array([1, 1, 0, 1, 0], "float64")

RULES = {
    "sgd": SGD(),
    "decoupled": SGD(decoupled=True),
    "nesterov": SGD(nesterov=True),
    "nesterov_decoupled": SGD(nesterov=True, decoupled=True),
    "adamw": AdamW(),
    "clipped": SGD(clipnorm=0.7),
    "globally_clipped": SGD(nesterov=True, global_clipnorm=0.9),
    "adamw_clipped": AdamW(global_clipnorm=0.9),
}


def extent(count=1.0, decayed=1.0, active=None, dtype="float32", counts=None):
    return Extent(
        tf.constant(np.broadcast_to(decayed, 5), dtype),
        active,
        SIZES,
        tf.constant(count, dtype),
        None if counts is None else tf.constant(counts, dtype),
    )


def run(rule, gradients, rate, decay, momentum, **kwargs):
    """The weights after all steps."""
    w = tf.constant(START)
    slots = tuple(tf.zeros(5) for _ in rule.slots)
    for k, g in enumerate(gradients):
        at = Inputs(w, slots, tf.constant(g), rate, decay, momentum)
        w, slots, _ = rule.step(at, extent(k + 1.0, **kwargs))
    return w.numpy()


def keras_run(optimizer, gradients):
    """The same with Keras' own optimizer, on two variables."""
    variables = [keras.Variable(START[:2]), keras.Variable(START[2:])]
    for g in gradients:
        optimizer.apply([tf.constant(g[:2]), tf.constant(g[2:])], variables)
    return np.concatenate([v.numpy() for v in variables])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [None, 0.1])
def test_sgd_equals_keras(momentum, decay, nesterov):
    # Keras' weight decay is the decoupled one.
    optimizer = keras.optimizers.SGD(
        0.1, momentum=momentum, nesterov=nesterov, weight_decay=decay
    )
    rule = SGD(nesterov=nesterov and momentum > 0, decoupled=True)
    ours = run(rule, GRADIENTS, 0.1, decay or 0.0, momentum)
    np.testing.assert_allclose(ours, keras_run(optimizer, GRADIENTS), atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("beta_1", [0.0, 0.9])
def test_adamw_equals_keras(decay, beta_1):
    optimizer = keras.optimizers.AdamW(
        0.05, weight_decay=decay, beta_1=beta_1, beta_2=0.98
    )
    ours = run(AdamW(beta_2=0.98), GRADIENTS, 0.05, decay, beta_1)
    np.testing.assert_allclose(ours, keras_run(optimizer, GRADIENTS), atol=1e-6)


@pytest.mark.parametrize("kind", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("norm", [0.5, 1.5, 100.0])
def test_clipping_equals_keras(kind, norm):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **{kind: norm})
    ours = run(SGD(**{kind: norm}), GRADIENTS, 0.1, 0.0, 0.9)
    np.testing.assert_allclose(ours, keras_run(optimizer, GRADIENTS), atol=1e-6)


def test_coupled_decay_is_the_gradient_of_an_l2_penalty():
    variable = keras.Variable(START)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    penalty = keras.regularizers.L2(0.3 / 2)
    for g in GRADIENTS:
        with tf.GradientTape() as tape:
            loss = penalty(variable.value * DECAYED.astype("float32"))
        optimizer.apply([tape.gradient(loss, variable.value) + g], [variable])
    ours = run(SGD(), GRADIENTS, 0.1, 0.3, 0.9, decayed=DECAYED)
    np.testing.assert_allclose(ours, variable.numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_what_is_inactive_stays(name):
    rule, active = RULES[name], np.array([1, 0, 1, 0, 1], bool)
    slots = tuple(tf.constant(g**2) for g in GRADIENTS[1 : 1 + len(rule.slots)])
    at = Inputs(tf.constant(START), slots, GRADIENTS[0], 0.1, 0.3, 0.9)
    step = rule.step(at, extent(active=active))
    still = ~active
    np.testing.assert_array_equal(step.weights.numpy()[still], START[still])
    for old, new in zip(slots, step.slots, strict=True):
        np.testing.assert_array_equal(new.numpy()[still], old.numpy()[still])
        assert np.all(new.numpy()[~still] != old.numpy()[~still])
    assert np.all(step.weights.numpy()[~still] != START[~still])


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_inactive_counts_for_nothing(name):
    """A penalty may give one to a candidate that does not run."""
    rule, active = RULES[name], np.array([1, 0, 1, 0, 1], bool)
    at, tangent = perturbed(rule)
    where = extent(3.0, DECAYED, active, "float64")

    def found(size):
        given = constants(
            at._replace(gradient=np.where(active, at.gradient, size))
        )
        moved = constants(
            tangent._replace(gradient=np.where(active, tangent.gradient, size))
        )
        step = rule.step(given, where)
        weights, slots = rule.pushforward(given, moved, where)
        back = rule.pullback(given, moved.gradient, where)
        return [step.weights, *step.slots, weights, *slots, back]

    for large, none in zip(found(1e3), found(0.0), strict=True):
        np.testing.assert_array_equal(large, none)


def perturbed(rule, seed=1):
    """Inputs in float64 and a random tangent of each."""
    rng = np.random.default_rng(seed)
    count = len(rule.slots)

    def inputs(positive):
        vector = np.abs if positive else np.asarray
        return Inputs(
            rng.normal(size=5),
            tuple(vector(rng.normal(size=5)) for _ in range(count)),
            rng.normal(size=5),
            *rng.uniform(0.1, 0.8, size=(3, 5)),
        )

    return inputs(True), inputs(False)


def constants(inputs):
    return tf.nest.map_structure(lambda x: tf.constant(x, "float64"), inputs)


@pytest.mark.parametrize("beta_1", [0.0, 0.9])
def test_what_takes_part_in_each_fourth_step_is_as_if_others_were_not(beta_1):
    rule, counts = AdamW(beta_2=0.98), np.zeros(5)
    w, slots = tf.constant(START), (tf.zeros(5), tf.zeros(5))
    for k in range(8):
        active = np.array([k % 4 == 3] * 2 + [True] * 3)
        counts = counts + active
        where = extent(k + 1.0, active=active, counts=counts)
        at = Inputs(w, slots, tf.constant(GRADIENTS[k]), 0.05, 0.1, beta_1)
        w, slots, _ = rule.step(at, where)

    def alone(gradients):
        return keras_run(
            keras.optimizers.AdamW(
                0.05, weight_decay=0.1, beta_1=beta_1, beta_2=0.98
            ),
            gradients,
        )

    np.testing.assert_allclose(w[:2], alone(GRADIENTS[3::4])[:2], atol=1e-6)
    np.testing.assert_allclose(w[2:], alone(GRADIENTS)[2:], atol=1e-6)


@pytest.mark.parametrize("counts", [None, [3, 0, 1, 2, 4]])
@pytest.mark.parametrize("active", [1.0, np.array([1, 0, 1, 1, 0])])
@pytest.mark.parametrize("name", RULES)
def test_pushforward_equals_central_differences(name, active, counts):
    rule = RULES[name]
    at, tangent = perturbed(rule)
    if np.ndim(active) == 0 and counts:
        counts = np.maximum(counts, 1)
    where = extent(3.0, DECAYED, active, "float64", counts)

    def stepped(distance):
        moved = tf.nest.map_structure(
            lambda x, dx: x + distance * dx, at, tangent
        )
        step = rule.step(constants(moved), where)
        return np.stack([step.weights, *step.slots])

    weights, slots = rule.pushforward(constants(at), constants(tangent), where)
    expected = central_difference(stepped, 0.0)
    np.testing.assert_allclose(
        np.stack([weights, *slots]), expected, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", RULES)
def test_absent_tangents_count_as_zero(name):
    rule = RULES[name]
    at, tangent = perturbed(rule)
    where = extent(3.0, DECAYED, dtype="float64")
    for field in Inputs._fields:
        zeros = tf.nest.map_structure(np.zeros_like, tangent)
        absent = Inputs(0.0, (0.0,) * len(rule.slots), 0.0, 0.0, 0.0, 0.0)
        value = {field: getattr(tangent, field)}
        full = rule.pushforward(
            constants(at), constants(zeros._replace(**value)), where
        )
        absent = absent._replace(**constants(value))
        sparse = rule.pushforward(constants(at), absent, where)
        for a, b in zip(
            [full[0], *full[1]], [sparse[0], *sparse[1]], strict=True
        ):
            np.testing.assert_allclose(b + np.zeros(5), a, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_pullback_is_the_derivative_by_the_gradient(name):
    rule = RULES[name]
    at, tangent = perturbed(rule)
    where = extent(3.0, DECAYED, np.array([1, 0, 1, 1, 1]), "float64")

    def along(k):
        def value(distance):
            moved = at.gradient + distance * np.eye(5)[k]
            step = rule.step(constants(at._replace(gradient=moved)), where)
            return tangent.weights @ step.direction.numpy()

        return central_difference(value, 0.0)

    ours = rule.pullback(constants(at), tf.constant(tangent.weights), where)
    np.testing.assert_allclose(ours, [along(k) for k in range(5)], atol=1e-8)


@pytest.mark.parametrize("name", RULES)
def test_config_round_trip(name):
    rule = RULES[name]
    config = keras.saving.serialize_keras_object(rule)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(rule)
    assert copy.get_config() == rule.get_config()


@pytest.mark.parametrize(
    "norms", [{"clipnorm": 0.0}, {"clipnorm": 1.0, "global_clipnorm": 1.0}]
)
def test_norms_that_make_no_sense(norms):
    with pytest.raises(ValueError, match="One of `clipnorm`"):
        SGD(**norms)


def test_adam_equals_keras():
    variable = keras.Variable(START)
    optimizer = keras.optimizers.Adam(0.05, epsilon=1e-8)
    w = tf.constant(START)
    state = inner_update.AdamState(tf.zeros(5), tf.zeros(5), tf.constant(0.0))
    for g in GRADIENTS:
        optimizer.apply([tf.constant(g)], [variable])
        w, state = inner_update.adam(w, g, state, 0.05)
    np.testing.assert_allclose(w, variable.numpy(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize("sizes", [[3], [1, 5, 1], [7, 2, 30, 1, 1]])
def test_values_of_variables_are_spread_as_numpy_repeats(sizes, shape):
    values = RNG.normal(size=(*shape, len(sizes)))
    np.testing.assert_array_equal(
        inner_update.spread(tf.constant(values), sizes),
        np.repeat(values, sizes, axis=-1),
    )


def test_spreading_makes_nothing_larger_than_the_weights():
    sizes = [1000] + [1] * 500

    @tf.function
    def spread(values):
        return inner_update.spread(values, sizes)

    graph = spread.get_concrete_function(tf.TensorSpec([501])).graph
    outputs = [y for op in graph.get_operations() for y in op.outputs]
    assert max(y.shape.num_elements() for y in outputs) == sum(sizes)
    constants = [op for op in graph.get_operations() if op.type == "Const"]
    assert max(op.outputs[0].shape.num_elements() for op in constants) <= 501


@pytest.mark.parametrize("factor", [0.25, -2.0])
@pytest.mark.parametrize(
    "rule",
    [SGD(), SGD(nesterov=True, decoupled=True), AdamW(epsilon=1e-12)],
    ids=["sgd", "nesterov", "adamw"],
)
def test_a_pullback_grows_with_the_gradient_as_its_order_says(rule, factor):
    """As where weights are so many times as small, and gradients as large."""
    rng = np.random.default_rng(1)
    vector = rng.normal(size=5)
    slots = [
        GRADIENTS[k].astype("float64") ** o for k, o in enumerate(rule.orders)
    ]

    def pulled(s):
        at = Inputs(
            START / s,
            tuple(
                tf.constant(s**o * b)
                for o, b in zip(rule.orders, slots, strict=True)
            ),
            tf.constant(s * GRADIENTS[3].astype("float64")),
            *(0.1, 0.01, 0.9),
        )
        one = extent(count=4.0, dtype="float64")
        return rule.pullback(at, tf.constant(s * vector), one).numpy()

    power = abs(factor) ** (rule.pullback_order - 1)
    expected = factor * power * pulled(1.0)
    np.testing.assert_allclose(pulled(factor), expected, rtol=1e-6)
