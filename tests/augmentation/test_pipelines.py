"""The layer by itself: KerasCV's pipelines, other data, several devices."""

import math

import keras
import keras_cv
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.augmentation.operations import OPERATIONS
from keras_dha.augmentation.policy import Policy
from tests.augmentation import references

INVERT = {
    "operations": ["Invert"],
    "levels": (1.0,),
    "flip": None,
    "shift": None,
}


def images(count=6, height=10, width=14, channels=3):
    batch = references.noise_images(count, height, width, channels)
    return tf.constant(batch, tf.float32)


def test_in_kerascv_augmenter():
    layer = DifferentiableAugmentation(**INVERT, default_training=True)
    augmenter = keras_cv.layers.Augmenter([layer, layer])
    inputs = {"images": images(), "labels": tf.one_hot(tf.range(6), 6)}
    output = augmenter(inputs)
    np.testing.assert_allclose(output["images"], inputs["images"], atol=1e-3)
    output = keras_cv.layers.Augmenter([layer])(inputs)
    expected = 255.0 - inputs["images"]
    np.testing.assert_allclose(output["images"], expected, atol=1e-3)
    np.testing.assert_array_equal(output["labels"], inputs["labels"])


@pytest.mark.parametrize("batched", [False, True])
def test_in_kerascv_random_augmentation_pipeline(batched):
    layer = DifferentiableAugmentation(**INVERT, default_training=True)
    pipeline = keras_cv.layers.RandomAugmentationPipeline(
        [layer], augmentations_per_image=1, rate=0.5, seed=1
    )
    batch = images(20)
    data = tf.data.Dataset.from_tensor_slices(batch)
    data = data.batch(20) if batched else data
    output = np.concatenate(
        [np.reshape(x, [-1, 10, 14, 3]) for x in data.map(pipeline)]
    )
    inverted = np.abs(output - (255.0 - batch)).max(axis=(1, 2, 3)) < 1e-3
    same = np.abs(output - batch).max(axis=(1, 2, 3)) < 1e-3
    assert np.all(inverted | same)
    assert 2 < inverted.sum() < 18


def test_default_training_yields_to_what_is_said():
    layer = DifferentiableAugmentation(**INVERT, default_training=True)
    batch = images()
    np.testing.assert_array_equal(layer(batch, training=False), batch)
    model = keras.Sequential([keras.Input((10, 14, 3)), layer])
    np.testing.assert_array_equal(
        model.predict(batch, verbose=0), batch.numpy()
    )


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("length", [1, 2])
def test_dtypes(dtype, length):
    layer = DifferentiableAugmentation(length=length, seed=1)
    batch = tf.cast(images(24), dtype)
    output = layer(batch, training=True)
    assert output.dtype == batch.dtype
    exact = DifferentiableAugmentation(length=length, seed=1)(
        tf.cast(batch, tf.float32), training=True
    )
    # Rounding is the only difference.
    unit = {"uint8": 0.51, "float16": 0.13, "bfloat16": 1.1, "float32": 1e-6}
    np.testing.assert_allclose(
        tf.cast(output, tf.float32), exact, atol=unit[dtype]
    )


@pytest.mark.parametrize(
    "shape",
    [(9, 9, 1), (5, 31, 3), (33, 8, 6), (2, 2, 3), (40, 1, 1), (1, 16, 3)],
)
def test_any_size_and_channels(shape):
    layer = DifferentiableAugmentation(length=2, seed=1)
    batch = tf.random.stateless_uniform([32, *shape], [1, 2], maxval=255.0)
    output = layer(batch, training=True)
    assert output.shape == batch.shape
    assert 0.0 <= np.min(output) and np.max(output) <= 255.0
    colour = "Color" in layer.policy().operations
    assert colour == (shape[-1] == 3)


def test_sizes_may_change_from_batch_to_batch():
    layer = DifferentiableAugmentation(seed=1)
    for size in (8, 20):
        batch = images(4, size, size)
        assert layer(batch, training=True).shape == batch.shape


# Without any search.


def test_rand_augment_applies_so_many_operations_at_one_magnitude():
    layer = DifferentiableAugmentation.rand_augment(
        length=2, magnitude=0.3, operations=["Invert", "Brightness"], seed=3
    )
    layer.build((None, 10, 14, 3))
    assert not layer.trainable_variables
    choices = layer.sample(4000, tf.constant([1, 2]))
    assert np.all(choices.applied) and not np.any(choices.flip)
    np.testing.assert_allclose(layer.magnitude_of(choices), 0.3)
    counts = np.bincount(choices.sub_policy, minlength=4)
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.03)


@pytest.mark.parametrize("magnitude", [0, 9, math.nan, "strong", None])
def test_rand_augment_refuses_other_magnitudes(magnitude):
    with pytest.raises(ValueError, match="Received: magnitude="):
        DifferentiableAugmentation.rand_augment(2, magnitude)


def test_trivial_augment_applies_one_operation_at_any_magnitude():
    layer = DifferentiableAugmentation.trivial_augment()
    layer.build((None, 10, 14, 3))
    assert len(layer.policy().operations) == len(OPERATIONS)
    choices = layer.sample(6000, tf.constant([1, 2]))
    assert choices.level.shape == (6000, 1)
    counts = np.bincount(choices.level[:, 0], minlength=30)
    np.testing.assert_allclose(counts / 6000, 1 / 30, atol=0.01)


LEARNED = Policy(
    operations=("Color", "Invert", "Rotate"),
    probabilities=(0.2, 0.6, 0.2),
    magnitudes=(1.0,),
    level_probabilities=((1.0,),) * 3,
    flip=0.5,
)


def test_a_policy_from_json_on_other_data():
    layer = Policy.from_json(LEARNED.to_json()).to_layer(
        value_range=(0, 1), seed=1
    )
    batch = images(200, 21, 9) / 255.0
    output = layer(batch, training=True).numpy()
    assert not layer.trainable_variables
    straight = np.abs(output - (1.0 - batch)).max(axis=(1, 2, 3)) < 1e-4
    mirrored = (
        np.abs(output - (1.0 - batch[:, :, ::-1])).max(axis=(1, 2, 3)) < 1e-4
    )
    assert 90 < straight.sum() + mirrored.sum() < 150
    assert min(straight.sum(), mirrored.sum()) > 30


def test_a_policy_loses_its_colour_operations_and_says_so():
    layer = LEARNED.to_layer()
    with pytest.warns(UserWarning, match="no colour.*'Color'"):
        layer.build((None, 10, 14, 1))
    assert layer.policy().operations == ("Invert", "Rotate")
    assert layer.policy().probabilities == pytest.approx((0.75, 0.25))


def test_a_policy_of_another_version_is_refused():
    config = {**LEARNED.get_config(), "version": 2}
    with pytest.raises(ValueError, match="Received: version=2"):
        Policy.from_config(config)


def test_policies_of_unknown_operations_are_refused():
    config = {**LEARNED.get_config(), "operations": ["A", "B", "C"]}
    with pytest.raises(ValueError, match="Received: operations="):
        Policy.from_config(config).to_layer()


# Devices, precision, compilers.


def test_replicas_do_what_one_device_does():
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(
        devices[:2], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    arguments = {"length": 2, "clean": 0.1, "seed": 5}
    with strategy.scope():
        layer = DifferentiableAugmentation(**arguments)
        layer.build((None, 10, 14, 3))
    single = DifferentiableAugmentation(**arguments)
    batch = images(16)
    data = tf.data.Dataset.from_tensor_slices(batch).batch(16)
    distributed = strategy.experimental_distribute_dataset(data)

    @tf.function
    def run(part):
        return strategy.run(lambda x: layer(x, training=True), args=(part,))

    for part in distributed:
        parts = strategy.experimental_local_results(run(part))
    assert [len(p) for p in parts] == [8, 8]
    np.testing.assert_allclose(
        tf.concat(parts, 0), single(batch, training=True), atol=1e-3
    )
    # The halves were not augmented alike.
    same = strategy.experimental_local_results(
        strategy.run(lambda: layer(images(8), training=True))
    )
    assert np.abs(same[0] - same[1]).max() > 10


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_in_a_model(policy):
    layer = DifferentiableAugmentation(dtype=policy, seed=1, trainable=False)
    model = keras.Sequential(
        [
            keras.Input((10, 14, 3)),
            layer,
            keras.layers.Flatten(),
            keras.layers.Dense(2, dtype=policy),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(images(), np.zeros([6, 2]), batch_size=3, verbose=0)
    assert {v.dtype for v in layer.variables} >= {"float32"}


def test_xla_cannot_compile_it_and_the_layer_says_so():
    layer = DifferentiableAugmentation(seed=1)
    layer.build((None, 10, 14, 3))
    assert layer.supports_jit is False
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        compiled(images())
    # So Keras does not ask for it.
    model = keras.Sequential([keras.Input((10, 14, 3)), layer])
    model.compile("sgd", "mse")
    assert not model.jit_compile
