"""Derivatives of a backward pass, against backward passes of single images."""

import contextlib
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.framework import ops

import keras_dha
from keras_dha import inner_pass
from keras_dha import outer_tape
from keras_dha import second_derivatives
from keras_dha.architecture.choice import Choice
from keras_dha.joint_model import JointModel
from tests.references import NORMALISATIONS
from tests.references import central_difference
from tests.test_joint_model import float64  # noqa: F401

COUNT = 3


def choice():
    return Choice(
        [
            layers.UpSampling2D(2, interpolation="bilinear", name="bilinear"),
            layers.Conv2DTranspose(2, 2, strides=2, name="learned"),
        ]
    )


def normalisation(**kwargs):
    return keras_dha.FusedBatchNormalization(
        gamma_initializer="random_normal",
        beta_initializer="random_normal",
        **kwargs,
    )


def block(size, **kwargs):
    return keras.Sequential(
        [
            layers.Conv2D(2, size, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(3, strides=1, padding="same"),
            layers.LayerNormalization(),
        ],
        **kwargs,
    )


def nested_choice():
    inner = Choice([layers.Conv2D(2, 1, name="one"), block(3, name="three")])
    return Choice(
        [
            layers.Identity(name="identity"),
            keras.Sequential([inner, normalisation()], name="nested"),
        ]
    )


def by_given_statistics(x):
    return tf.compat.v1.nn.fused_batch_norm(
        *(x, [1.0, 2.0], [0.0, 1.0]),
        mean=[0.1, 0.2],
        variance=[1.0, 2.0],
        is_training=False,
    )[0]


CASES = {
    "normalisation": normalisation,
    "normalisations": lambda: keras.Sequential(
        [normalisation(), layers.Conv2D(3, 2, activation="relu")]
        + [normalisation(scale=False)]
    ),
    "normalisation_in_a_choice": lambda: Choice(
        [normalisation(center=False), layers.Conv2D(2, 1)]
    ),
    "given_statistics": lambda: layers.Lambda(by_given_statistics),
    "softsign": lambda: layers.Activation("softsign"),
    "choice": choice,
    "choice_of_blocks": lambda: Choice(
        [block(3, name="three"), layers.Identity(name="identity")]
    ),
    "nested_choice": nested_choice,
    **{
        f"{kind}_{method}": lambda made=made, method=method: made(method)
        for kind, made in {
            "up": lambda m: layers.UpSampling2D(2, interpolation=m),
            "to": lambda m: layers.Resizing(3, 5, interpolation=m),
        }.items()
        for method in ("nearest", "bilinear", "bicubic", "lanczos3")
    },
}


def joint_model(make, path=0):
    keras.utils.set_random_seed(0)
    layer = make()
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(2, 3, padding="same")(inputs)
    x = layers.Flatten()(layer(x))
    joint = JointModel(
        keras.Model(inputs, layers.Dense(3)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for decision in joint.architecture.decisions:
        decision.sampled.assign(path)
    return joint


def batch_and_direction(joint):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(COUNT, 6, 6, 1)).astype("float32")
    direction = rng.normal(size=joint.weight_vector.size)
    batch = tf.constant(images), tf.range(COUNT)
    return batch, tf.constant(direction, joint.weight_vector.dtype)


def functions(joint, once=True):
    """Of a direction: all influences at once, and those of some factors.

    The former by derivatives that may be taken `once`, or more often.
    """
    batch, direction = batch_and_direction(joint)
    weights, seed = joint.weight_vector.read(), tf.constant([1, 2])

    def gradient(factors, **options):
        return inner_pass.run(
            *(joint, weights, batch, seed, {}, factors), moves=False, **options
        ).gradient

    def influences():
        factors = tf.ones(COUNT)
        outer = outer_tape.OuterTape({outer_tape.FACTORS: factors}, 1)
        with outer.recording():
            assert outer.is_from_above
            outer.gradient = gradient(factors, once=once, along=True)
        return outer.along(direction, outer_tape.FACTORS)[0]

    def influence(factors):
        return tf.reduce_sum(direction * gradient(factors, once=True))

    return [tf.function(f, autograph=False) for f in (influences, influence)]


@pytest.mark.parametrize("case", CASES)
def test_influences_of_the_weights_below(case):
    influences, influence = functions(joint_model(CASES[case]))
    expected = [influence(tf.one_hot(k, COUNT)) for k in range(COUNT)]
    np.testing.assert_allclose(influences(), expected, rtol=1e-4, atol=1e-6)


# At a stride of 1 windows that lead over the edges are ours, others are those
# of TensorFlow, which pools rows as images.
@pytest.mark.parametrize(
    "dimensions, size, strides, padding",
    [
        *[(1, 2, 1, "SAME"), (1, 3, 2, "VALID")],
        *itertools.product([2, 3], [1, 2, 3], [1], ["SAME"]),
        *itertools.product([2, 3], [3], [2], ["SAME", "VALID"]),
    ],
)
def test_max_pooling(dimensions, size, strides, padding):
    rng = np.random.default_rng(0)
    # There is no pooling of volumes in more digits. Of even sides windows of 3
    # at a stride of 2 lead over one edge alone.
    x = rng.normal(size=(COUNT, *[6] * dimensions, 2)).astype("float32")
    kernel, direction = tf.constant(rng.normal(size=(2, 2, 2)), "float32")
    pool = [tf.nn.max_pool1d, tf.nn.max_pool2d, tf.nn.max_pool3d][
        dimensions - 1
    ]

    def losses(kernel):
        pooled = tf.sin(pool(x @ kernel, size, strides, padding))
        return tf.reduce_sum(tf.reshape(pooled, (COUNT, -1)), 1)

    @tf.function(autograph=False)
    def influences():
        factors = tf.ones(COUNT)
        outer = outer_tape.OuterTape({outer_tape.FACTORS: factors}, 1)
        with outer.recording():
            with tf.GradientTape() as tape:
                tape.watch(kernel)
                loss = tf.reduce_sum(factors * losses(kernel))
            outer.gradient = tape.gradient(loss, kernel)
        return outer.along(direction, outer_tape.FACTORS)[0]

    with tf.autodiff.ForwardAccumulator(kernel, direction) as along:
        expected = losses(kernel)
    np.testing.assert_allclose(influences(), along.jvp(expected), rtol=1e-4)


@pytest.mark.parametrize("case", ["choice_of_blocks", "nested_choice"])
def test_what_acts_on_images_below_a_choice(case):
    joint = joint_model(CASES[case])
    batch, direction = batch_and_direction(joint)
    weights, seed = joint.weight_vector.read(), tf.constant([1, 2])

    def gradient(scale, once):
        scaled = scale * batch[0], batch[1]
        return inner_pass.run(
            *(joint, weights, scaled, seed, {}), moves=False, once=once
        ).gradient

    @tf.function(autograph=False)
    def derivative(scale):
        sources = {outer_tape.FACTORS: tf.ones(COUNT), outer_tape.PATH: [scale]}
        outer = outer_tape.OuterTape(sources, 1)
        with outer.recording():
            outer.gradient = gradient(scale, once=outer.is_from_above)
        return outer.along(direction, outer_tape.PATH)[0][0]

    def along(scale):
        found = gradient(tf.constant(scale, "float32"), once=False)
        return float(tf.reduce_sum(direction * found))

    expected = (along(1.001) - along(0.999)) / 0.002
    found = derivative(tf.constant(1.0))
    np.testing.assert_allclose(found, expected, rtol=2e-2)


@pytest.mark.parametrize("path", [0, 1])
@pytest.mark.parametrize("case", [c for c in CASES if "choice" in c])
def test_influences_through_the_candidates_of_a_choice(case, path):
    made = [joint_model(CASES[case], path) for _ in range(2)]
    influences, influence = functions(made[0])
    often, _ = functions(made[1], once=False)
    expected = [influence(tf.one_hot(k, COUNT)) for k in range(COUNT)]
    for found in (influences(), often()):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_second_derivative_of_softsign():
    x = tf.constant([-2.0, -0.3, 0.5, 4.0], "float64")
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.softsign(x)
        slope = tape.gradient(y, x)
    expected = -2.0 * np.sign(x) / (1.0 + np.abs(x)) ** 3
    np.testing.assert_allclose(outer.gradient(slope, x), expected)


@pytest.mark.parametrize("is_in_choice", [False, True])
def test_an_operation_without_a_second_derivative(is_in_choice):
    layer = layers.Lambda(tf.nn.local_response_normalization, name="lrn")
    if is_in_choice:
        layer = Choice([layer, layers.Identity(name="identity")])
    influences, _ = functions(joint_model(lambda: layer))
    with pytest.raises(
        ValueError, match="(?s)augmentation=None.*Received.*LRN"
    ):
        influences()


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_without_the_context_the_second_derivative_is_wrong(
    float64,  # noqa: F811
    kind,
):
    """Pins why `exact_statistics` is there; it may go when this fails."""
    model = keras.Sequential(
        [keras.Input((6,)), NORMALISATIONS[kind](), layers.Dense(1)]
    )
    x = tf.constant(np.random.default_rng(0).normal(size=(8, 6)))
    direction = tf.constant(np.random.default_rng(1).normal(size=(8, 6)))

    def twice():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(tf.tanh(model(x, training=True)))
            g = tf.reduce_sum(inner.gradient(loss, x) * direction)
        return outer.gradient(g, x).numpy()

    def slope(distance):
        moved = x + distance * direction
        with tf.GradientTape() as tape:
            tape.watch(moved)
            loss = tf.reduce_sum(tf.tanh(model(moved, training=True)))
        return tape.gradient(loss, moved).numpy()

    truth = central_difference(slope, 0.0, 1e-5)
    assert np.max(np.abs(twice() - truth)) > 1e-3
    with second_derivatives.exact_statistics():
        np.testing.assert_allclose(twice(), truth, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_statistics_that_are_exact_are_those_of_one_replica(dtype):
    """Each replica has those of its own part, as in a step that is plain."""
    parts = [[[0.0], [2.0]], [[10.0], [12.0]]]
    distribution = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    with distribution.scope():
        layer = layers.BatchNormalization(dtype=dtype)
        layer.build((None, 1))

    @tf.function(autograph=False)
    def step(x):
        return distribution.run(
            lambda part: layer(part, training=True), args=(x,)
        )

    before = tf.nn.moments
    values = distribution.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )
    with second_derivatives.exact_statistics():
        found = distribution.experimental_local_results(step(values))
    for each in found:
        np.testing.assert_allclose(
            tf.cast(each, "float32"), [[-1.0], [1.0]], atol=1e-2
        )
    assert tf.nn.moments is before


def test_the_last_of_several_replicas_puts_the_rules_back():
    """They take turns where they exchange something: each may be inside."""
    entry = ops.gradient_registry._registry["MaxPoolGrad"]
    before = tf.nn.moments, entry["type"]

    def ours():
        return [tf.nn.moments is not before[0], entry["type"] is not before[1]]

    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    for stack in (first, second):
        stack.enter_context(second_derivatives.exact_statistics())
        stack.enter_context(second_derivatives.put_right())
    first.close()
    assert ours() == [True, True]
    second.close()
    assert ours() == [False, False]


def test_replicas_that_exchange_statistics_have_the_same_derivatives():
    """One is done with its backward pass while the other one waits."""
    distribution = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    with distribution.scope():
        model = keras.Sequential(
            [
                keras.Input((3, 3, 2)),
                layers.UpSampling2D(2, interpolation="bilinear"),
                layers.BatchNormalization(synchronized=True),
                layers.Flatten(),
                layers.Dense(1),
            ]
        )
    rng = np.random.default_rng(0)
    x, direction = tf.constant(rng.normal(size=(2, 8, 3, 3, 2)), "float32")

    def twice():
        with tf.GradientTape() as outer:
            outer.watch(x)
            with second_derivatives.put_right():
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    loss = tf.reduce_sum(tf.tanh(model(x, training=True)))
                found = inner.gradient(loss, x)
            g = tf.reduce_sum(found * direction)
        return outer.gradient(g, x)

    @tf.function(autograph=False)
    def step():
        return distribution.run(twice)

    one, two = distribution.experimental_local_results(step())
    assert np.max(np.abs(one)) > 1e-2
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
