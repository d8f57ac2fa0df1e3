"""Networks at given weights, against networks that have these weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.joint_model import JointModel
from keras_dha.weight_vector import WeightVector

IMAGES = np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype("float32")


def convolution(name, penalty=None):
    return keras.Sequential(
        [
            layers.Conv2D(2, 3, padding="same", kernel_regularizer=penalty),
            layers.BatchNormalization(),
        ],
        name=name,
    )


def network():
    """A choice, one within a candidate, one of shared weights, and a node."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, kernel_regularizer="l2")(x)
    x = Choice(
        [convolution("a", "l2"), convolution("b", "l2"), layers.Identity()],
        name="plain",
    )(x)
    inner = Choice([convolution("c"), convolution("d")], name="inner")
    x = Choice(
        [keras.Sequential([convolution("e"), inner]), convolution("f")],
        name="outer",
    )(x)
    common = layers.Conv2D(2, 3, padding="same", name="common")
    x = Choice(
        [
            keras.Sequential([common, layers.ReLU()], name="g"),
            keras.Sequential([common, convolution("h")], name="i"),
        ],
        name="sharing",
    )(x)
    x = NodeChoice(
        [[convolution(f"j{e}"), convolution(f"k{e}")] for e in range(2)],
        keep=1,
        name="node",
    )([x, image])
    x = layers.Dropout(0.5)(x)
    y = layers.Dense(3, activity_regularizer="l2")(layers.Flatten()(x))
    return keras.Model(image, y)


def at(path):
    """Returns the network with a path, and other weights than its own."""
    model = network()
    for decision, index in zip(find_decisions(model), path, strict=True):
        decision.freeze(index)
    vector = WeightVector(model)
    noise = np.random.default_rng(1).normal(size=vector.size)
    return model, vector, tf.constant(noise, vector.dtype)


def loss_of(model, images):
    y = model(images, training=True)
    return tf.reduce_mean(tf.sin(y)) + tf.add_n(model.losses)


PATHS = [(0, 0, 1, 1, 1), (2, 1, 0, 0, 2)]


@pytest.mark.parametrize("once", [True, False], ids=["once", "often"])
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_loss_gradient_and_statistics_are_those_of_the_weights(path, once):
    model, vector, weights = at(path)

    @tf.function(autograph=False)
    def given(images):
        pieces = vector.pieces(weights)
        with tf.GradientTape() as tape:
            tape.watch(pieces)
            with vector.given(pieces, moves=True, once=once):
                loss = loss_of(model, images)
        gradient = tape.gradient(loss, pieces, unconnected_gradients="zero")
        return loss, vector.join(gradient)

    before = vector.read()
    found = given(IMAGES)
    np.testing.assert_array_equal(vector.read(), before)
    state = [v.numpy() for v in model.non_trainable_variables]

    model, vector, weights = at(path)
    vector.write(weights)

    @tf.function(autograph=False)
    def own(images):
        with tf.GradientTape() as tape:
            loss = loss_of(model, images)
        gradient = tape.gradient(
            loss, vector.tensors(), unconnected_gradients="zero"
        )
        return loss, vector.join(gradient)

    for ours, theirs in zip(found, own(IMAGES), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(state, model.non_trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_nothing_moves_if_it_shall_not():
    model, vector, weights = at(PATHS[0])
    before = [v.numpy() for v in model.variables]

    @tf.function(autograph=False)
    def run(images):
        with vector.given(vector.pieces(weights)):
            return model(images, training=True)

    run(IMAGES)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_candidates_of_an_edge_are_one_piece():
    _, vector, weights = at(PATHS[0])
    sizes = [int(tf.size(p)) for p in vector.pieces(weights)]
    norm, conv = 2 + 2, 2 * 2 * 9 + 2
    one = conv + norm
    dense = [32 * 3, 3]
    stem = [2 * 2, 2]
    # With weights that candidates have in common, once.
    common = conv + one
    expected = [*stem, 2 * one, 4 * one, common, 2 * one, 2 * one, *dense]
    assert sizes == expected
    np.testing.assert_array_equal(
        tf.concat(vector.pieces(weights), axis=0), weights
    )


class Looping(layers.Layer):
    """Uses its weights again and again, in the body of a loop."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(2, "tanh", kernel_regularizer="l2")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x):
        return keras.ops.fori_loop(0, 3, lambda _, y: y + self.inner(y), x)


def test_weights_that_are_used_in_a_loop_and_behind_it():
    """By the penalty on them, and by a second call of the layer."""
    keras.utils.set_random_seed(0)
    loop, image = Looping(), keras.Input((4, 4, 2))
    y = layers.Dense(3)(layers.Flatten()(loop(loop(image))))
    model = keras.Model(image, y)
    vector = WeightVector(model)

    @tf.function(autograph=False)
    def given(images, weights):
        pieces = vector.pieces(weights)
        with tf.GradientTape() as tape:
            tape.watch(pieces)
            with vector.given(pieces):
                loss = loss_of(model, images)
        return loss, vector.join(tape.gradient(loss, pieces))

    noise = np.random.default_rng(1).normal(size=vector.size, scale=0.1)
    found = given(IMAGES, tf.constant(noise, vector.dtype))
    vector.write(tf.constant(noise, vector.dtype))
    with tf.GradientTape() as tape:
        loss = loss_of(model, IMAGES)
    gradient = vector.join(tape.gradient(loss, vector.tensors()))
    for ours, theirs in zip(found, (loss, gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "path", [(0, 0, 1, 1, 1), (2, 1, 0, 0, 0), (1, 0, 0, 1, 1)], ids=str
)
def test_kernels_that_are_active_are_those_that_have_a_gradient(path):
    model, vector, _ = at(path)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.sin(model(IMAGES, training=True)))
    gradients = tape.gradient(
        loss, vector.tensors(), unconnected_gradients="zero"
    )
    active = [part.numpy() for part in vector.split(vector.active())]
    assert [part.shape for part in active] == [v.shape for v in gradients]
    for part, gradient in zip(active, gradients, strict=True):
        if part.ndim > 1:
            assert np.all(part == np.any(gradient))


def sharing(decisions=(None, None), is_outside=False):
    """Two choices of one layer or nothing; the layer, perhaps once more."""
    keras.utils.set_random_seed(0)
    shared = layers.Conv2D(2, 3, padding="same", name="shared")
    x = image = keras.Input((4, 4, 2))
    for k, decision in enumerate(decisions):
        x = Choice(
            [
                keras.Sequential([shared, layers.ReLU()], name=f"a{k}"),
                layers.Identity(name=f"b{k}"),
            ],
            decision=decision,
            name=f"choice{k}",
        )(x)
    x = shared(x) if is_outside else x
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(x))), shared


def is_active(model, shared, path):
    for decision, index in zip(find_decisions(model), path, strict=True):
        decision.freeze(index)
    vector = WeightVector(model)
    active = vector.active()
    if active is None:
        return True
    found = zip(vector.variables, vector.split(active), strict=True)
    return any(np.all(part) for v, part in found if v is shared.kernel)


def test_weights_that_several_choices_share_are_active_if_one_runs_them():
    model, shared = sharing()
    for path in [(0, 0), (0, 1), (1, 0)]:
        assert is_active(model, shared, path)
    # Where both choices decide alike it is known when it does not run.
    model, shared = sharing([Decision(2)] * 2)
    assert is_active(model, shared, [0])
    assert not is_active(model, shared, [1])


def test_weights_that_are_used_outside_of_choices_are_active():
    assert is_active(*sharing([None], is_outside=True), [1])
    assert not is_active(*sharing([None]), [1])


def test_a_step_moves_weights_that_one_of_several_choices_runs():
    model, shared = sharing()
    joint = JointModel(
        model,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=DSNAS(),
    )
    for decision, index in zip(find_decisions(model), (0, 1), strict=True):
        decision.freeze(index)
    before = shared.kernel.numpy()
    step = tf.function(joint.train_step, autograph=False)
    step((tf.constant(IMAGES), tf.range(6) % 3), tf.constant(1.0))
    assert np.any(shared.kernel.numpy() != before)


class Adding(layers.Layer):
    """A layer that adds a loss of what it gives."""

    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs**2))
        return inputs


@pytest.mark.parametrize("strategy", [DSNAS, DARTS])
@pytest.mark.parametrize("is_nested", [False, True])
def test_losses_that_candidates_add_are_refused(is_nested, strategy):
    """They are made in a branch, and TensorFlow finds them out of scope.

    In a mixture they would count in full, whatever the candidate's weight.
    """
    adding = Adding(name="adding")
    if is_nested:
        adding = keras.Sequential([adding], name="around")
    inputs = keras.Input((3,))
    x = Choice([adding, layers.Dense(3)], name="choice")(inputs)
    joint = JointModel(
        keras.Model(inputs, layers.Dense(2)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=strategy(),
    )
    batch = tf.ones((2, 3)), tf.constant([0, 1])
    step = tf.function(joint.train_step, autograph=False)
    with pytest.raises(ValueError, match="`add_loss`.*Received: candidate=a"):
        step(batch, tf.constant(1.0))


def test_biases_and_scales_do_not_decay_whatever_their_rank():
    image = keras.Input((4, 6))
    x = layers.MultiHeadAttention(2, 3, name="attention")(image, image)
    x = layers.LayerNormalization(axis=[1, 2], name="scale")(x)
    x = layers.GRU(5, name="gru")(x)
    vector = WeightVector(keras.Model(image, layers.Dense(3, name="out")(x)))
    decayed = dict(
        zip(
            [variable.path for variable in vector.variables],
            vector.split(vector.decayed()),
            strict=True,
        )
    )
    ranks = {p: len(d.shape) for p, d in decayed.items() if "bias" in p}
    assert set(ranks.values()) == {1, 2}
    for path, values in decayed.items():
        is_kernel = path.endswith("kernel")
        np.testing.assert_array_equal(values, float(is_kernel), err_msg=path)


def test_weights_of_few_digits_are_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, dtype="bfloat16")(inputs))
    with pytest.raises(ValueError, match="mixed_bfloat16.*bfloat16"):
        WeightVector(model)


def test_what_credits_the_architecture_is_left_out_where_nobody_asks():
    model = network()
    vector = WeightVector(model)
    noise = np.random.default_rng(1).normal(size=vector.size)
    pieces = vector.pieces(tf.constant(noise, vector.dtype))
    for k, decision in enumerate(find_decisions(model)):
        decision.strategy = DSNAS()
        decision.logits.assign(np.arange(decision.num_candidates))
        decision.take(np.full(decision.edges, k % 2))

    def run(pieces, credits):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(pieces)
            with vector.given(pieces, once=True, credits=credits):
                loss = loss_of(model, IMAGES)
        return loss, tape.gradient(loss, pieces)

    run, found, size = tf.function(run, autograph=False), {}, {}
    for credits in (True, False):
        found[credits] = run(pieces, credits)
        graph = run.get_concrete_function(pieces, credits).graph
        size[credits] = len(graph.get_operations())
    # They are 1, and a product with it is the other factor to the last bit.
    tf.nest.map_structure(np.testing.assert_array_equal, *found.values())
    assert size[False] < size[True] - 20 * len(find_decisions(model))
