"""Exports are judged by TensorFlow's loader and the LiteRT interpreter."""

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import export
from keras_dha.export import export_model
from keras_dha.float32 import in_float32
from tests.references import saying_units

interpreter = pytest.importorskip("ai_edge_litert.interpreter")


def small_model(augmenting=False, dtype="float32"):
    image = keras.Input((8, 8, 1), name="image", dtype=dtype)
    x = keras.layers.Rescaling(1 / 16)(image)
    if augmenting:
        x = keras.layers.RandomFlip(seed=0)(x)
        x = keras.layers.RandomRotation(0.5, seed=0)(x)
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


@pytest.fixture(scope="module")
def digits():
    loaded = pytest.importorskip("sklearn.datasets").load_digits()
    return loaded.images[..., None].astype("float32"), loaded.target


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    model = small_model()
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
    )
    model.fit(digits[0][:1400], digits[1][:1400], epochs=4, verbose=0)
    return model


def litert_predict(path, images):
    net = interpreter.Interpreter(model_path=str(path))
    run = net.get_signature_runner("serving_default")
    name = next(iter(run.get_input_details()))
    return np.concatenate(
        [run(**{name: image[None]})["output_0"] for image in images]
    )


def test_served_litert_and_predict_agree(trained, digits, tmp_path):
    images = digits[0][1400:1420]
    saved = export_model(trained, tmp_path / "m" / "1")
    lite = export_model(trained, tmp_path / "m.tflite", "litert")
    expected = trained.predict(images, verbose=0)
    loaded = tf.saved_model.load(saved)
    served = loaded.signatures["serving_default"]
    np.testing.assert_allclose(
        served(image=tf.constant(images))["output_0"], expected, atol=1e-5
    )
    np.testing.assert_allclose(
        litert_predict(lite, images), expected, atol=1e-5
    )


def test_signature_keeps_name_shape_and_dtype(tmp_path):
    model = small_model(dtype="uint8")
    loaded = tf.saved_model.load(export_model(model, tmp_path / "1"))
    assert set(loaded.signatures) == {"serve", "serving_default"}
    _, inputs = loaded.signatures["serving_default"].structured_input_signature
    assert inputs == {
        "image": tf.TensorSpec((None, 8, 8, 1), tf.uint8, name="image")
    }


@pytest.mark.parametrize("format", ["tf_saved_model", "litert"])
def test_random_layers_rest_when_served(format, tmp_path):
    model = small_model(augmenting=True)
    images = np.random.default_rng(1).uniform(0, 16, (4, 8, 8, 1))
    images = images.astype("float32")
    augmented = keras.Model(model.input, model.layers[3].output)
    # The images are such that augmenting them shows.
    assert np.abs(augmented(images, training=True) - images / 16).max() > 0.1
    expected = model.predict(images, verbose=0)
    if format == "litert":
        path = export_model(model, tmp_path / "m.tflite", format)
        served = litert_predict(path, images)
    else:
        path = export_model(model, tmp_path / "1", format)
        loaded = tf.saved_model.load(path)
        served = loaded.serve(images)
    np.testing.assert_allclose(served, expected, atol=1e-5)


class AlwaysNoisy(keras.layers.Layer):
    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_a_model_that_is_random_in_use_is_refused(tmp_path):
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, AlwaysNoisy()(image))
    with pytest.raises(ValueError, match="random outside training"):
        export_model(model, tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


def test_sequential_and_two_inputs(tmp_path):
    row = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = np.ones((2, 3), "float32")
    loaded = tf.saved_model.load(export_model(row, tmp_path / "row"))
    served = loaded.serve(x)
    np.testing.assert_allclose(served, row.predict(x, verbose=0), atol=1e-5)

    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    two = keras.Model({"a": a, "b": b}, keras.layers.Subtract()([a, b]))
    loaded = tf.saved_model.load(export_model(two, tmp_path / "two"))
    got = loaded.serve({"a": tf.constant(x), "b": tf.constant(3 * x)})
    np.testing.assert_allclose(got, -2 * x)


@pytest.mark.parametrize(
    ("quantize", "share", "agreement"),
    [("float16", 0.65, 1.0), ("int8", 0.45, 0.97)],
)
def test_quantized_files_are_smaller_and_right(
    trained, digits, tmp_path, quantize, share, agreement
):
    held_out = digits[0][1400:]
    data = digits[0][:100] if quantize == "int8" else None
    full = export_model(trained, tmp_path / "full.tflite", "litert")
    path = export_model(
        trained, tmp_path / "q.tflite", "litert", quantize, data
    )
    assert path.stat().st_size < share * full.stat().st_size
    expected = trained.predict(held_out, verbose=0).argmax(-1)
    # The net has learned something, or agreement would mean little.
    assert (expected == digits[1][1400:]).mean() > 0.8
    got = litert_predict(path, held_out).argmax(-1)
    assert (got == expected).mean() >= agreement


def test_int8_runs_on_integers(trained, digits, tmp_path):
    path = export_model(
        trained, tmp_path / "q.tflite", "litert", "int8", digits[0][:50]
    )
    net = interpreter.Interpreter(model_path=str(path))
    kinds = [t["dtype"] for t in net.get_tensor_details()]
    assert kinds.count(np.int8) > kinds.count(np.float32)


def test_litert_files_need_no_flex(trained, tmp_path):
    path = export_model(trained, tmp_path / "m.tflite", "litert")
    net = interpreter.Interpreter(model_path=str(path))
    names = [op["op_name"] for op in net._get_ops_details()]
    assert names and not [n for n in names if n.startswith("Flex")]


def onnx_session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(str(path))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_onnx_and_predict_agree(digits, tmp_path, dtype):
    pytest.importorskip("tf2onnx")
    model = small_model(dtype=dtype)
    session = onnx_session(export_model(model, tmp_path / "m.onnx", "onnx"))
    images = digits[0][:20].astype(dtype)
    # As many as there are: the batch is free.
    (found,) = session.run(["output_0"], {"image": images})
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


@pytest.fixture(params=["mixed_bfloat16", "float64"])
def other_dtype(request):
    """What layers compute in by default."""
    keras.config.set_dtype_policy(request.param)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_what_computes_in_another_dtype_is_written_in_float32(
    digits, tmp_path, format, other_dtype
):
    """Nested layers, shared ones, which are one still, and operations."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image", dtype="float32")
    inner = keras.Sequential([keras.layers.Conv2D(4, 3)])
    shared = keras.layers.Dense(4)
    # It has constants beside its weights.
    norm = keras.layers.Normalization(axis=None, dtype="float32")
    norm.adapt(digits[0])
    x = keras.layers.Rescaling(2.0)(norm(inputs))
    x = shared(shared(keras.layers.Flatten()(inner(x))[:, :4]))
    x = keras.layers.Softmax(dtype="float32")(keras.layers.Dense(3)(x))
    model = keras.Model(inputs, x)
    before = model.get_config()
    images = digits[0][:20]
    if format == "onnx":
        pytest.importorskip("tf2onnx")
        path = export_model(model, tmp_path / "m.onnx", "onnx")
        (found,) = onnx_session(path).run(None, {"image": images})
    else:
        path = export_model(model, tmp_path / "m.tflite", "litert")
        found = litert_predict(path, images)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.ptp(expected) > 0.2
    assert model.get_config() == before
    # Two graphs of float32 agree to its digits: there are no others in them.
    if format == "onnx":
        exact = in_float32(model)
        np.testing.assert_allclose(
            found, exact.predict(images, verbose=0), atol=1e-5
        )


@pytest.mark.parametrize(
    ("dtype", "error", "is_refused"),
    [
        ("mixed_bfloat16", 0.005, False),
        ("mixed_bfloat16", 0.2, True),
        ("float32", 0.005, True),
        ("float64", 0.005, True),
    ],
)
def test_in_bfloat16_a_graph_may_round_otherwise(dtype, error, is_refused):
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float32"),
            keras.layers.Dense(3, dtype=dtype),
            keras.layers.Softmax(dtype="float32"),
        ]
    )

    def serve(x):
        return [model(x, training=False) + error]

    if not is_refused:
        export._check_agreement(model, serve)
        return
    with pytest.raises(ValueError, match="does not predict what"):
        export._check_agreement(model, serve)


def test_a_loss_of_ones_own_needs_no_registration(tmp_path, digits):
    class Squares(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    outputs = keras.layers.Dense(2, dtype="mixed_bfloat16")(x)
    model = keras.Model(inputs, outputs)
    model.compile(loss=Squares())
    path = export_model(model, tmp_path / "m.tflite", "litert")
    images = digits[0][:5]
    expected = model.predict(images, verbose=0).astype("float32")
    found = litert_predict(path, images)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.2)


def test_a_dtype_that_cannot_be_changed_is_refused(tmp_path):
    dense = keras.layers.Dense(2, dtype="mixed_bfloat16", name="inner")
    model = keras.Sequential(
        [keras.Input((3, 4)), keras.layers.TimeDistributed(dense)]
    )
    with pytest.raises(ValueError, match="float32 alone.*'inner'"):
        export_model(model, tmp_path / "m.tflite", "litert")


class Net(keras.Model):
    """A subclassed model, which takes the dtype that is the default."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return 2.0 * self.dense(inputs)


Said = saying_units(Net)


class Table(keras.layers.Layer):
    """A layer that Keras cannot write down."""

    def __init__(self, values, **kwargs):
        super().__init__(**kwargs)
        self.values = values

    def call(self, inputs):
        return inputs * self.values


def test_a_subclassed_model_is_put_into_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        said = Said(3)
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Net(3)(said(inputs)))
    x = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(in_float32(model)(x), model(x), atol=0.05)
    assert in_float32(model).layers[1].dense.compute_dtype == "float32"


def test_a_model_that_cannot_be_put_into_float32_is_refused():
    """Of one that says nothing of its arguments Keras would make another."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        inputs = keras.Input((4,))
        unsaid = keras.Model(inputs, Net(3)(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    table = Table(np.ones(4), dtype="bfloat16")
    for model in (unsaid, keras.Model(inputs, table(inputs))):
        with pytest.raises(ValueError, match="float32 alone: build the layers"):
            in_float32(model)

    class Doubling(keras.Model):
        def __init__(self):
            dense = keras.layers.Dense(2, dtype="bfloat16")
            super().__init__(inputs, dense(inputs))

        def call(self, inputs):
            return 2.0 * super().call(inputs)

    with pytest.raises(ValueError, match="what its `call` does"):
        in_float32(Doubling())


def two_branches():
    image = keras.Input((4, 4, 1), name="image")
    age = keras.Input((2,), name="age")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Concatenate()([x, age])
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(x)
    side = keras.layers.Dense(2, activation="softmax", name="side")(x)
    return image, age, kind, side


@pytest.mark.parametrize("named", [True, False])
def test_onnx_keeps_the_names_of_inputs_and_outputs(tmp_path, named):
    pytest.importorskip("tf2onnx")
    image, age, kind, side = two_branches()
    model = keras.Model([image, age], [kind, side])
    outputs = ["output_0", "output_1"]
    rng = np.random.default_rng(0)
    given = {
        "image": rng.normal(size=(3, 4, 4, 1)).astype("float32"),
        "age": rng.normal(size=(3, 2)).astype("float32"),
    }
    inputs = [given["image"], given["age"]]
    if named:
        model = keras.Model(
            {"image": image, "age": age}, {"side": side, "kind": kind}
        )
        outputs, inputs = ["kind", "side"], given
    session = onnx_session(export_model(model, tmp_path / "m.onnx", "onnx"))
    found = session.run(outputs, given)
    expected = model.predict(inputs, verbose=0)
    expected = [expected[n] for n in outputs] if named else expected
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_what_onnx_cannot_say_is_refused(tmp_path):
    pytest.importorskip("tf2onnx")
    x = keras.Input((3, 3))
    for layer in (Unlite(), AlwaysNoisy()):
        model = keras.Model(x, layer(x))
        with pytest.raises(ValueError, match="cannot be written as an ONNX"):
            export_model(model, tmp_path / "m.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_files_that_say_otherwise_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Wrong(onnxruntime.InferenceSession):
        def run(self, *args):
            return [output + 0.1 for output in super().run(*args)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(ValueError, match="does not predict what.* by 0.1$"):
        export_model(small_model(), tmp_path / "m.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_looked_up_in_a_table(tmp_path):
    kind = keras.Input((2,), name="kind", dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(5, 3)(kind))
    model = keras.Model(kind, keras.layers.Dense(2)(x))
    given = np.array([[0, 4], [3, 1]], "int32")
    served = tf.saved_model.load(export_model(model, tmp_path / "m" / "1"))
    expected = model.predict(given, verbose=0)
    np.testing.assert_allclose(served.serve(given), expected, atol=1e-6)
    session = onnx_session(export_model(model, tmp_path / "m.onnx", "onnx"))
    (got,) = session.run(None, {"kind": given})
    np.testing.assert_allclose(got, expected, atol=1e-6)


class Adding(keras.layers.Layer):
    """A large number, and noise that is small beside it."""

    def __init__(self, noise, **kwargs):
        super().__init__(**kwargs)
        self.noise = noise

    def call(self, inputs):
        drawn = tf.random.uniform([], -self.noise, self.noise)
        return inputs + 1e6 * tf.constant([1.0, 0.0]) + drawn


@pytest.mark.parametrize(("noise", "is_refused"), [(1.0, False), (1e5, True)])
def test_outputs_are_compared_by_their_size(tmp_path, noise, is_refused):
    x = keras.Input((2,))
    model = keras.Model(x, Adding(noise)(x))
    if is_refused:
        with pytest.raises(ValueError, match="predictions that differ by"):
            export_model(model, tmp_path / "m")
    else:
        export_model(model, tmp_path / "m")


def test_onnx_asks_for_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(
        ImportError, match=r"tf2onnx, which .*keras_dha\[onnx\]"
    ):
        export_model(small_model(), tmp_path / "m.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


class Unlite(keras.layers.Layer):
    """An operation that LiteRT lacks."""

    def call(self, inputs):
        return tf.linalg.inv(tf.linalg.matmul(inputs, inputs) + tf.eye(3))


def test_what_litert_cannot_say_is_refused(tmp_path):
    x = keras.Input((3, 3))
    model = keras.Model(x, Unlite()(x))
    with pytest.raises(ValueError, match="cannot be written as a LiteRT"):
        export_model(model, tmp_path / "m.tflite", "litert")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onnx"}, r"end in \.onnx"),
        ({"quantize": "int8", "format": "onnx"}, r"end in \.onnx"),
        ({"format": "tfjs"}, "one of .*Received: format='tfjs'"),
        ({"quantize": "int4"}, "Received: quantize='int4'"),
        ({"quantize": "int8"}, 'for format="litert" only'),
        ({"format": "litert"}, r"end in \.tflite"),
        ({"representative_data": [1]}, "and only there"),
    ],
)
def test_unsupported_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_model(small_model(), tmp_path / "1", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_data_of_the_right_shape(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match="needed for quantize"):
        export_model(small_model(), path, "litert", "int8")
    with pytest.raises(ValueError, match=r"Received: shape=\(5, 9, 9, 1\)"):
        export_model(
            small_model(), path, "litert", "int8", np.zeros((5, 9, 9, 1))
        )


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "m.keras", "m.h5"])
def test_a_folder_by_the_name_of_a_file_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"is a folder.*{name}"):
        export_model(small_model(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_unbuilt_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="built"):
        export_model(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "1")


def test_existing_targets_are_refused_or_replaced(tmp_path):
    folder, file = tmp_path / "1", tmp_path / "m.tflite"
    folder.mkdir()
    export_model(small_model(), folder)  # an empty folder is fine
    (folder / "mine").write_text("mine")
    file.write_text("mine")
    # A folder in the place of a file.
    other = tmp_path / "2"
    other.write_text("mine")
    for path in (folder, other, file):
        format = "litert" if path == file else "tf_saved_model"
        with pytest.raises(FileExistsError, match="Received: path="):
            export_model(small_model(), path, format)
        export_model(small_model(), path, format, overwrite=True)
    assert not (folder / "mine").exists()
    assert (other / "saved_model.pb").exists()
    assert file.read_bytes() != b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "m.tflite"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, existing):
    path = tmp_path / "1"
    if existing:
        path.mkdir()
        (path / "mine").write_text("mine")

    def full_disk(model, serve):
        assert list(tmp_path.rglob("saved_model.pb"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_dha.export._check_agreement", full_disk)
    with pytest.raises(OSError, match="No space"):
        export_model(small_model(), path, overwrite=True)
    left = [p.relative_to(tmp_path) for p in tmp_path.rglob("*")]
    expected = ["1", "1/mine"] if existing else []
    assert sorted(map(str, left)) == expected


def test_an_unwritable_place_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(keras.export, "ExportArchive", pytest.fail)
    with pytest.raises(OSError, match="Cannot write here.*Received: path="):
        export_model(small_model(), tmp_path / "file" / "1")


def test_readable_by_others(tmp_path):
    path = export_model(small_model(), tmp_path / "1")
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask
