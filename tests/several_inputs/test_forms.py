"""The forms in which several inputs and outputs come, are kept and refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from tests.auto_model.small_runs import assert_plain
from tests.several_inputs.networks import IMAGES
from tests.several_inputs.networks import NAMED
from tests.several_inputs.networks import NO_DROPOUT
from tests.several_inputs.networks import ORDERED
from tests.several_inputs.networks import OTHER
from tests.several_inputs.networks import QUICK
from tests.several_inputs.networks import N
from tests.several_inputs.networks import X
from tests.several_inputs.networks import Y
from tests.several_inputs.networks import by_name
from tests.several_inputs.networks import in_order
from tests.several_inputs.networks import run


@pytest.fixture(scope="module", params=[by_name, in_order])
def fitted(request):
    return run(
        keras.Model(*request.param()),
        *NAMED,
        compiled={"loss_weights": {"first": 0.3, "other": 2.0}},
        fit={"validation_data": ORDERED},
        **QUICK,
    )


def outputs_of(model, x):
    found = model.predict(x)
    if isinstance(found, dict):
        assert list(model.joint.network.output) == list(found)
        return found["first"], found["other"]
    assert isinstance(found, list)
    return found


def test_losses_and_metrics_are_those_of_the_outputs(fitted):
    first, other = outputs_of(fitted, NAMED[0])
    powers = np.exp(other)
    other = powers / powers.sum(axis=1, keepdims=True)
    rows = np.arange(N)
    losses = {
        "first": -np.mean(np.log(first[rows, Y])),
        "other": -np.mean(np.log(other[rows, OTHER])),
    }
    found = fitted.evaluate(*ORDERED, return_dict=True)
    assert found["loss"] == pytest.approx(
        0.3 * losses["first"] + 2.0 * losses["other"], rel=1e-4
    )
    for name, loss in losses.items():
        assert found[f"{name}_loss"] == pytest.approx(loss, rel=1e-4)
    assert found["other_accuracy"] == pytest.approx(
        np.mean(other.argmax(axis=1) == OTHER)
    )
    history = fitted.history.history
    for name, value in found.items():
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-5)
        assert len(history[name]) == 2 and history[name][0] > 0


def test_a_saved_run_goes_on(fitted, tmp_path):
    fitted.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    expected = outputs_of(fitted, ORDERED[0])
    for ours, theirs in zip(
        outputs_of(loaded, NAMED[0]), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    loaded.fit(*ORDERED, batch_size=16, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="keys"):
        loaded.fit({"image": IMAGES, "x": X}, NAMED[1], verbose=0)


def test_what_is_exported_is_plain_and_keeps_its_names(fitted, tmp_path):
    plain = fitted.export_model()
    assert_plain(plain)
    assert set(plain.output_names) == {"first", "other"}
    assert [tensor.name for tensor in plain.inputs] == ["image", "vector"]
    fitted.export(tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    found = served(image=tf.constant(IMAGES), vector=tf.constant(X))
    expected = outputs_of(fitted, ORDERED[0])
    by_width = {tensor.shape[1]: tensor for tensor in found.values()}
    for theirs in expected:
        ours = by_width[theirs.shape[1]]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_litert_file_has_all_inputs_and_outputs(fitted, tmp_path):
    path = tmp_path / "model.tflite"
    fitted.export(path, format="litert")
    with pytest.warns(UserWarning, match="deprecated"):
        interpreter = tf.lite.Interpreter(str(path))
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == ["image", "vector"]
    assert len(signature["outputs"]) == 2
    with pytest.raises(ValueError, match="one input"):
        fitted.export(
            tmp_path / "int8.tflite",
            format="litert",
            quantize="int8",
            representative_data=IMAGES,
        )


def test_datasets_batched_or_not_are_predicted_and_evaluated(fitted):
    dataset = tf.data.Dataset.from_tensor_slices(NAMED)
    expected = outputs_of(fitted, ORDERED[0])
    for given in (
        dataset,
        dataset.batch(10),
        dataset.map(lambda x, y: x),
        tf.data.Dataset.from_tensor_slices(ORDERED),
    ):
        found = outputs_of(fitted, given)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(
        fitted.evaluate(dataset), fitted.evaluate(*ORDERED), atol=1e-5
    )


def test_a_learned_dropout_rate_stays_in_the_exported_model(fitted):
    plain = fitted.export_model()
    (found,) = [x for x in plain.layers if isinstance(x, layers.Dropout)]
    assert found.rate == pytest.approx(0.2)


def test_several_images_are_not_augmented_by_themselves():
    def space(shape, num_classes):
        images = [keras.Input(each) for each in shape]
        x = layers.Concatenate()([layers.Flatten()(x) for x in images])
        return keras.Model(images, layers.Dense(num_classes)(x))

    x = (IMAGES, IMAGES)
    model = run(space, x, Y, augmentation="auto", epochs=1, **NO_DROPOUT)
    assert model.joint.policy.augmentation is None
    layer = DifferentiableAugmentation(["Invert"], levels=1)
    with pytest.raises(ValueError, match="one input that is an image"):
        run(space, x, Y, augmentation=layer)


@pytest.mark.parametrize("augmentation", ["auto", "layer", None])
@pytest.mark.parametrize("network", [by_name, in_order])
def test_an_image_of_one_value_is_not_augmented(network, augmentation):
    x = {**NAMED[0], "image": np.zeros_like(IMAGES)}
    if augmentation == "layer":
        augmentation = DifferentiableAugmentation(["Invert"], 1, (0.0, 1.0))
    arguments = {"augmentation": augmentation, "epochs": 1, **QUICK}
    if augmentation is None:
        run(keras.Model(*network()), x, NAMED[1], **arguments)
        return
    told = "augmentation=None. Received: value 0.0 for input 'image'"
    with pytest.raises(ValueError, match=told):
        run(keras.Model(*network()), x, NAMED[1], **arguments)


def test_mixers_leave_no_input_behind():
    layer = DifferentiableAugmentation(["Invert"], 1, (0.0, 1.0), cutmix=0.5)
    with pytest.raises(ValueError, match="hyperparameter `mixup`"):
        run(keras.Model(*in_order()), *ORDERED, augmentation=layer)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ({"image": IMAGES}, NAMED[1], r"keys \['image', 'vector'\]"),
        ({"image": IMAGES, "words": X}, NAMED[1], r"keys \['image', 'vector'"),
        ((IMAGES, X, X), ORDERED[1], "Received: inputs 3 in order"),
        (IMAGES, NAMED[1], "Received: inputs one without a name"),
        (NAMED[0], Y, "Received: outputs one without a name"),
        (NAMED[0], {"first": Y}, r"keys \['first', 'other'\]"),
        ((IMAGES, X[:50]), ORDERED[1], "as long as there are labels"),
        (NAMED[0], (Y, OTHER[:50]), "same number of examples"),
        ((X, IMAGES), ORDERED[1], "must map examples of shape"),
        (NAMED[0], (OTHER, Y), r"classes 0\.\.1.*up to 2"),
        ({"image": IMAGES, "vector": X * np.nan}, NAMED[1], "NaN"),
        ({"image": IMAGES, "vector": X[:, 0]}, NAMED[1], "axis of their own"),
    ],
)
def test_data_that_do_not_fit_are_refused_at_once(x, y, match):
    network = keras.Model(*in_order())
    before = network.get_weights()
    with pytest.raises(ValueError, match=match):
        run(network, x, y, **QUICK)
    for ours, theirs in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_built_in_spaces_have_one_input():
    with pytest.raises(ValueError, match="one input and one output"):
        run("auto", *ORDERED, **NO_DROPOUT)
