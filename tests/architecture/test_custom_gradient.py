"""Gradients of one's own, and that nothing is kept of their graphs."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha.architecture.custom_gradient import custom_gradient


def tripled(decorator):
    """Returns a function whose gradient is said to be three."""

    @decorator
    def run(x):
        return tf.sin(x), lambda upstream: 3.0 * upstream

    return run


def graph_of(decorator):
    """Returns a weak reference to the graph of a derivative, and its value."""
    run = tripled(decorator)

    @tf.function(autograph=False)
    def derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = run(x)
        return tape.gradient(y, x)

    x = tf.constant(0.5)
    value = float(derivative(x))
    return weakref.ref(derivative.get_concrete_function(x).graph), value


def is_kept(reference):
    gc.collect()
    return reference() is not None


def test_the_graph_is_forgotten_and_has_the_gradient():
    graph, value = graph_of(custom_gradient)
    assert value == 3.0
    assert not is_kept(graph)


def test_tensorflow_itself_keeps_the_graph():
    # Once this fails, `tf.custom_gradient` will do.
    graph, value = graph_of(tf.custom_gradient)
    assert value == 3.0
    assert is_kept(graph)


def test_a_derivative_can_be_taken_later_of_a_function_that_is_kept():
    run = tf.function(tripled(custom_gradient), autograph=False)
    x = tf.constant([0.5, -1.0])
    np.testing.assert_array_equal(run(x), tf.sin(x))
    gc.collect()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [3.0, 3.0])


def test_eagerly_it_is_that_of_tensorflow():
    run, x = tripled(custom_gradient), tf.constant(0.5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = run(x)
    assert float(tape.gradient(y, x)) == 3.0


def network(input_shape, num_classes):
    x = image = keras.Input(input_shape)
    x = keras_dha.Choice(
        [layers.Conv2D(2, size, padding="same") for size in (1, 3)]
    )(x)
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(x)))


@pytest.mark.parametrize("method", ["auto", "darts"])
def test_a_run_leaves_no_graph_of_its_network_behind(method):
    def names():
        gc.collect()
        graphs = [
            o for o in gc.get_objects() if type(o).__name__ == "FuncGraph"
        ]
        # What pipelines of data are made of is small, and TensorFlow's.
        return [g.name for g in graphs if not g.name.startswith("Dataset")]

    rng = np.random.default_rng(0)
    x, y = rng.random((64, 8, 8, 1), "float32"), rng.integers(0, 2, 64)
    before, within = names(), []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: within.append(names())
    )
    model = keras_dha.AutoModel(network, method=method, seed=0)
    model.fit(x, y, epochs=4, batch_size=16, verbose=0, callbacks=[look])
    assert max(map(len, within)) > len(before)
    del model, look
    assert sorted(names()) == sorted(before)
