import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import scale_invariance
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.hypergradient import Tangents
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.inner_update import Step
from keras_dha.joint_model import JointModel
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW

# An invariant variable, one that is not, and an invariant one that did not run.
SIZES = [6, 5, 4]
SIZE = sum(SIZES)
RNG = np.random.default_rng(0)
W = RNG.normal(size=SIZE)
PULL = RNG.normal(size=(2, 6))
RULES = {
    "sgd": SGD(),
    "nesterov": SGD(nesterov=True),
    "decoupled": SGD(decoupled=True),
    "adamw": AdamW(),
    "clipped": SGD(clipnorm=0.5),
}


def gradient(w):
    """Of a loss that normalises its first variable and ignores the last."""
    w = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(w)
        unit = w[:6] / tf.norm(w[:6])
        first = tf.reduce_sum(tf.exp(unit * PULL[0])) + tf.square(
            tf.reduce_sum(unit * PULL[1])
        )
        loss = first + tf.reduce_sum(tf.square(w[6:11]))
    return tape.gradient(loss, w)


def read(**asked):
    w = tf.constant(W)
    return scale_invariance.read(gradient(W), w, SIZES, weights=w, **asked)


def radial(tangent):
    return read(radial=[tangent]).radial[0]


def turning(tangent):
    return read(turning=[tangent]).turning[0]


def test_invariance_is_read_off_the_gradient():
    np.testing.assert_array_equal(read().invariant, [1.0, 0.0, 0.0])


def test_weights_that_did_not_run_do_not_count():
    assert float(read().share) == pytest.approx(6 / 11)
    nothing, w = tf.zeros_like(gradient(W)), tf.constant(W)
    assert float(scale_invariance.read(nothing, w, SIZES).share) == 0.0


def test_invariance_is_found_in_single_precision_and_in_long_variables():
    sizes = [20_000, 20_000]
    rng = np.random.default_rng(1)
    w = rng.normal(size=sum(sizes)).astype("f")
    g = rng.normal(size=sum(sizes)).astype("f")
    # As chance has it, the inner product of the other is not small.
    g[20_000:] *= np.sign(g[20_000:] @ w[20_000:])
    g[20_000:] += 0.01 * w[20_000:]
    g[:20_000] -= (
        w[:20_000] * (g[:20_000] @ w[:20_000]) / (w[:20_000] @ w[:20_000])
    )
    found = scale_invariance.read(tf.constant(g), tf.constant(w), sizes)
    np.testing.assert_array_equal(found.invariant, [1.0, 0.0])


def test_along_the_weights_the_hessian_is_minus_the_gradient():
    """H (c w) = -c g, against central differences of the gradient."""
    along = np.where(np.arange(SIZE) < 6, W, 0.0)
    step, c = 1e-5, 0.7
    change = gradient(W + step * c * along) - gradient(W - step * c * along)
    share = radial(c * along)
    np.testing.assert_allclose(share[:6], c, rtol=1e-12)
    np.testing.assert_array_equal(share[6:], 0.0)
    np.testing.assert_allclose(
        -share * gradient(W), change / (2 * step), rtol=1e-7, atol=1e-8
    )


def test_several_tangents_are_told_apart():
    """Each pair has weights of its own, and each row its own c."""
    near, w = tf.constant(W + 0.1), tf.constant(W)
    first, second = RNG.normal(size=(2, SIZE)), RNG.normal(size=(3, SIZE))
    found = scale_invariance.read(
        *(gradient(W), w, SIZES),
        turning=list(tf.constant(second)),
        weights=near,
        radial=list(tf.constant(first)),
    )
    c = first[:, :6] @ near[:6].numpy() / (near[:6].numpy() @ near[:6].numpy())
    expected = np.concatenate(
        [np.repeat(c[:, None], 6, 1), np.zeros([2, 9])], 1
    )
    np.testing.assert_allclose(found.radial, expected, rtol=1e-12)
    c = second[:, :6] @ W[:6] / (W[:6] @ W[:6])
    expected = second.copy()
    expected[:, :6] -= c[:, None] * W[:6]
    np.testing.assert_allclose(found.turning, expected, rtol=1e-12)


def test_turning_leaves_what_is_orthogonal():
    tangent = RNG.normal(size=SIZE)
    turned = turning(tangent)
    assert turned[:6].numpy() @ W[:6] == pytest.approx(0.0, abs=1e-12)
    difference = tangent[:6] - turned[:6].numpy()
    cosine = difference @ W[:6]
    cosine /= np.linalg.norm(difference) * np.linalg.norm(W[:6])
    assert abs(cosine) == pytest.approx(1.0)
    np.testing.assert_array_equal(turned[6:], tangent[6:])


@pytest.mark.parametrize("name", hypergradient.OPTIMIZER)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_step_after_a_change_of_length_is_exact(rule, name):
    """w(h) = (1 + c h) w: the tangent after the step, by differences."""
    c, discount = 0.7, 0.9
    slots = tuple(np.abs(RNG.normal(size=(len(rule.slots), SIZE))))
    values = {"learning_rate": 0.1, "weight_decay": 0.2, "momentum": 0.9}
    ones = tf.ones([SIZE], "float64")
    extent = Extent(ones, None, SIZES, tf.constant(3.0, "float64"))
    along = np.where(np.arange(SIZE) < 6, W, 0.0)

    def inputs(h):
        # What the discount keeps of the tangent comes into this step.
        w = W + discount * c * h * along
        given = {**values, name: values[name] + h}
        constants = {k: tf.constant(v, "float64") for k, v in given.items()}
        return Inputs(
            tf.constant(w),
            tuple(tf.constant(s) for s in slots),
            gradient(w),
            **constants,
        )

    h = 1e-5
    expected = rule.step(inputs(h), extent).weights
    expected = (expected - rule.step(inputs(-h), extent).weights) / (2 * h)
    tangent = tf.constant(c * along)
    zeros = tf.zeros([SIZE], "float64")
    start = Tangents(
        tangent,
        (zeros,) * len(slots),
        zeros,
        radial(tangent),
    )
    found = hypergradient.advance(
        rule, inputs(0.0), extent, name, 1.0, start, Horizon(discount, 0.0)
    )
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6, atol=1e-8)


def test_penalties_of_a_network_come_into_its_tangents():
    """With an L2 regularizer a rate's tangent is that of decay in the rule."""

    def tangent(regularizer, decay):
        x = inputs = keras.Input((4,))
        for k in range(2):
            x = keras.layers.Dense(
                *(5,),
                use_bias=False,
                kernel_regularizer=regularizer,
                kernel_initializer=keras.initializers.GlorotUniform(k),
            )(x)
            x = keras.layers.BatchNormalization(center=False, scale=False)(x)
        joint = JointModel(
            keras.Model(inputs, x),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            hyperparameters=LearnedHyperparameters(
                {
                    "learning_rate": Range(0.01, 10.0, start=0.3),
                    "weight_decay": decay,
                },
                Horizon(0.99, 0.0),
                step_size=1e-9,
            ),
        )
        rng = np.random.default_rng(0)
        for _ in range(6):
            x = tf.constant(rng.normal(size=(16, 4)), "float32")
            y = tf.constant(rng.integers(0, 5, 16))
            joint.train_step((x[:12], y[:12]), 1.0, (x[12:], y[12:]))
        return joint.hyperparameters.tangents["learning_rate"].weights.numpy()

    # Keras' penalty is l |w|^2, that of the rule lambda |w|^2 / 2.
    by_regularizer = tangent(keras.regularizers.L2(0.05), 0.0)
    by_rule = tangent(None, 0.1)
    scale = np.max(np.abs(by_rule))
    np.testing.assert_allclose(by_regularizer, by_rule, atol=1e-3 * scale)


def test_decay_has_an_answer_where_weights_are_normalised():
    """Two steps: shorter weights make the second turn further."""
    ones = tf.ones([SIZE], "float64")
    extent = Extent(ones, None, SIZES, tf.constant(1.0, "float64"))
    zeros = tf.zeros([SIZE], "float64")
    rule, w = SGD(), tf.constant(W)
    at = Inputs(w, (zeros,), gradient(W), 0.1, 0.0, 0.0)
    start = Tangents(zeros, (zeros,), zeros, zeros)
    horizon = Horizon(1.0, 0.0)
    one = hypergradient.advance(
        rule, at, extent, "weight_decay", 1.0, start, horizon
    )
    # One step of decay changes the length alone: <v, Z> = 0 for any v there.
    turned = turning(one.weights)
    np.testing.assert_allclose(turned[:6], 0.0, atol=1e-12)
    share = radial(one.weights)
    np.testing.assert_allclose(share[:6], -0.1)
    two = hypergradient.advance(
        *(rule, at, extent, "weight_decay", 1.0),
        *(one._replace(radial=share, slots=(zeros,)), horizon),
    )
    turned = turning(two.weights)
    # -eta (-c) g, with c = -0.1 after the first step
    np.testing.assert_allclose(turned[:6], -0.01 * gradient(W)[:6])


def test_updates_tell_the_tangents_what_part_is_along_the_weights():
    """The same two steps, as a run takes them: with an update between."""
    learned = LearnedHyperparameters(
        {"weight_decay": Range(0.0, 1.0, "linear")}, Horizon(1.0, 0.0)
    )
    paths = [f"layer{k}/kernel" for k in range(len(SIZES))]
    learned.allocate(SGD(), SIZES, paths, "float64")
    w, zeros = tf.constant(W), tf.zeros([SIZE], "float64")
    one = tf.constant(1.0, "float64")
    at = Inputs(w, (zeros,), gradient(W), 0.1, 0.0, 0.0)
    extent = Extent(one + zeros, None, SIZES, one)
    learned.advance(at, extent, Step(w, (zeros,), zeros), one)
    learned.update(gradient(W), at)
    learned.advance(at, extent, Step(w, (zeros,), zeros), one)
    two = learned.tangents["weight_decay"].weights.value
    turned = turning(two)
    np.testing.assert_allclose(turned[:6], -0.01 * gradient(W)[:6])
