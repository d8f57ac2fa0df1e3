"""Export: a plain Keras model becomes a file that serves predictions.

Whatever the format, the model is traced once with `training=False`, so that
random layers inside it rest. A SavedModel and an ONNX file are run once and
compared with the model before they get their name; so is the SavedModel that a
LiteRT file is converted from, but not the file, whose interpreter is a package
of its own. Each is written beside its target and renamed at the end: a target
is either whole or not there.
"""

import contextlib
import pathlib

import keras
import numpy as np
import tensorflow as tf

from keras_dha import extras
from keras_dha.atomic import written_beside
from keras_dha.float32 import HALVES
from keras_dha.float32 import in_float32
from keras_dha.float32 import layers_in
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import inputs_of

FORMATS = ("tf_saved_model", "litert", "onnx")
# What the path of a file has to end in.
_ENDINGS = {"litert": ".tflite", "onnx": ".onnx"}
_FILES = (*_ENDINGS.values(), ".keras", ".h5")
QUANTIZATIONS = (None, "float16", "int8")
# How many values the inputs have that models are compared on: as many as
# pixels of 8 bits, and fewer for those who look them up in a table.
_SIZES = (256, 2, 1)


def export_model(
    model,
    path,
    format="tf_saved_model",
    quantize=None,
    representative_data=None,
    overwrite=False,
):
    """Writes a trained model for serving.

    The input keeps its shape, dtype and name in every format, `"int8"`
    included: quantisation happens inside. But in LiteRT and ONNX all floats
    are float32, whatever layers compute in. A SavedModel has the signatures
    `"serve"` and `"serving_default"`; TF Serving wants its path to end in a
    version number. A LiteRT file uses built-in operations only. ONNX needs
    the extra `onnx`; outputs that are no dict are named `output_0` and so on,
    as in a SavedModel.

    Args:
        model: Built `keras.Model`, functional or sequential.
        path: Where to write: a folder for `"tf_saved_model"`, a file that
            ends in `.tflite` for `"litert"`, and in `.onnx` for `"onnx"`.
            Missing parents are made.
        format: `"tf_saved_model"`, `"litert"` or `"onnx"`.
        quantize: For `"litert"`: `None`, `"float16"` (half the size) or
            `"int8"` (a quarter, integer arithmetic).
        representative_data: For `"int8"`: array of about 100 inputs as they
            come in use, from which the ranges of activations are measured.
        overwrite: Whether to replace what is at `path`.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: An argument is not supported, the model cannot be
            expressed in the format, or its predictions are random.
        FileExistsError: There is something at `path` already.
        ImportError: The packages for ONNX are missing.
        OSError: `path` cannot be written to.

    Example:

    >>> from keras_dha import export
    >>> export.export_model(
    ...     model, "digits.tflite", "litert", "int8", x_train[:100]
    ... )
    """
    path = pathlib.Path(path)
    _check_arguments(model, path, format, quantize, representative_data)
    if format == "onnx":
        extras.require(("onnxruntime", "tf2onnx"), "onnx", "An ONNX file")
    if not overwrite:
        refuse_existing(path)
    if format != "tf_saved_model":
        model = in_float32(model)
    with written_beside(path) as target:
        if format == "tf_saved_model":
            _write_saved_model(model, target)
        elif format == "onnx":
            _write_onnx(model, target)
        else:
            content = _litert(
                model, target.parent, quantize, representative_data
            )
            target.write_bytes(content)
    return path


def refuse_existing(path):
    """Raises `FileExistsError` if a file or non-empty folder is at `path`."""
    path = pathlib.Path(path)
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise FileExistsError(
            "There is something at this path already; choose another or "
            f"pass overwrite=True. Received: path={str(path)!r}"
        )


def _check_arguments(model, path, format, quantize, representative_data):
    _check_format(path, format)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built `keras.Model`. Received: model={model!r}"
        )
    if quantize not in QUANTIZATIONS:
        raise ValueError(
            f"`quantize` must be one of {QUANTIZATIONS}. "
            f"Received: quantize={quantize!r}"
        )
    if quantize and format != "litert":
        raise ValueError(
            '`quantize` is for format="litert" only. '
            f"Received: format={format!r}, quantize={quantize!r}"
        )
    if (quantize == "int8") != (representative_data is not None):
        raise ValueError(
            '`representative_data` is needed for quantize="int8", and only '
            f"there. Received: quantize={quantize!r}, representative_data="
            + ("None" if representative_data is None else "an array")
        )
    if representative_data is not None:
        _check_representative(model, representative_data)


def _check_format(path, format):
    if format not in FORMATS:
        raise ValueError(
            f"`format` must be one of {FORMATS}. Received: format={format!r}"
        )
    ending = _ENDINGS.get(format, path.suffix)
    if format == "tf_saved_model" and path.suffix in _FILES:
        raise ValueError(
            "A SavedModel is a folder, and this is the name of a file: give "
            "format='litert' or 'onnx', or for .keras save "
            f"`export_model()`. Received: path={str(path)!r}, format={format!r}"
        )
    if path.suffix != ending:
        raise ValueError(
            f"The path of a file of format {format!r} must end in {ending}. "
            f"Received: path={str(path)!r}"
        )


def _check_representative(model, data):
    if len(model.inputs) != 1:
        raise ValueError(
            'quantize="int8" works for models with one input. '
            f"Received: a model with {len(model.inputs)} inputs"
        )
    expected = tuple(model.inputs[0].shape[1:])
    got = np.shape(data)
    fits = len(got) == len(expected) + 1 and all(
        e in (None, g) for e, g in zip(expected, got[1:], strict=True)
    )
    if not fits or not got[0]:
        raise ValueError(
            "`representative_data` must be an array of model inputs, of "
            f"shape {(None, *expected)}. Received: shape={got}"
        )


def _write_saved_model(model, folder):
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda inputs: model(inputs, training=False),
        input_signature=[_signature(model)],
    )
    archive.write_out(str(folder), verbose=False)
    loaded = tf.saved_model.load(str(folder))  # its functions hold it weakly
    _check_agreement(model, lambda x: keras.tree.flatten(loaded.serve(x)))


def _write_onnx(model, file):
    import onnxruntime
    import tf2onnx

    names = _output_names(model)

    def named(inputs):
        outputs = keras.tree.flatten(model(inputs, training=False))
        return dict(zip(names, outputs, strict=True))

    signature = [_signature(model)]
    with _adapted_as_arrays(model):
        converted, _ = tf2onnx.convert.from_function(
            tf.function(named, input_signature=signature, autograph=False),
            input_signature=signature,
        )
    content = converted.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(
            content, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # What ONNX has no operation for is in the file under its own name.
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "This model cannot be written as an ONNX file of standard "
            f"operations. Received: {reason}"
        ) from error
    inputs = [tensor.name for tensor in keras.tree.flatten(inputs_of(model))]

    def serve(example):
        values = [np.asarray(x) for x in keras.tree.flatten(example)]
        return session.run(names, dict(zip(inputs, values, strict=True)))

    _check_agreement(model, serve)
    file.write_bytes(content)


@contextlib.contextmanager
def _adapted_as_arrays(model):
    """Lets what `Normalization` layers adapted to be constants of a graph.

    As the tensors that they are tf2onnx takes them for inputs.
    """
    layers = find_layers(model, keras.layers.Normalization)
    before = [(layer, layer.mean, layer.variance) for layer in layers]
    try:
        for layer, mean, variance in before:
            layer.mean, layer.variance = np.asarray(mean), np.asarray(variance)
        yield
    finally:
        for layer, mean, variance in before:
            layer.mean, layer.variance = mean, variance


def _output_names(model):
    is_sequential = isinstance(model, keras.Sequential)
    outputs = model.outputs if is_sequential else model.output
    if isinstance(outputs, dict):
        return keras.tree.flatten({name: name for name in outputs})
    return [f"output_{k}" for k in range(len(model.outputs))]


def _signature(model):
    return keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype, name=x.name), inputs_of(model)
    )


def _check_agreement(model, serve):
    """Refuses a model whose served predictions are not the model's own.

    Args:
        model: `keras.Model`.
        serve: Function from inputs to a flat list of outputs, of what was
            written.
    """
    example, expected = _example(model)
    # In bfloat16 a graph rounds otherwise than what runs at once.
    error = 1e-1 if layers_in(HALVES, model) else 1e-3
    # Twice: a saved random generator may draw what the model drew, once.
    served = [*serve(example), *serve(example)]
    for ours, theirs in zip(
        2 * keras.tree.flatten(expected), served, strict=True
    ):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        # Of outputs without a scale of their own, as logits are.
        size = max(1.0, np.max(np.abs(ours), initial=0.0))
        if not np.allclose(ours, theirs, rtol=error, atol=error / 10 * size):
            raise ValueError(
                "The served model does not predict what the model predicts: "
                "probably a layer is random outside training too; remove it "
                "before the export. Received: predictions that differ by "
                f"{np.max(np.abs(ours - theirs)):.2g}"
            )


def _example(model):
    """Returns inputs to compare on, and what a model predicts for them."""
    for values in _SIZES:
        example = keras.tree.map_structure(
            lambda spec, values=values: _noise(spec, values), inputs_of(model)
        )
        try:
            return example, model(example, training=False)
        except tf.errors.InvalidArgumentError as error:
            refused = error
    raise refused


def _noise(spec, values):
    shape = [2 if i == 0 else 32 for i in range(len(spec.shape))]
    shape = [s or d for s, d in zip(spec.shape, shape, strict=True)]
    drawn = np.random.default_rng(0).integers(0, values, shape)
    return tf.constant(drawn.astype(spec.dtype))


def _litert(model, folder, quantize, representative_data):
    """Returns the bytes of the LiteRT file of a model."""
    saved_model = folder / "saved_model"
    _write_saved_model(model, saved_model)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        dtype = model.inputs[0].dtype
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
        converter.representative_dataset = lambda: (
            [np.asarray(x, dtype)[None]] for x in representative_data
        )
    try:
        return converter.convert()
    except Exception as error:
        # The converter raises several private classes, pages long.
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "This model cannot be written as a LiteRT file of built-in "
            f"operations. Received: {reason}"
        ) from error
