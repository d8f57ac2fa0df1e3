"""Saving, loading, going on, and seeds."""

import copy
import pickle
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import saving
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import RATES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.auto_model.small_runs import space


def test_load_gives_the_same_model(fitted, tmp_path):
    fitted.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    np.testing.assert_array_equal(loaded.predict(X_NEW), fitted.predict(X_NEW))
    assert loaded.evaluate(X_NEW, Y_NEW) == fitted.evaluate(X_NEW, Y_NEW)
    assert loaded.result == fitted.result
    assert_plain(loaded.export_model())


def test_the_result_of_a_saved_run_can_be_read_by_itself(fitted, tmp_path):
    fitted.save(tmp_path / "run.keras")
    (tmp_path / "result.json").write_text(fitted.result.to_json())
    for name in ("run.keras", "result.json"):
        assert saving.read_result(tmp_path / name) == fitted.result


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
    assert loaded.genotype == model.genotype == model.result.genotype


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


@pytest.mark.parametrize("outputs", [1, 2])
def test_no_metrics_are_none(outputs):
    network = space((8, 8, 1), CLASSES)
    heads = [network.outputs[0]]
    heads += [keras.layers.Softmax(name="again")(heads[0])] * (outputs - 1)
    model = quick_auto_model(
        keras.Model(network.inputs, heads),
        strategy=None,
    )
    model.compile(metrics=[])
    y = Y if outputs == 1 else (Y, Y)
    history = fit(model, y=y, epochs=1, validation_data=(X, y)).history
    assert not [name for name in history if "accuracy" in name]
    assert history["val_loss"]


def test_copies_are_refused(fitted):
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="`save`.*`AutoModel.load`"):
            copied(fitted)


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


@pytest.mark.parametrize("within", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, within):
    """Also that of a candidate, in a run that is still searched."""
    inputs = keras.Input((8, 8, 1))
    doubled = layers.Lambda(lambda x: 2.0 * x, name="doubled")
    if within:
        doubled = Choice([doubled, layers.Conv2D(1, 1)], name="choice")
    x = layers.Flatten()(doubled(inputs))
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    # Nothing is decided before the first epoch has ended.
    strategy = DSNAS(warmup=0.6, until=0.8) if within else "auto"
    model = quick_auto_model(keras.Model(inputs, outputs), strategy=strategy)
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    fit(model, epochs=2, callbacks=[keep])
    with pytest.raises(ValueError, match="Lambda.*unsafe|safe.*Lambda"):
        AutoModel.load(tmp_path / "1.keras")


def test_same_seed_same_run(fitted):
    again = joint_auto_model()
    fit(again)
    ours, theirs = again.result.history, fitted.result.history
    assert ours["phase"] == theirs["phase"]
    for name in set(theirs) - {"phase", "decisions"}:
        # A mean influence is a difference of almost equal numbers.
        near = {"rtol": 1e-4, "atol": 2e-5} if "/" in name else {"rtol": 1e-6}
        np.testing.assert_allclose(
            ours[name], theirs[name], **near, err_msg=name
        )
    # A dict of dicts for each epoch.
    for one, other in zip(ours["decisions"], theirs["decisions"], strict=True):
        assert set(one) == set(other)
        for key, values in one.items():
            assert values == pytest.approx(other[key], rel=1e-4, abs=2e-5)
    assert again.result.genotype == fitted.result.genotype


def test_another_seed_another_run():
    losses = [
        fit(quick_auto_model(seed=seed), epochs=1).history["loss"]
        for seed in (1, 2)
    ]
    assert losses[0] != losses[1]


def test_the_largest_seed():
    fit(joint_auto_model(seed=2**31 - 1), epochs=1)


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


def frozen_base():
    """A network of which a part is not trained."""
    base = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(4, name="low")],
        name="base",
    )
    base.trainable = False
    top = layers.Dense(CLASSES, activation="softmax", name="top")
    return base, keras.Sequential([keras.Input((8, 8, 1)), base, top])


def test_what_is_frozen_or_unfrozen_later_is_refused(tmp_path):
    base, network = frozen_base()
    model = quick_auto_model(network)
    fit(model, X / 255, epochs=1)
    model.save(tmp_path / "before.keras")
    before = model.get_weights()
    base.trainable = True
    refused = r"fixed by the first `fit`.*unfrozen=\['\S*low'\], frozen=\[\]$"
    with pytest.raises(ValueError, match=refused):
        fit(model, X / 255, epochs=1)
    with pytest.raises(ValueError, match=refused):
        model.save(tmp_path / "after.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["before.keras"]
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    base.trainable, network.layers[-1].trainable = False, False
    refused = r"unfrozen=\[\], frozen=\['\S*top'\]$"
    with pytest.raises(ValueError, match=refused):
        fit(model, X / 255, epochs=1)
    network.layers[-1].trainable = True
    # Set back it goes on.
    fit(model, X / 255, epochs=1)
    model.save(tmp_path / "after.keras")
    loaded = AutoModel.load(tmp_path / "after.keras")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_what_is_unfrozen_is_trained_by_a_new_model(tmp_path):
    """Which is what the refusal says to do."""
    base, network = frozen_base()
    model = quick_auto_model(network)
    fit(model, X / 255, epochs=1)
    exported = model.export_model()
    before = base.get_weights()[0]
    exported.get_layer("base").trainable = True
    again = quick_auto_model(exported)
    fit(again, X / 255, epochs=1)
    assert not np.allclose(exported.get_layer("base").get_weights()[0], before)
    again.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    np.testing.assert_array_equal(loaded.predict(X), again.predict(X))


@pytest.mark.parametrize("directory", [False, True])
def test_sharing_that_no_file_can_hold_is_refused(directory, tmp_path):
    """Its file would be written, and could not be read."""
    shared = keras.layers.Dense(4, name="shared")

    def functional(name):
        inputs = keras.Input((64,))
        return keras.Model(inputs, shared(inputs), name=name)

    inputs = keras.Input((64,))
    x = Choice([functional(name) for name in "ab"], name="choice")(inputs)
    x = keras.layers.Add()([x, functional("c")(inputs)])
    network = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    where = {"directory": tmp_path / "run"} if directory else {}
    model = quick_auto_model(network, strategy=None, **where)
    match = r"functional model shares.*'?shared.*\['.*'c'"
    flat = X.reshape(len(X), -1) / 255
    if directory:
        with pytest.raises(ValueError, match=match):
            fit(model, flat, epochs=1)
        assert model.joint is None
    else:
        fit(model, flat, epochs=1)
        with pytest.raises(ValueError, match=match):
            model.save(tmp_path / "run.keras")
    assert list(tmp_path.rglob("*.keras")) == []


def test_generators_of_the_user_go_on_as_without_a_run():
    def drawn():
        return random.random(), np.random.random()

    random.seed(5)
    np.random.seed(5)
    expected = [drawn(), drawn()]
    random.seed(5)
    np.random.seed(5)
    found = [drawn()]
    quick_auto_model().estimate(X, Y)
    fit(quick_auto_model(), epochs=2)
    assert [*found, drawn()] == expected
