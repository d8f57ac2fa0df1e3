"""`keras_dha.FusedBatchNormalization` against Keras in double precision."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.fused_normalization import FusedBatchNormalization

SHAPE = (6, 5, 4, 3)


def numbers(seed, shape=SHAPE):
    return np.random.default_rng(seed).normal(1.0, 2.0, shape)


def twice(layer, dtype):
    """Returns output, derivatives, second derivatives and statistics."""
    layer.build(SHAPE)
    trained = [v.value for v in layer.trainable_variables]
    for k, variable in enumerate(layer.trainable_variables):
        variable.assign([0.5 + k, 1.5, 2.0])
    x, weights = (tf.constant(numbers(k), dtype) for k in (0, 1))
    with tf.GradientTape() as outer:
        outer.watch([x, *trained])
        with tf.GradientTape() as inner:
            inner.watch([x, *trained])
            y = layer(x, training=True)
            loss = tf.reduce_sum(tf.tanh(y) * weights)
        first = inner.gradient(loss, [x, *trained])
        along = sum(tf.reduce_sum(g * tf.sin(g + 1.0)) for g in first)
    second = outer.gradient(along, [x, *trained])
    moved = [layer.moving_mean.value, layer.moving_variance.value]
    return [v.numpy() for v in (y, *first, *second, *moved)]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"momentum": 0.0, "epsilon": 0.1},
        {"center": False},
        {"scale": False},
        {"center": False, "scale": False},
    ],
    ids=str,
)
def test_it_is_batch_normalisation_and_twice_differentiable(arguments):
    found = twice(FusedBatchNormalization(**arguments), "float32")
    # Keras' synchronised statistics have a right second derivative.
    exact = layers.BatchNormalization(
        **arguments, synchronized=True, dtype="float64"
    )
    for ours, theirs in zip(found, twice(exact, "float64"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


def calls_of_kernel(monkeypatch, layer, x, **kwargs):
    """Returns how often a call of the layer used the kernel."""
    kernel, calls = tf.compat.v1.nn.fused_batch_norm, []

    def counted(*arguments, **options):
        calls.append(arguments)
        return kernel(*arguments, **options)

    monkeypatch.setattr(tf.compat.v1.nn, "fused_batch_norm", counted)
    layer(x, **kwargs)
    return len(calls)


# Keras has it from 3.14 on.
renormalised = (
    [({"renorm": True}, SHAPE, 0, {"training": True})]
    if "renorm" in inspect.signature(layers.BatchNormalization).parameters
    else []
)


@pytest.mark.parametrize(
    ("arguments", "shape", "uses", "called"),
    [
        ({}, SHAPE, 1, {"training": True}),
        ({"axis": 3}, SHAPE, 1, {"training": True}),
        ({}, SHAPE, 0, {"training": False}),
        ({"trainable": False}, SHAPE, 0, {"training": True}),
        ({"axis": 1}, SHAPE, 0, {"training": True}),
        ({}, (6, 3), 0, {"training": True}),
        ({"dtype": "float64"}, SHAPE, 0, {"training": True}),
        *renormalised,
        (
            {},
            SHAPE,
            0,
            {"training": True, "mask": np.arange(120).reshape(6, 5, 4) % 3 > 0},
        ),
    ],
    ids=str,
)
def test_what_the_kernel_is_not_for_is_done_as_keras_does_it(
    monkeypatch, arguments, shape, uses, called
):
    x = numbers(2, shape).astype("float32")
    ours = FusedBatchNormalization(**arguments)
    theirs = layers.BatchNormalization(**arguments)
    assert calls_of_kernel(monkeypatch, ours, x, **called) == uses
    theirs(x, **called)
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_allclose(
        ours(x, **called), theirs(x, **called), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_statistics_of_half_precision_are_of_single_precision(dtype):
    x = 100.0 + numbers(3, (64, 32, 32, 3))
    layer = FusedBatchNormalization(momentum=0.0, dtype=dtype)
    y = layer(tf.constant(x, dtype.removeprefix("mixed_")), training=True)
    assert y.dtype == dtype.removeprefix("mixed_")
    rounded = tf.cast(tf.cast(x, y.dtype), "float64").numpy()
    np.testing.assert_allclose(
        layer.moving_mean, rounded.mean((0, 1, 2)), rtol=1e-4
    )
    np.testing.assert_allclose(
        layer.moving_variance, rounded.var((0, 1, 2)), rtol=1e-3
    )


def test_it_is_saved_and_loaded_with_all_its_arguments(tmp_path):
    model = keras.Sequential(
        [keras.Input(SHAPE[1:]), FusedBatchNormalization(momentum=0.7)]
    )
    model.layers[0].moving_mean.assign([1.0, 2.0, 3.0])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is FusedBatchNormalization
    assert loaded.layers[0].get_config() == model.layers[0].get_config()
    x = numbers(4).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
