"""The layer as a Keras layer: gate, inputs, saving, arguments."""

import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.augmentation.arguments import DEFAULTS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.augmentation.operations import OPERATIONS
from keras_dha.augmentation.policy import Policy
from tests.augmentation import references

NAMES = [operation.name for operation in OPERATIONS]
INVERT = {"operations": ["Invert"], "levels": 1, "flip": None, "shift": None}
ARGUMENTS = {
    "operations": ("Rotate", "Invert"),
    "levels": 3,
    "value_range": (0.0, 1.0),
    "flip": 0.25,
    "shift": None,
    "length": 2,
    "sub_policies": 5,
    "application": 0.4,
    "mixup": 0.3,
    "cutmix": None,
    "clean": 0.2,
    "policy": None,
    "estimator": "relaxed",
    "trainable": False,
    "default_training": True,
    "seed": 7,
}


def images(count=6, channels=3):
    batch = references.noise_images(count, 10, 14, channels)
    return tf.constant(batch, tf.float32)


def built(channels=3, **arguments):
    layer = DifferentiableAugmentation(**{"seed": 1, **arguments})
    layer.build((None, 10, 14, channels))
    return layer


def model_of(layer):
    model = keras.Sequential(
        [
            keras.Input((10, 14, 3)),
            layer,
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    return model


# The gate.


@pytest.mark.parametrize("training", [None, False])
def test_does_nothing_unless_training(training):
    batch = images()
    output = built(**INVERT)(batch, training=training)
    np.testing.assert_array_equal(output, batch)


def test_augments_in_training():
    batch = images()
    output = built(**INVERT)(batch, training=True)
    np.testing.assert_allclose(output, 255.0 - batch, atol=1e-4)


def test_predict_and_evaluate_do_not_augment():
    model = model_of(DifferentiableAugmentation(**INVERT))
    batch, targets = images().numpy(), np.zeros([6, 2], "float32")
    dense = model.layers[-1]
    expected = batch.reshape(6, -1) @ dense.kernel.numpy()
    np.testing.assert_allclose(
        model.predict(batch, verbose=0), expected, rtol=1e-4, atol=1e-2
    )
    loss = model.evaluate(batch, targets, verbose=0)
    np.testing.assert_allclose(loss, np.mean(expected**2), rtol=1e-4)


def test_exported_model_does_not_augment(tmp_path):
    model = model_of(DifferentiableAugmentation(**INVERT))
    model.export(str(tmp_path / "1"), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    served = loaded.serve(images())
    np.testing.assert_allclose(served, model(images()), rtol=1e-5, atol=1e-3)


def test_plain_fit_leaves_the_policy():
    layer = DifferentiableAugmentation(seed=1)
    model = model_of(layer)
    for logits in layer.trainable_variables:
        logits.assign(tf.random.stateless_normal(logits.shape, [1, 2]))
    before = layer.policy()
    # It would decay logits that it has no gradients of.
    model.optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(images() / 255.0, np.zeros([6, 2]), batch_size=4, verbose=0)
    assert layer.policy() == before


# Inputs.


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32"])
def test_shape_and_dtype_are_kept(channels, dtype):
    layer = built(channels)
    batch = tf.cast(images(9, channels), dtype)
    output = layer(batch, training=True)
    assert output.shape == batch.shape
    assert output.dtype == batch.dtype
    assert np.any(output != batch)


def test_integers_are_rounded():
    arguments = {"operations": ["Rotate"], "flip": None, "shift": None}
    batch = images()
    real = built(**arguments)(batch, training=True).numpy()
    whole = built(**arguments)(tf.cast(batch, tf.uint8), training=True)
    assert np.abs(real - np.rint(real)).max() > 0.4
    np.testing.assert_array_equal(whole, np.rint(real))


def test_single_image_equals_batch_of_one():
    single = built()(images()[0], training=True)
    batch = built()(images()[:1], training=True)
    assert single.shape == (10, 14, 3)
    np.testing.assert_array_equal(single, batch[0])


@pytest.mark.parametrize("key", ["labels", "targets", "weight"])
@pytest.mark.parametrize(
    "value",
    [
        {"a": tf.range(6), "b": tf.eye(6)},
        (tf.range(6), 2 * tf.range(6)),
        None,
    ],
)
def test_entries_of_a_single_image_keep_their_structure(key, value):
    def part(index):
        return keras.tree.map_structure(
            lambda x: None if x is None else x[index],
            {"images": images(), key: value},
        )

    single = built()(part(0), training=True)
    batch = built()(part(slice(1)), training=True)
    np.testing.assert_array_equal(single["images"], batch["images"][0])
    keras.tree.assert_same_structure(single, part(0))
    keras.tree.map_structure(
        np.testing.assert_array_equal, single[key], part(0)[key]
    )
    keras.tree.assert_same_structure(batch, part(slice(1)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("labels", [None, np.arange(6), tf.range(6)])
def test_numpy_input_of_a_new_layer(training, labels):
    batch = images().numpy()
    layer = DifferentiableAugmentation(**INVERT)
    if labels is None:
        output = layer(batch, training=training)
    else:
        found = layer({"images": batch, "labels": labels}, training=training)
        output = found["images"]
        np.testing.assert_array_equal(found["labels"], np.arange(6))
    expected = 255.0 - batch if training else batch
    np.testing.assert_allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": images(), "label": tf.range(6)},
        (images(), tf.range(6)),
        [images(), images()],
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_inputs_without_images_are_refused(inputs, training):
    with pytest.raises(ValueError, match="Received: inputs="):
        DifferentiableAugmentation(**INVERT)(inputs, training=training)


@pytest.mark.parametrize("key", ["labels", "targets", "weight"])
def test_other_entries_pass_through(key):
    labels = tf.constant([3, 1, 4, 1, 5, 9], tf.int64)
    inputs = {"images": images(), key: labels}
    layer = DifferentiableAugmentation(**INVERT)
    output = layer(inputs, training=True)
    assert set(output) == set(inputs)
    assert output[key].dtype == tf.int64
    np.testing.assert_array_equal(output[key], labels)
    np.testing.assert_allclose(
        output["images"], 255.0 - inputs["images"], atol=1e-4
    )


def test_what_would_have_to_move_along_is_refused():
    inputs = {"images": images(), "segmentation_masks": images()}
    with pytest.raises(ValueError, match="segmentation_masks"):
        built()(inputs, training=True)


def test_grey_images_without_channels_are_not_one_image_in_silence():
    layer = DifferentiableAugmentation()
    with pytest.warns(UserWarning, match=r"Received: shape=\(6, 10, 14\)"):
        layer(images()[..., 0], training=True)


@pytest.mark.parametrize("is_dict", [True, False])
def test_images_of_several_sizes_are_refused(is_dict):
    ragged = tf.ragged.stack([images()[0], images()[1, :5]])
    inputs = {"images": ragged} if is_dict else ragged
    layer = DifferentiableAugmentation(**INVERT)
    with pytest.raises(ValueError, match="Received: a ragged batch"):
        layer(inputs, training=True)
    assert layer(inputs, training=False) is not None


def test_two_names_of_the_labels_are_refused():
    labels = tf.range(6)
    inputs = {"images": images(), "labels": labels, "targets": labels}
    with pytest.raises(ValueError, match="Received: inputs with .*'targets'"):
        built()(inputs, training=True)


@pytest.mark.parametrize("name", NAMES)
def test_integer_and_float_images_agree(name):
    layer = built(operations=[name])
    batch = tf.cast(images(12), tf.uint8)
    choices = layer.sample(12, tf.constant([1, 2]))
    seed = tf.constant([3, 4])
    from_integer = layer.apply(batch, choices, seed)
    from_float = layer.apply(tf.cast(batch, tf.float32), choices, seed)
    assert from_integer.dtype == tf.float32
    np.testing.assert_array_equal(from_integer, from_float)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1)])
def test_value_range_is_only_a_unit(name, value_range):
    low, high = value_range
    plain = built(operations=[name])
    scaled = built(operations=[name], value_range=value_range)
    choices = plain.sample(6, tf.constant([1, 2]))
    seed = tf.constant([3, 4])
    batch = images()
    expected = plain.apply(batch, choices, seed)
    units = batch / 255.0 * (high - low) + low
    output = scaled.apply(units, choices, seed)
    output = (output - low) / (high - low) * 255.0
    np.testing.assert_allclose(output, expected, atol=0.01)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("batched", [False, True])
def test_in_a_pipeline(dtype, batched):
    layer = DifferentiableAugmentation(**INVERT)
    batch = tf.cast(images(), dtype)
    data = tf.data.Dataset.from_tensor_slices(
        {"images": batch, "labels": tf.range(6)}
    )
    data = data.batch(4) if batched else data
    data = data.map(lambda x: layer(x, training=True))
    output = list(data if batched else data.batch(6))
    assert output[0]["images"].dtype == dtype
    joined = np.concatenate([part["images"] for part in output])
    np.testing.assert_allclose(
        joined, 255.0 - tf.cast(batch, tf.float32), atol=1e-4
    )
    labels = np.concatenate([part["labels"] for part in output])
    np.testing.assert_array_equal(labels, np.arange(6))


def test_policy_set_after_a_pipeline_built_the_layer_is_used():
    layer = DifferentiableAugmentation(
        operations=["Invert", "Identity"], levels=1, flip=None, shift=None
    )
    data = tf.data.Dataset.from_tensors(images())
    data = data.map(lambda x: layer(x, training=True))
    uniform = layer.policy()
    for probabilities in [(0.0, 1.0), (1.0, 0.0)]:
        config = {**uniform.get_config(), "probabilities": probabilities}
        layer.set_policy(Policy.from_config(config))
        (output,) = data
        expected = 255.0 - images() if probabilities[0] else images()
        np.testing.assert_allclose(output, expected, atol=1e-4)


def test_same_seed_same_images():
    first, second = built(seed=5), built(seed=5)
    for _ in range(2):
        a, b = first(images(), training=True), second(images(), training=True)
        np.testing.assert_array_equal(a, b)
    assert np.any(a != first(images(), training=True))


def test_the_global_generator_is_left_alone(monkeypatch):
    """TensorFlow refuses it where operations are to be deterministic."""

    def refused():
        raise RuntimeError("cannot be called if determinism is enabled")

    monkeypatch.setattr(tf.random, "get_global_generator", refused)
    built()


# Configuration and saving.


def test_config_names_every_argument():
    layer = DifferentiableAugmentation(**ARGUMENTS)
    parameters = inspect.signature(DifferentiableAugmentation).parameters
    assert set(ARGUMENTS) == set(parameters) - {"kwargs"}
    config = json.loads(json.dumps(layer.get_config()))
    for name, value in ARGUMENTS.items():
        if name == "estimator":
            assert config[name]["class_name"] == "Relaxed"
            continue
        expected = list(value) if isinstance(value, tuple) else value
        assert config[name] == expected
    again = DifferentiableAugmentation.from_config(config)
    assert again.get_config() == layer.get_config()


def test_policy_in_config():
    policy = Policy.uniform(["Rotate", "Cutout"], levels=3, flip=None)
    layer = DifferentiableAugmentation(policy=policy)
    config = json.loads(json.dumps(layer.get_config()))
    again = DifferentiableAugmentation.from_config(config)
    again.build((None, 8, 8, 3))
    assert again.policy().operations == policy.operations
    assert again.policy().flip is None
    assert again.levels == 3


# Keras itself converts its variables in a way that NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_saved_model_keeps_what_was_learned(tmp_path):
    layer = DifferentiableAugmentation(
        operations=["Rotate", "Invert", "Cutout"], levels=2, shift=None
    )
    model = model_of(layer)
    layer.distribution.variables.sub_policy.assign([1.0, 2.0, 3.0])
    layer.distribution.variables.magnitude.assign(
        [[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]
    )
    layer.distribution.variables.base.assign([-1.0, 0.0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[0].policy() == layer.policy()
    np.testing.assert_array_equal(again(images()), model(images()))


def test_layer_is_ready_for_keras():
    layer = DifferentiableAugmentation()
    assert not layer.supports_jit
    assert layer.compute_output_shape((None, 8, 8, 3)) == (None, 8, 8, 3)
    output = layer(keras.Input((8, 8, 3), dtype="uint8"))
    assert output.shape == (None, 8, 8, 3)
    assert output.dtype == "uint8"


def test_variables():
    layer = built(levels=4)
    shapes = [tuple(v.shape) for v in layer.trainable_variables]
    assert shapes == [(16,), (16, 4), (2,)]
    assert {v.dtype for v in layer.variables} >= {"float32"}
    frozen = built(trainable=False)
    assert frozen.trainable_variables == []


def test_mixed_precision_leaves_the_logits_in_float32():
    layer = built(dtype="mixed_float16")
    assert layer.distribution.variables.sub_policy.dtype == "float32"
    assert layer(images(), training=True).dtype == tf.float32


# The policy.


@pytest.mark.parametrize("channels", [1, 3])
def test_starts_uniform(channels):
    policy = built(channels).policy()
    expected = [n for n in NAMES if channels == 3 or n != "Color"]
    assert list(policy.operations) == expected
    assert policy.probabilities == pytest.approx(
        [1 / len(expected)] * len(expected)
    )
    assert policy.magnitudes == pytest.approx(np.arange(1, 11) / 10)
    assert policy.flip == pytest.approx(0.5)
    assert policy.shift == pytest.approx(0.5)


def test_initial_base_probabilities():
    policy = built(flip=0.1, shift=None).policy()
    assert policy.flip == pytest.approx(0.1, abs=1e-6)
    assert policy.shift is None


def test_policy_round_trip():
    policy = Policy(
        operations=("Color", "Rotate"),
        probabilities=(0.9, 0.1),
        magnitudes=(0.2, 0.3, 0.9),
        level_probabilities=((0.2, 0.3, 0.5), (0.0, 0.0, 1.0)),
        flip=None,
        shift=0.8,
    )
    layer = built(policy=policy)
    np.testing.assert_allclose(
        layer.policy().level_probabilities,
        policy.level_probabilities,
        atol=1e-6,
    )
    assert layer.policy().probabilities == pytest.approx((0.9, 0.1))
    assert layer.policy().shift == pytest.approx(0.8)
    layer.distribution.variables.sub_policy.assign([3.0, 4.0])
    layer.set_policy(policy)
    assert layer.policy().probabilities == pytest.approx((0.9, 0.1))
    assert layer.policy().magnitudes == policy.magnitudes


def test_a_policy_that_does_not_fit_is_refused():
    layer = built(operations=["Rotate", "Invert"], levels=2)
    for policy in [
        Policy.uniform(["Invert", "Rotate"], levels=2),
        Policy.uniform(["Rotate", "Invert"], levels=3),
        Policy.uniform(["Rotate", "Invert"], levels=2, flip=None),
        layer.policy().get_config(),
    ]:
        with pytest.raises(ValueError, match="Received: policy="):
            layer.set_policy(policy)


def test_unbuilt_layer_has_no_policy():
    with pytest.raises(ValueError, match="Received: built=False"):
        DifferentiableAugmentation().policy()


@pytest.mark.parametrize(
    "use",
    [
        lambda layer: layer.sample(4, (1, 2)),
        lambda layer: layer.apply(images(), None, (1, 2)),
        lambda layer: layer.score_gradient(None, tf.ones(6)),
    ],
)
def test_nothing_is_drawn_before_there_is_a_policy(use):
    with pytest.raises(ValueError, match="Received: built=False"):
        use(DifferentiableAugmentation())


def test_numbers_of_numpy_are_numbers():
    layer = DifferentiableAugmentation(
        levels=np.int64(4), length=np.int32(2), sub_policies=np.int64(3)
    )
    assert (layer.levels, layer.length, layer.sub_policies) == (4, 2, 3)
    levels = np.linspace(0.25, 1.0, 4)
    assert DifferentiableAugmentation(levels=levels).levels == tuple(levels)


@pytest.mark.parametrize(
    "arguments",
    [
        {"operations": ["Rotat"]},
        {"operations": []},
        {"operations": ["Rotate", "Rotate"]},
        {"levels": 0},
        {"levels": 2.5},
        {"value_range": (1, 0)},
        {"value_range": (0, 0)},
        {"value_range": 255},
        {"flip": 0.0},
        {"flip": 1.0},
        {"shift": -0.5},
        {"shift": float("nan")},
        {"shift": True},
        {"flip": "often"},
        {"clean": 1.0},
        {"clean": "some"},
        {"policy": {"operations": ["Rotate"]}},
        {"policy": 3},
        {"sub_policies": 0},
        {"length": 2, "sub_policies": False},
    ],
)
def test_bad_arguments_are_refused(arguments):
    # What is wrong with a policy is said of the field.
    name = "" if "policy" in arguments else list(arguments)[-1]
    with pytest.raises(ValueError, match=f"Received: {name}"):
        DifferentiableAugmentation(**arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operations", ["Invert"]),
        ("operations", "Rotate"),
        ("levels", 3),
        ("levels", np.linspace(0.1, 0.7, 4)),
        ("flip", None),
        ("shift", 0.2),
        ("length", 2),
        ("sub_policies", 3),
        ("application", 0.5),
        ("mixup", 0.3),
        ("cutmix", 0.3),
    ],
)
def test_arguments_must_agree_with_the_policy(name, value):
    policy = Policy.uniform(["Rotate"], levels=4, flip=0.1, shift=None)
    with pytest.raises(ValueError, match=f"Received: {name}="):
        DifferentiableAugmentation(**{"policy": policy, name: value})
    with pytest.raises(ValueError, match=f"Received: {name}="):
        policy.to_layer(**{name: value})
    # A layer's default may be nobody's; what `to_layer` is given is not.
    with pytest.raises(ValueError, match=r"Received: flip=0\.5"):
        policy.to_layer(flip=0.5)
    parameters = inspect.signature(DifferentiableAugmentation).parameters
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS


def test_arguments_may_repeat_the_policy():
    policy = Policy.uniform(["Rotate"], levels=4, flip=0.1, shift=None)
    layer = policy.to_layer(
        operations=["Rotate"], levels=[0.25, 0.5, 0.75, 1.0], flip=0.1
    )
    layer.build((None, 8, 8, 3))
    assert layer.policy().flip == pytest.approx(0.1)
    changed = dataclasses.replace(policy, flip=None).to_layer()
    changed.build((None, 8, 8, 3))
    assert changed.policy().flip is None


def test_colour_operations_need_colour_images():
    with pytest.raises(ValueError, match="Received: channels=1"):
        built(channels=1, operations=["Color"])
    with pytest.raises(ValueError, match="Received: channels=None"):
        built(channels=None)
