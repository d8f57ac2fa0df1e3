"""Branches that stay functions, against `tf.switch_case` and closed forms."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.architecture.branches import run_one


def numbers(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


X, KERNEL, BIAS, OTHER = (
    numbers(0, 4, 3),
    numbers(1, 3, 3),
    numbers(2, 3),
    numbers(3, 3),
)
# By number: kernel and bias, bias alone, none of its own, and no derivative.
CANDIDATES = [
    lambda x: tf.tanh(x @ KERNEL + BIAS),
    lambda x: x * tf.exp(BIAS),
    lambda x: x,
    tf.zeros_like,
    lambda x: tf.sin(x) * OTHER,
]


def output_and_derivatives(index, weights, shape=(4, 3)):
    """Returns y and the derivatives of sum(y ** 3), as arrays."""

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([], "int32"),
            tf.TensorSpec(shape, "float64"),
        ],
    )
    def step(index, x):
        sources = [x, KERNEL, BIAS, OTHER]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = run_one(index, CANDIDATES, x, weights)
            loss = tf.reduce_sum(y**3)
        return y, tape.gradient(loss, sources, unconnected_gradients="zero")

    return tf.nest.map_structure(
        lambda t: t.numpy(), step(tf.constant(index), X)
    )


@pytest.mark.parametrize("shape", [(4, 3), (None, 3)], ids=str)
@pytest.mark.parametrize("index", range(len(CANDIDATES)))
def test_one_candidate_runs_and_is_differentiated(index, shape):
    weights = [KERNEL, BIAS, OTHER]
    y, derivatives = output_and_derivatives(index, weights, shape)
    expected, by_switch = output_and_derivatives(index, None)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    for ours, theirs in zip(derivatives, by_switch, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_what_is_not_among_the_weights_has_no_derivative():
    y, derivatives = output_and_derivatives(4, [KERNEL, BIAS])
    np.testing.assert_allclose(y, np.sin(X) * OTHER)
    assert not derivatives[3].any()
    np.testing.assert_allclose(
        derivatives[0], 3 * y**2 * np.cos(X) * OTHER, rtol=1e-12
    )


@pytest.mark.parametrize("weights", [None, []], ids=["switch", "functions"])
def test_only_the_candidate_of_the_index_has_effects(weights):
    calls = [tf.Variable(0) for _ in range(3)]

    def counting(call):
        def run(x):
            call.assign_add(1)
            return x + tf.cast(call, x.dtype)

        return run

    @tf.function(autograph=False)
    def step(index):
        return run_one(index, [counting(c) for c in calls], X, weights)

    for index in (1, 2, 1, 1):
        last = step(tf.constant(index))
    assert [int(c) for c in calls] == [0, 3, 1]
    np.testing.assert_allclose(last, X + 3.0)


def test_branches_stay_functions_and_keep_one_value():
    @tf.function(autograph=False)
    def step(index):
        with tf.GradientTape() as tape:
            tape.watch(BIAS)
            y = run_one(index, CANDIDATES, X, [KERNEL, BIAS])
        return tape.gradient(y, BIAS)

    graph = step.get_concrete_function(tf.constant(0)).graph
    cases = {o.type: o for o in graph.get_operations() if "Case" in o.type}
    assert sorted(cases) == ["Case", "StatelessCase"]
    assert len(cases["Case"].outputs) == 2
    for case in cases.values():
        assert "_lower_using_switch_merge" not in case.node_def.attr


def test_mixed_precision():
    layer = keras.layers.Dense(3, dtype="mixed_float16")
    layer.build((4, 3))
    x, kernel = tf.cast(X, "float16"), layer.kernel.value

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            y = run_one(tf.constant(0), [layer, lambda x: x], x, [kernel])
            loss = tf.reduce_sum(tf.cast(y, "float32"))
        return y, tape.gradient(loss, kernel)

    y, derivative = step()
    assert (y.dtype, derivative.dtype) == ("float16", "float32")
    np.testing.assert_allclose(
        derivative, np.repeat(x.numpy().sum(0)[:, None], 3, 1), rtol=2e-3
    )


def second_derivatives(index, weights, like=None, along=True):
    """Returns derivatives of <(J_x^T u, J_w^T u), v> by u and by x, arrays."""
    directions = [numbers(6, 4, 3), numbers(7, 3, 3), numbers(8, 3)]

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([], "int32"),
            tf.TensorSpec(like or (4, 3), "float64"),
            tf.TensorSpec(like or (4, 3), "float64"),
        ],
    )
    def step(index, x, upstream):
        sources = [x, KERNEL, BIAS]
        with tf.GradientTape(persistent=True) as outer:
            outer.watch([x, upstream])
            with tf.GradientTape() as inner:
                inner.watch(sources)
                y = run_one(index, CANDIDATES, x, weights, along)
            first = inner.gradient(
                y, sources, upstream, unconnected_gradients="zero"
            )
        return [
            outer.gradient(
                first, source, directions, unconnected_gradients="zero"
            )
            for source in (upstream, x)
        ]

    return [t.numpy() for t in step(tf.constant(index), X, numbers(9, 4, 3))]


@pytest.mark.parametrize("shape", [(4, 3), (None, 3)], ids=str)
@pytest.mark.parametrize("index", range(len(CANDIDATES)))
def test_a_derivative_of_the_derivative_by_what_comes_from_above(index, shape):
    along, _ = second_derivatives(index, [KERNEL, BIAS, OTHER], shape)
    expected, _ = second_derivatives(index, None)
    np.testing.assert_allclose(along, expected, rtol=1e-12, atol=1e-12)


def test_other_second_derivatives_are_right_or_not_a_number_or_refused():
    _, by_switch = second_derivatives(4, None)
    expected = -np.sin(X) * OTHER * numbers(6, 4, 3) * numbers(9, 4, 3)
    np.testing.assert_allclose(by_switch, expected)
    assert np.isnan(second_derivatives(4, [KERNEL, BIAS])[1]).all()
    with pytest.raises(RuntimeError, match="to be differentiated once"):
        second_derivatives(4, [KERNEL, BIAS], along=False)


def test_gradients_of_ones_own_that_take_more_when_differentiated():
    @tf.custom_gradient
    def candidate(x):
        sine = tf.sin(x)

        @tf.custom_gradient
        def gradient(upstream):
            return upstream * x, lambda direction: direction * sine

        return x, gradient

    @tf.function(autograph=False)
    def step(upstream):
        with tf.GradientTape() as outer:
            outer.watch(upstream)
            with tf.GradientTape() as inner:
                inner.watch(X)
                candidates = [candidate, tf.identity]
                y = run_one(tf.constant(0), candidates, X, [BIAS], along=True)
            first = inner.gradient(y, X, upstream)
        return outer.gradient(first, upstream)

    np.testing.assert_allclose(step(X), np.sin(X), rtol=1e-12)


def test_eager_execution_stays_eager():
    ran = []

    def candidate(x):
        ran.append(tf.executing_eagerly())
        return CANDIDATES[1](x)

    with tf.GradientTape() as tape:
        tape.watch(BIAS)
        y = run_one(tf.constant(1), [tf.identity, candidate], X, [BIAS])
    assert ran == [True]
    np.testing.assert_allclose(
        tape.gradient(y, BIAS), (X.numpy() * np.exp(BIAS)).sum(0)
    )


def test_loops_and_conditionals_within_candidates():
    def loop(x):
        step = lambda k, y: (k + 1, tf.tanh(y @ KERNEL))  # noqa: E731
        return tf.while_loop(lambda k, _: k < 3, step, (0, x))[1]

    def conditional(x):
        is_positive = tf.reduce_sum(x) > 0.0
        return tf.cond(is_positive, lambda: x * BIAS, lambda: x * x * BIAS)

    def derivatives(index, weights):
        @tf.function(autograph=False)
        def step(index, x):
            with tf.GradientTape() as tape:
                tape.watch([x, KERNEL, BIAS])
                y = run_one(index, [loop, conditional], x, weights) ** 3
            return tape.gradient(
                y, [x, KERNEL, BIAS], unconnected_gradients="zero"
            )

        return step(tf.constant(index), X)

    for index in (0, 1):
        for ours, theirs in zip(
            derivatives(index, [KERNEL, BIAS]),
            derivatives(index, None),
            strict=True,
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("by_switch", [True, False])
def test_embeddings_of_integers(by_switch):
    tokens = tf.constant([[0, 2], [2, 2]])
    tables = [numbers(4, 3, 5), numbers(5, 3, 5)]
    candidates = [lambda x, t=t: tf.gather(t, x) for t in tables]

    @tf.function(autograph=False)
    def step(tokens):
        with tf.GradientTape() as tape:
            tape.watch(tables)
            weights = None if by_switch else tables
            y = run_one(tf.constant(0), candidates, tokens, weights)
        derivatives = tape.gradient(y, tables, unconnected_gradients="zero")
        return y, [tf.convert_to_tensor(d) for d in derivatives]

    y, (used, unused) = step(tokens)
    np.testing.assert_array_equal(y, tables[0].numpy()[tokens])
    np.testing.assert_array_equal(used, [[1.0] * 5, [0.0] * 5, [3.0] * 5])
    assert not np.any(unused)


def test_embeddings_along_a_direction_of_their_tables():
    tokens, upstream = tf.constant([[0, 2], [2, 2]]), numbers(6, 2, 2, 5)
    tables = [numbers(4, 3, 5), numbers(5, 3, 5)]
    candidates = [lambda x, t=t: tf.gather(t, x) for t in tables]

    @tf.function(autograph=False)
    def step(tokens, upstream):
        with tf.GradientTape() as outer:
            outer.watch(upstream)
            with tf.GradientTape() as inner:
                inner.watch(tables)
                y = run_one(tf.constant(1), candidates, tokens, tables, True)
            first = inner.gradient(
                y, tables, upstream, unconnected_gradients="zero"
            )
            first = [tf.convert_to_tensor(d) for d in first]
        return outer.gradient(first, upstream, tables[::-1])

    expected = tables[0].numpy()[tokens]
    np.testing.assert_allclose(step(tokens, upstream), expected, rtol=1e-12)
