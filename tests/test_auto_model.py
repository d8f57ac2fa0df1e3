"""`AutoModel` as its users call it.

Whatever form the data have, the numbers are those of a reference run; what is
reported is recomputed from predictions with NumPy.
"""

import csv
import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import data
from keras_dha.architecture import spaces
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.ranges import Range
from keras_dha.methods import space_builder
from keras_dha.nested_layers import find_layers

CLASSES, BATCH = 3, 16
RATES = {
    "learning_rate": Range(1e-3, 0.2, start=0.05),
    "weight_decay": Range(1e-5, 1e-2),
}


def labelled_images(count=96, seed=0):
    """Bytes as floats; each class is bright in a region of its own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.integers(0, 150, (count, 8, 8, 1)).astype("float32")
    for label in range(CLASSES):
        x[y == label, 2 * label : 2 * label + 3] += 100.0
    x[0, 0, 0, 0] = 255.0
    return x, y


X, Y = labelled_images()
X_NEW, Y_NEW = labelled_images(40, seed=1)


def space(shape, num_classes):
    """Two choices, normalisation, and a layer that is random in training."""
    inputs = x = keras.Input(shape)
    if len(shape) == 2:
        x = layers.Reshape((*shape, 1))(x)
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for k in range(2):
        branch = Choice(
            [
                layers.Conv2D(4, 3, padding="same", name=f"three{k}"),
                layers.Conv2D(4, 1, name=f"one{k}"),
            ],
            name=f"choice{k}",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.Dropout(0.2)(x)
    return keras.Model(
        inputs, layers.Dense(num_classes, activation="softmax")(x)
    )


def joint_auto_model(search_space=space, **kwargs):
    """All three searches, with fewer operations to compile."""
    augmentation = DifferentiableAugmentation(
        ["Identity", "Rotate", "Invert"], levels=2
    )
    arguments = {
        "strategy": DSNAS(warmup=0.1, until=0.5),
        "augmentation": augmentation,
        "hyperparameters": RATES,
        "outer_every": 2,
        "seed": 1,
        **kwargs,
    }
    return AutoModel(search_space, **arguments)


def quick_auto_model(search_space=space, **kwargs):
    """The architecture alone, which is quick to compile."""
    arguments = {"hyperparameters": {"learning_rate": 0.05}, "seed": 1}
    return AutoModel(search_space, augmentation=None, **{**arguments, **kwargs})


def fit(model, x=X, y=Y, epochs=3, **kwargs):
    arguments = {"batch_size": BATCH, "verbose": 0, **kwargs}
    return model.fit(x, y, epochs=epochs, **arguments)


def assert_plain(model):
    """The network holds stock Keras layers and nothing else."""
    for layer in (model, *find_layers(model, layers.Layer)):
        assert type(layer).__module__.startswith("keras."), layer


@pytest.fixture(scope="module")
def fitted():
    """A run with all three searches; tests must not train it further."""
    model = joint_auto_model()
    fit(model)
    return model


# Forms of data


@functools.cache
def reference_losses():
    history = fit(quick_auto_model(), shuffle=False, epochs=2)
    return history.history["loss"]


def as_dataset(x, y, batch_size=None):
    made = tf.data.Dataset.from_tensor_slices((x, y))
    return (made if batch_size is None else made.batch(batch_size)), None


FORMS = {
    "uint8": (X.astype("uint8"), Y),
    "float64": (X.astype("float64"), Y.astype("int32")),
    "rank 3": (X[..., 0], Y),
    "column of labels": (X, Y[:, None]),
    "one-hot": (X, np.eye(CLASSES, dtype="float32")[Y]),
    "dataset": as_dataset(X, Y),
    "dataset of bytes": as_dataset(X.astype("uint8"), Y.astype("uint8")),
    "dataset of rank 3": as_dataset(X[..., 0], Y),
    "batched": as_dataset(X, Y, BATCH),
    "other batches": as_dataset(X, Y, 10),
    "batched one-hot": as_dataset(X, np.eye(CLASSES)[Y], BATCH),
    "one-hot dataset": as_dataset(X, np.eye(CLASSES)[Y]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_data_gives_the_same_run(form):
    x, y = FORMS[form]
    model = quick_auto_model()
    history = fit(model, x, y, shuffle=False, epochs=2)
    np.testing.assert_allclose(
        history.history["loss"], reference_losses(), rtol=1e-4
    )
    given = X[..., 0] if "rank 3" in form else X
    predicted = model.predict(given)
    assert predicted.shape == (len(X), CLASSES)
    loss, accuracy = model.evaluate(x, y)
    assert loss == pytest.approx(cross_entropy(predicted, Y), rel=1e-4)
    assert accuracy == pytest.approx(np.mean(predicted.argmax(1) == Y))


def cross_entropy(probabilities, labels):
    return -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))


def test_an_endless_dataset():
    endless = as_dataset(X, Y, BATCH)[0].repeat()
    model = quick_auto_model()
    history = fit(
        model, endless, None, epochs=2, steps_per_epoch=6, batch_size=None
    )
    np.testing.assert_allclose(
        history.history["loss"], reference_losses(), rtol=1e-5
    )


def test_defaults_on_images_without_channels():
    small = functools.partial(spaces.resnet, width=4, stages=1)
    model = AutoModel(small, seed=0)
    history = model.fit(X[..., 0].astype("uint8"), Y, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert_plain(model.export_model())
    assert model.predict(X[:2, ..., 0]).shape == (2, CLASSES)
    assert set(model.result.policy.operations) >= {"Rotate", "Invert"}
    learned = model.result.hyperparameters
    assert learned["learning_rate"]["learned"]
    assert set(model.result.genotype) == {"stage1_block1"}
    np.testing.assert_allclose(model.predict(X[..., 0]).sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["auto", "resnet"])
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_named_space_takes_shape_classes_and_range_of_the_data(name, shape):
    x = 16.0 * np.random.default_rng(0).random((20, *shape))
    spec = data.inspect(x, np.arange(20) % 4)
    network = space_builder(name)(spec)
    assert network.input_shape == (None, *shape)
    assert network.output_shape == (None, 4)
    lowest_highest = network.get_layer("scale")(np.array([0.0, 16.0]))
    np.testing.assert_allclose(lowest_highest, [-1.0, 1.0], atol=1e-6)


# The eight combinations


def assert_policy_was_learned(result):
    uniform = [1 / 3] * 3
    assert not np.allclose(result.policy.probabilities, uniform, rtol=1e-3)
    statistics = result.history["policy"]
    assert len(statistics) == 3
    for name, (share, magnitude) in result.policy.usage().items():
        assert statistics[-1][name]["probability"] == share
        assert statistics[-1][name]["magnitude"] == magnitude
    # Outer steps were taken in every epoch, and images counted.
    for epoch in statistics:
        assert sum(v["share"] for v in epoch.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "strategy, augmentation, hyperparameters",
    list(itertools.product((True, False), repeat=3)),
    ids=lambda on: "on" if on else "off",
)
def test_any_subset_of_the_searches(strategy, augmentation, hyperparameters):
    off = {}
    if not strategy:
        off["strategy"] = None
    if not augmentation:
        off["augmentation"] = None
    if not hyperparameters:
        off["hyperparameters"] = None
    model = joint_auto_model(**off)
    history = fit(model).history
    plain, result = model.export_model(), model.result
    assert_plain(plain)
    np.testing.assert_array_equal(
        plain.predict(X, batch_size=256, verbose=0), model.predict(X)
    )
    assert set(result.genotype) == (
        {"choice0", "choice1"} if strategy else set()
    )
    assert ("decision_margin" in history) == strategy
    if not strategy:
        names = {layer.name for layer in plain.layers}
        assert {"three0", "three1"} <= names  # the first candidates
    assert (result.policy is not None) == augmentation
    if augmentation:
        assert_policy_was_learned(result)
    assert ("policy" in result.history) == augmentation
    for name, found in result.hyperparameters.items():
        is_learned = hyperparameters and name in RATES
        assert found["learned"] == is_learned
        moved = abs(found["value"] / found["start"] - 1) > 1e-3
        assert moved == is_learned
        if is_learned:
            assert history[name][-1] == found["value"]
        assert len(history.get(name, [])) == (3 if is_learned else 0)
    assert len(history["loss"]) == len(history["accuracy"]) == 3


# Search spaces


def test_vectors_with_a_choice_over_dense_layers():
    def dense_space(shape, num_classes):
        inputs = keras.Input(shape)
        x = layers.Dense(8, activation="relu")(inputs)
        branch = Choice(
            [
                layers.Dense(8, activation="relu", name="one_layer"),
                keras.Sequential(
                    [layers.Dense(4, activation="relu"), layers.Dense(8)],
                    name="bottleneck",
                ),
            ],
            name="head",
        )(x)
        x = layers.Add()([x, branch])
        return keras.Model(inputs, layers.Dense(num_classes)(x))

    model = AutoModel(dense_space, hyperparameters=RATES, seed=0)
    x = X.reshape(len(X), -1) / 255
    fit(model, x, epochs=4)
    assert model.result.policy is None  # vectors are not augmented
    assert model.result.genotype["head"]["choice"] in (
        "one_layer",
        "bottleneck",
    )
    assert_plain(model.export_model())
    # The outputs are logits here, and the loss was told so.
    logits = model.predict(x)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    expected = cross_entropy(shifted / shifted.sum(1, keepdims=True), Y)
    assert model.evaluate(x, Y)[0] == pytest.approx(expected, rel=1e-4)


def test_a_plain_model_is_trained_itself():
    keras.utils.set_random_seed(0)
    plain = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    before = plain.get_weights()
    model = AutoModel(
        plain, augmentation=None, hyperparameters=RATES, outer_every=2, seed=0
    )
    history = fit(model, X / 255)
    assert model.export_model() is plain
    assert not np.allclose(plain.get_weights()[0], before[0], rtol=1e-3)
    assert model.result.genotype == {}
    assert "decision_margin" not in history.history


def softmax_heads():
    dense = functools.partial(layers.Dense, CLASSES)
    return {
        "activation": dense(activation="softmax"),
        "layer": keras.Sequential([dense(), layers.Softmax()]),
        "nested": keras.Sequential(
            [keras.Sequential([dense(activation="softmax")])]
        ),
        "choice": Choice(
            [
                dense(activation="softmax", name="direct"),
                keras.Sequential(
                    [layers.Dense(4), dense(activation="softmax")], name="deep"
                ),
            ]
        ),
    }


@pytest.mark.parametrize("head", softmax_heads())
def test_the_loss_fits_outputs_that_are_probabilities(head):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), softmax_heads()[head]]
    )
    model = quick_auto_model(network)
    fit(model, X / 255, epochs=1)
    probabilities = model.predict(X / 255)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, rtol=1e-5)
    assert model.evaluate(X / 255, Y)[0] == pytest.approx(
        cross_entropy(probabilities, Y), rel=1e-4
    )


@pytest.mark.parametrize("stopped", [False, True])
def test_normalisation_describes_the_training_images_in_the_end(stopped):
    """Its moving average, with a momentum of 0.99, would be far from it."""
    model = quick_auto_model(strategy=None)
    stop = keras.callbacks.EarlyStopping("loss", min_delta=99.0, patience=1)
    fit(model, epochs=50 if stopped else 2, callbacks=[stop] if stopped else [])
    _, scale, convolution, norm, *_ = model.export_model().layers
    assert isinstance(norm, layers.BatchNormalization)
    values = np.asarray(convolution(scale(X)))
    mean, deviation = values.mean((0, 1, 2)), values.std((0, 1, 2))
    assert np.all(np.abs(norm.moving_mean - mean) < 0.1 * deviation)
    np.testing.assert_allclose(norm.moving_variance, deviation**2, rtol=0.2)


# Callbacks, validation, output


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.events = []
        self.logs = []

    def on_train_begin(self, logs=None):
        self.events.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))

    def on_train_batch_end(self, batch, logs=None):
        self.events.append(f"batch {batch}")

    def on_train_end(self, logs=None):
        self.events.append("end")


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """One run with callbacks of several kinds and validation data."""
    folder = tmp_path_factory.mktemp("run")
    model, recorder = quick_auto_model(strategy=DSNAS(until=0.5)), Recorder()
    history = fit(
        model,
        callbacks=[
            recorder,
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ],
        validation_data=(X_NEW, Y_NEW),
    )
    return model, history, recorder, folder


def test_callbacks_see_every_epoch_and_batch_once(observed):
    model, history, recorder, _ = observed
    epochs = [[k, *(f"batch {b}" for b in range(6))] for k in range(3)]
    assert recorder.events == ["begin", *itertools.chain(*epochs), "end"]
    assert recorder.model is model
    assert history.epoch == [0, 1, 2]


def test_history_is_what_callbacks_saw(observed):
    _, history, recorder, _ = observed
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert history.history[name] == [logs[name] for logs in recorder.logs]
        assert all(type(v) is float for v in history.history[name])


def test_validation_is_what_evaluate_says(observed):
    model, history, _, _ = observed
    found = model.evaluate(X_NEW, Y_NEW, return_dict=True)
    assert set(found) == {"loss", "accuracy"}
    for name, value in found.items():
        last = history.history[f"val_{name}"][-1]
        assert last == pytest.approx(value, rel=1e-5)


def test_result_holds_the_history(observed):
    model, history, _, _ = observed
    assert model.result.history == history.history
    steps = [phase["steps"] for phase in model.result.cost["phases"].values()]
    assert sum(steps) == 18
    parameters = model.export_model().count_params()
    assert model.result.cost["parameters"] == parameters


def test_csv_log(observed):
    _, history, _, folder = observed
    with open(folder / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for row, loss in zip(rows, history.history["loss"], strict=True):
        assert float(row["loss"]) == pytest.approx(loss)


def test_the_last_checkpoint_is_the_trained_model(observed):
    model, _, _, folder = observed
    loaded = AutoModel.load(folder / "3.keras")
    np.testing.assert_allclose(
        loaded.predict(X_NEW), model.predict(X_NEW), rtol=1e-5
    )


def test_a_checkpoint_of_the_search_goes_on_searching(observed):
    *_, folder = observed
    loaded = AutoModel.load(folder / "1.keras")
    assert len(find_layers(loaded.joint.network, Choice)) == 2
    assert loaded.predict(X_NEW).shape == (len(X_NEW), CLASSES)
    fit(loaded, epochs=2)
    assert_plain(loaded.joint.network)
    assert set(loaded.result.genotype) == {"choice0", "choice1"}


def test_early_stopping_leaves_a_plain_trained_model():
    model = quick_auto_model(strategy=DSNAS(until=0.9))
    stop = keras.callbacks.EarlyStopping("loss", min_delta=99.0, patience=1)
    history = fit(model, epochs=50, callbacks=stop)  # one needs no list
    assert history.epoch == [0, 1]
    assert_plain(model.export_model())
    assert set(model.result.genotype) == {"choice0", "choice1"}
    # The flag is the callback's word for that fit only.
    assert fit(model, epochs=3).epoch == [0, 1, 2]


def restoring_callback():
    """Goes back to the epoch of the highest loss, which is the first."""
    return keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=9, restore_best_weights=True
    )


def test_early_stopping_restores_the_weights_of_an_epoch():
    model, seen = quick_auto_model(strategy=None), []

    class Weights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())

    restore = restoring_callback()
    fit(model, callbacks=[Weights(), restore])
    assert restore.best_epoch == 0
    for ours, theirs in zip(model.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "callback, message",
    [
        (restoring_callback(), "do not fit.*restore_best_weights=False"),
        (keras.callbacks.ReduceLROnPlateau(), "learning rate is learned"),
        (
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate),
            "learning rate is learned.*LearningRateScheduler",
        ),
        ("early stopping", "must be Keras callbacks.*str"),
    ],
)
def test_callbacks_that_a_run_could_not_honour(callback, message):
    model = quick_auto_model()
    with pytest.raises(ValueError, match=message):
        fit(model, callbacks=[callback])


@pytest.mark.parametrize("form", ["arrays", "dataset", "batched"])
def test_forms_of_validation_data(form):
    given = (X_NEW, Y_NEW)
    if form != "arrays":
        given = as_dataset(X_NEW, Y_NEW, 7 if form == "batched" else None)[0]
    model = quick_auto_model(strategy=None)
    history = fit(model, epochs=1, validation_data=given).history
    predicted = model.predict(X_NEW)
    assert history["val_accuracy"] == [
        pytest.approx(np.mean(predicted.argmax(1) == Y_NEW))
    ]
    assert history["val_loss"] == [
        pytest.approx(cross_entropy(predicted, Y_NEW), rel=1e-4)
    ]


@pytest.mark.parametrize("verbose", [0, 2])
def test_verbose(verbose, capsys):
    model = quick_auto_model(strategy=DSNAS(until=0.5))
    fit(model, epochs=2, verbose=verbose)
    captured = capsys.readouterr()
    if verbose == 0:
        assert (captured.out, captured.err) == ("", "")
        return
    assert "Epoch 1/2" in captured.out
    assert "Epoch 2/2" in captured.out
    assert captured.out.count("accuracy: ") == 2
    for gene in model.result.genotype.values():
        assert gene["choice"] in captured.out


# Evaluating, predicting, exporting


def test_predictions_are_not_augmented(fitted):
    first = fitted.predict(X_NEW)
    np.testing.assert_array_equal(fitted.predict(X_NEW), first)
    plain = fitted.export_model()
    np.testing.assert_array_equal(plain.predict(X_NEW, verbose=0), first)
    np.testing.assert_allclose(
        fitted.predict(X_NEW, batch_size=7), first, rtol=1e-5
    )
    assert first.dtype == np.float32


def test_predictions_for_datasets(fitted):
    expected = fitted.predict(X_NEW)
    for dataset in (
        as_dataset(X_NEW, Y_NEW, 8)[0],
        tf.data.Dataset.from_tensor_slices(X_NEW).batch(8),
        tf.data.Dataset.from_tensor_slices(X_NEW),
        as_dataset(X_NEW, Y_NEW)[0],
    ):
        np.testing.assert_allclose(fitted.predict(dataset), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "x, hint",
    [
        (X_NEW[0], r"x\[None\]"),
        (X_NEW[:, :3], r"\(None, 8, 8, 1"),
        (tf.data.Dataset.from_tensor_slices(X_NEW[:, :3]), r"\(None, 8, 8, 1"),
    ],
)
def test_what_cannot_be_predicted_for_is_refused(fitted, x, hint):
    with pytest.raises(ValueError, match=f"Expected examples.*{hint}"):
        fitted.predict(x)


def test_evaluation_is_that_of_the_predictions(fitted):
    predicted = fitted.predict(X_NEW)
    loss, accuracy = fitted.evaluate(X_NEW, Y_NEW)
    assert loss == pytest.approx(cross_entropy(predicted, Y_NEW), rel=1e-5)
    assert accuracy == pytest.approx(np.mean(predicted.argmax(1) == Y_NEW))
    assert fitted.evaluate(X_NEW, Y_NEW) == [loss, accuracy]


def test_saved_model_agrees_with_predict(fitted, tmp_path):
    fitted.export(tmp_path / "model" / "1")
    served = tf.saved_model.load(str(tmp_path / "model" / "1"))
    np.testing.assert_allclose(
        served.serve(X_NEW), fitted.predict(X_NEW), atol=1e-5
    )


def test_litert_agrees_with_predict(fitted, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    fitted.export(tmp_path / "model.tflite", format="litert")
    net = interpreter.Interpreter(model_path=str(tmp_path / "model.tflite"))
    run = net.get_signature_runner("serving_default")
    (name,) = run.get_input_details()
    served = [
        next(iter(run(**{name: image[None]}).values()))[0]
        for image in X_NEW[:8]
    ]
    np.testing.assert_allclose(served, fitted.predict(X_NEW[:8]), atol=1e-5)


def test_summary_shows_the_network(fitted, capsys):
    fitted.summary()
    out = capsys.readouterr().out
    for gene in fitted.result.genotype.values():
        assert gene["choice"] in out


# Saving and going on


def test_load_gives_the_same_model(fitted, tmp_path):
    fitted.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    np.testing.assert_array_equal(loaded.predict(X_NEW), fitted.predict(X_NEW))
    assert loaded.evaluate(X_NEW, Y_NEW) == fitted.evaluate(X_NEW, Y_NEW)
    assert loaded.result == fitted.result
    assert_plain(loaded.export_model())


def test_a_loaded_run_goes_on_to_the_same_losses(tmp_path):
    """Dropout and augmentation included."""
    model = joint_auto_model()
    fit(model, epochs=2)
    model.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    histories = []
    for k, each in enumerate((model, loaded)):
        tf.random.set_seed(k)  # as different as another process
        np.random.seed(k)
        histories.append(fit(each, epochs=2).history)
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        np.testing.assert_allclose(
            histories[1][name], values, rtol=1e-6, err_msg=name
        )
    assert loaded.result.policy == model.result.policy
    assert loaded.result.genotype == model.result.genotype
    assert len(loaded.result.genotype) == 2


def test_compiled_loss_and_metrics_are_used_and_saved(tmp_path):
    model = quick_auto_model(strategy=None)
    model.compile(
        loss=keras.losses.CategoricalFocalCrossentropy(gamma=3.0),
        metrics=[keras.metrics.TopKCategoricalAccuracy(2, name="top2")],
    )
    one_hot = np.eye(CLASSES)[Y]
    history = fit(model, y=one_hot, epochs=1)
    assert "top2" in history.history
    predicted = model.predict(X)
    p = np.clip(predicted, 1e-7, 1 - 1e-7)[np.arange(len(Y)), Y]
    focal = np.mean(-0.25 * (1 - p) ** 3 * np.log(p))
    top2 = np.mean(
        [y in row.argsort()[-2:] for y, row in zip(Y, predicted, strict=True)]
    )
    model.save(tmp_path / "run.keras")
    for each in (model, AutoModel.load(tmp_path / "run.keras")):
        found = each.evaluate(X, one_hot, return_dict=True)
        assert found["loss"] == pytest.approx(focal, rel=1e-4)
        assert found["top2"] == pytest.approx(top2)


def test_saving_replaces_a_file_unless_told_not_to(fitted, tmp_path):
    path = tmp_path / "run.keras"
    path.write_text("something of value")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fitted.save(path, overwrite=False)
    assert path.read_text() == "something of value"
    fitted.save(path)
    AutoModel.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.keras"]


def test_a_save_that_fails_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    path = tmp_path / "run.keras"
    path.write_text("something of value")

    def fail(path, *args, **kwargs):
        with open(path, "w") as file:
            file.write("half")
        raise OSError("disk full")

    monkeypatch.setattr(fitted.joint, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        fitted.save(path)
    assert path.read_text() == "something of value"
    assert [p.name for p in tmp_path.iterdir()] == ["run.keras"]


def test_saving_needs_the_suffix_of_keras(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"\.keras.*run\.h5"):
        fitted.save(tmp_path / "run.h5")


@pytest.mark.parametrize(
    "write",
    [
        lambda model, path: model.save(path.with_suffix(".keras")),
        lambda model, path: model.export(path),
        lambda model, path: model.export(
            path.with_suffix(".tflite"), format="litert"
        ),
    ],
    ids=["save", "export", "litert"],
)
def test_a_directory_that_cannot_be_written_to(fitted, tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write here.*file"):
        write(fitted, tmp_path / "file" / "model")
    assert (tmp_path / "file").read_text() == "in the way"


def test_loading_a_plain_model(fitted, tmp_path):
    fitted.export_model().save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="plain Keras model"):
        AutoModel.load(tmp_path / "plain.keras")


def test_same_seed_same_run(fitted):
    again = joint_auto_model()
    fit(again)
    history = again.result.history
    for name, values in fitted.result.history.items():
        if name != "policy":
            np.testing.assert_allclose(
                history[name], values, rtol=1e-6, err_msg=name
            )
    for ours, theirs in zip(
        history["policy"], fitted.result.history["policy"], strict=True
    ):
        for operation, statistics in ours.items():
            assert statistics == pytest.approx(theirs[operation], rel=1e-4)
    assert again.result.genotype == fitted.result.genotype


def test_another_seed_another_run():
    losses = [
        fit(quick_auto_model(seed=seed), epochs=1).history["loss"]
        for seed in (1, 2)
    ]
    assert losses[0] != losses[1]


def test_search_data_in_place_of_a_split():
    """With it, all of the training data train the weights."""
    seen = []

    class Steps(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.params["steps"])

    for kwargs in ({}, {"search_data": (X_NEW, Y_NEW)}):
        model = quick_auto_model(
            strategy=None, hyperparameters=RATES, search_split=0.1
        )
        fit(model, epochs=1, callbacks=[Steps()], **kwargs)
    assert seen == [5, 6]


# Bad input


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"max_trials": 3}, TypeError, "`max_trials`.*no trials.*`epochs`"),
        ({"tuner": "greedy"}, TypeError, "`tuner`.*no trials"),
        ({"objective": "val_loss"}, TypeError, "`objective`.*search split"),
        (
            {"optimizer": "adam"},
            TypeError,
            "`optimizer`.*`compile.*`hyperparameters`",
        ),
        ({"spam": 1}, TypeError, "`AutoModel` does not take `spam`.*spam=1"),
        ({"method": "magic"}, ValueError, "`method`.*'auto'.*'magic'"),
        ({"search_space": "vit"}, ValueError, "`search_space`.*'vit'"),
        ({"search_space": 3}, ValueError, "`search_space`.*3"),
        ({"strategy": "dsnas"}, ValueError, "`strategy`.*'dsnas'"),
        ({"strategy": DSNAS}, ValueError, "`strategy` must be.*object"),
        ({"augmentation": "rand"}, ValueError, "`augmentation`.*'rand'"),
        (
            {"augmentation": layers.RandomFlip()},
            ValueError,
            "`augmentation`.*DifferentiableAugmentation",
        ),
        ({"hyperparameters": "best"}, ValueError, "`hyperparameters`.*'best'"),
        ({"hyperparameters": {"lr": 0.1}}, ValueError, "one of.*'lr'"),
        ({"target": {"size": 1}}, ValueError, "`target`.*size"),
        ({"directory": "x"}, ValueError, "`directory`.*not available"),
        ({"overwrite": True}, ValueError, "`overwrite`.*not available"),
        ({"search_split": 0.0}, ValueError, "`search_split`.*0.0"),
        ({"search_split": 0.6}, ValueError, "`search_split`.*0.6"),
        ({"outer_every": 0}, ValueError, "`outer_every`.*0"),
        ({"outer_every": 2.5}, ValueError, "`outer_every`.*2.5"),
        ({"seed": "one"}, ValueError, "`seed`.*'one'"),
    ],
)
def test_bad_constructor_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        AutoModel(**arguments)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"max_trials": 3}, TypeError, "`fit` does not take `max_trials`"),
        ({"validation_split": 0.1}, TypeError, "`validation_data`"),
        ({"class_weight": {}}, TypeError, "`class_weight`.*resample"),
        ({"epochs": 0}, ValueError, "`epochs` must be at least 1.*0"),
        ({"epochs": -1}, ValueError, "`epochs` must be at least 1.*-1"),
        ({"epochs": 1.5}, ValueError, "`epochs` must be an integer.*1.5"),
        ({"epochs": "3"}, ValueError, "`epochs` must be an integer.*'3'"),
        ({"epochs": True}, ValueError, "`epochs` must be an integer"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"batch_size": 2.5}, ValueError, "`batch_size` must be an integer"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch`.*at least 1"),
        ({"verbose": 3}, ValueError, "`verbose`.*3"),
        ({"validation_data": X_NEW}, ValueError, r"pair \(x, y\)"),
        ({"validation_data": (X_NEW, Y)}, ValueError, "same number"),
        (
            {"validation_data": (X_NEW, Y_NEW + 1)},
            ValueError,
            r"classes 0\.\.2.*up to 3",
        ),
        (
            {"validation_data": (X_NEW[:, :4], Y_NEW)},
            ValueError,
            r"must look like.*\(4, 8, 1\)",
        ),
        ({"search_data": X_NEW}, ValueError, r"pair \(x, y\)"),
        ({"y": None}, ValueError, "Expected arrays `x` and `y`"),
        ({"x": None}, ValueError, "Expected arrays `x` and `y`"),
        ({"x": X[:5]}, ValueError, "same number of examples"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "no examples"),
        ({"y": 0 * Y}, ValueError, "at least two classes"),
        ({"y": Y - 1}, ValueError, "Labels must be integers from 0"),
        ({"x": X * np.nan}, ValueError, "NaN"),
        ({"x": X[:, 0, 0], "y": Y}, ValueError, "for images.*search_space"),
    ],
)
def test_bad_fit_arguments_leave_the_model_as_it_was(arguments, error, message):
    model = AutoModel(seed=0)
    with pytest.raises(error, match=message):
        fit(model, **{"epochs": 1, **arguments})
    with pytest.raises(ValueError, match="call `fit` first"):
        model.predict(X)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.evaluate(X, Y),
        lambda model: model.predict(X),
        lambda model: model.summary(),
        lambda model: model.result,
        lambda model: model.genotype,
        lambda model: model.export_model(),
        lambda model: model.export("nowhere"),
        lambda model: model.save("nowhere.keras"),
        lambda model: model.get_weights(),
        lambda model: model.set_weights([]),
    ],
)
def test_before_fit_there_is_nothing_to_use(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="call `fit` first"):
        call(AutoModel())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"optimizer": "adam"}, "one of .*'adamw'.*optimizer='adam'"),
        ({"run_eagerly": True}, "`loss`, `metrics` and .*'run_eagerly'"),
    ],
)
def test_compile_refuses_what_it_cannot_honour(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoModel().compile(**arguments)


def test_compile_after_fit(fitted):
    with pytest.raises(ValueError, match="fixed by the first `fit`"):
        fitted.compile(metrics=["accuracy"])


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X[:, :4], Y, r"must look like.*\(4, 8, 1\).*\(8, 8, 1\)"),
        (X[..., 0], Y, r"must look like.*\(8, 8\)"),
        (X, np.eye(CLASSES)[Y], "must look like.*one_hot=True"),
        (X, Y + 1, r"classes 0\.\.2"),
    ],
)
def test_a_further_fit_with_data_of_another_kind(fitted, x, y, message):
    with pytest.raises(ValueError, match=message):
        fit(fitted, x, y)


def test_after_a_fit_that_was_refused_other_data_may_come():
    model = quick_auto_model(search_space_for((8, 8, 1), CLASSES))
    with pytest.raises(ValueError, match="must map examples of shape"):
        fit(model, X[..., 0], epochs=1)
    fit(model, epochs=1)
    assert model.predict(X).shape == (len(X), CLASSES)


def search_space_for(shape, num_classes):
    return lambda *_: space(shape, num_classes)


class Subclassed(keras.Model):
    pass


def two_outputs(shape, num_classes):
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    return keras.Model(inputs, [layers.Dense(num_classes)(x) for _ in "ab"])


@pytest.mark.parametrize(
    "search_space, message",
    [
        (search_space_for((8, 8, 1), 4), r"to 3 classes.*to \(4,\)"),
        (search_space_for((6, 8, 1), 3), r"\(8, 8, 1\).*from \(6, 8, 1\)"),
        (search_space_for((8, 8), 3), r"\(8, 8, 1\).*from \(8, 8\)"),
        (two_outputs, "one input and one output.*2 outputs"),
        (lambda *_: Subclassed(), "functional or Sequential.*Subclassed"),
        (lambda *_: keras.Sequential(), "functional or Sequential"),
        (lambda *_: None, "functional or Sequential.*NoneType"),
        (space((6, 8, 1), 3), r"\(8, 8, 1\).*from \(6, 8, 1\)"),
    ],
)
def test_a_search_space_that_does_not_fit(search_space, message):
    with pytest.raises(ValueError, match=message):
        fit(quick_auto_model(search_space), epochs=1)


def test_a_loss_that_leaves_the_numbers_is_reported():
    model = quick_auto_model(strategy=None, hyperparameters=None)
    model.compile(loss=Infinite())
    with pytest.raises(FloatingPointError, match="not finite.*at step"):
        fit(model, epochs=1)


class Infinite(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return float("inf") * keras.ops.sum(y_pred, axis=-1)
