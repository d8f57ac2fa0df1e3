"""Small images first, and the network that goes on with whole ones."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import carried_over
from keras_dha import run_directory
from keras_dha import scale
from keras_dha import small_images
from keras_dha.architecture import spaces
from keras_dha.architecture.derive import derive_first
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import fit
from tests.auto_model.test_directory import Kill
from tests.auto_model.test_directory import Killed
from tests.test_pace import Clock
from tests.test_pace import set_clock

ndimage = pytest.importorskip("scipy.ndimage")

SHAPES = ((24, 24, 3), (20, 20), (30, 20, 1))


def network(shape, seed=0):
    keras.utils.set_random_seed(seed)
    return derive_first(spaces.resnet(shape, 3, width=4, stem_stride=1))


def images(shape, count=4):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, *shape)).astype("float32")


def ids(variables):
    return [id(v) for v in variables]


@pytest.mark.parametrize("shape", SHAPES)
def test_small_images_are_those_of_scipy(shape):
    """The same weights in a network that was built for small images."""
    size = tuple(round(0.7 * side) for side in shape[:2])
    built = network((*size, *shape[2:]), seed=1)
    shrunk = small_images.shrunk(network(shape))
    built.set_weights(shrunk.get_weights())
    x = images(shape)
    factors = [small / side for small, side in zip(size, shape, strict=False)]
    small = ndimage.zoom(
        x,
        (1, *factors, *(1 for _ in shape[2:])),
        order=1,
        mode="nearest",
        grid_mode=True,
    )
    np.testing.assert_allclose(shrunk(x), built(small), rtol=1e-4, atol=1e-5)
    assert shrunk.input_shape == (None, *shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_images_see_the_network_that_was_there(shape):
    before, x = network(shape), images(shape)
    expected = before(x)
    shrunk = small_images.shrunk(before)
    assert small_images.is_shrunk(shrunk)
    assert ids(shrunk.variables) == ids(before.variables)
    # A call that does not say so is no training.
    shrunk(x)
    after = small_images.whole(shrunk)
    assert not small_images.is_shrunk(after)
    assert ids(after.variables) == ids(before.variables)
    np.testing.assert_array_equal(after(x), expected)
    assert [layer.name for layer in after.layers] == [
        layer.name for layer in before.layers
    ]


def test_what_was_not_shrunk_is_left_as_it_is():
    plain = network((8, 8, 1))
    assert small_images.whole(plain) is plain


def test_a_shrunk_network_is_saved(tmp_path):
    shrunk, x = small_images.shrunk(network(SHAPES[0])), images(SHAPES[0])
    shrunk.save(tmp_path / "shrunk.keras")
    loaded = keras.models.load_model(tmp_path / "shrunk.keras")
    np.testing.assert_array_equal(loaded(x), shrunk(x))
    np.testing.assert_array_equal(
        small_images.whole(loaded)(x), small_images.whole(shrunk)(x)
    )


def test_all_that_was_learned_goes_on_with_whole_images():
    joint = JointModel(
        small_images.shrunk(network((20, 20, 1))),
        keras.losses.SparseCategoricalCrossentropy(),
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": Range(1e-3, 0.1)}
        ),
        refinement=0.3,
        seed=5,
    )
    batch = tf.constant(images((20, 20, 1))), tf.constant([0, 1, 2, 0])
    for _ in range(3):
        joint.train_step(batch, 1.0, batch)
    whole = carried_over.on_whole_images(joint)
    assert joint.is_shrunk and not whole.is_shrunk
    assert int(whole.step) == 3 and np.any(whole.slots[0])
    assert ids(whole.weight_vector.variables) == ids(
        joint.weight_vector.variables
    )
    assert (whole.refinement, whole.seed) == (0.3, 5)


############################### In a run ###############################


@pytest.fixture
def begins_small(monkeypatch):
    """Runs of seconds that begin with small images, by a clock of our own."""

    def found(*_):
        return scale.Scale({"width": 4}, False, True, 1.0)

    monkeypatch.setattr(scale, "fitting", found)
    # Checkpoints after every epoch, whatever they cost.
    monkeypatch.setattr(run_directory, "_SHARE", 1e9)
    return set_clock(monkeypatch, Clock(each=1.0))


def model_of_seconds(**kwargs):
    arguments = {"augmentation": None, "hyperparameters": {}, "seed": 1}
    return AutoModel(**arguments, **kwargs)


def run(model, **kwargs):
    fit(model, epochs=None, time_limit=150.0, **kwargs)
    return model.result.history["phase"]


class Watch(keras.callbacks.Callback):
    """Notes what images the network is shown; stops after an epoch."""

    def __init__(self, last=None):
        super().__init__()
        self.shrunk, self.last = [], last

    def on_epoch_end(self, epoch, logs=None):
        self.shrunk.append(self.model.joint.is_shrunk)
        self.model.stop_training = epoch == self.last


def assert_whole(model):
    exported = model.export_model()
    assert_plain(exported)
    assert exported.input_shape == (None, 8, 8, 1)
    np.testing.assert_allclose(
        exported.predict(X_NEW, verbose=0), model.predict(X_NEW), atol=1e-6
    )


def test_the_first_half_of_a_run_is_on_small_images(begins_small):
    model, watch = model_of_seconds(), Watch()
    phases = run(model, callbacks=[watch])
    assert sorted(phases) == phases  # "small images" before "train"
    steps = {k: v["steps"] for k, v in model.result.cost["phases"].items()}
    assert 0.4 < steps["small images"] / (steps["train"] + 1) < 1.1
    assert watch.shrunk == sorted(watch.shrunk, reverse=True)
    assert watch.shrunk[0] and not watch.shrunk[-1]
    assert_whole(model)


def test_statistics_are_those_of_whole_images(begins_small, monkeypatch):
    """Where a run is stopped before it has shown any."""
    seen = []
    monkeypatch.setattr(
        "keras_dha.calibration.recalibrate",
        lambda network, *_: seen.append(small_images.is_shrunk(network)),
    )
    model = model_of_seconds()
    with pytest.warns(UserWarning, match="small images alone"):
        assert run(model, callbacks=[Watch(last=0)]) == ["small images"]
    assert_whole(model)
    assert seen and not any(seen)


def test_weights_of_small_images_are_those_of_whole_ones(begins_small):
    """An epoch of them may be the one that is gone back to in the end."""
    model, seen = model_of_seconds(strategy=None), []

    class Weights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((self.model.joint.is_shrunk, self.model.get_weights()))

    restore = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=99, restore_best_weights=True
    )
    run(model, callbacks=[Weights(), restore])
    was_shrunk, weights = seen[restore.best_epoch]
    assert was_shrunk
    network = model.joint.network
    for variable, theirs in zip(network.weights, weights, strict=True):
        if variable.trainable:
            np.testing.assert_array_equal(variable, theirs)
        elif "moving" in variable.path:
            # Of whole images, which differ from those of small ones.
            assert np.any(np.abs(variable - theirs) > 1e-3)
    assert_whole(model)


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_run_goes_on_with_the_images_it_had(begins_small, tmp_path, epoch):
    with pytest.raises(Killed):
        run(model_of_seconds(directory=tmp_path), callbacks=[Kill(epoch)])
    before = AutoModel.load(sorted(tmp_path.glob("checkpoint-*.keras"))[-1])
    assert before.joint.is_shrunk == (epoch == 1)
    assert_whole_export(before)
    model, watch = model_of_seconds(directory=tmp_path), Watch()
    run(model, callbacks=[watch])
    assert watch.shrunk[0] == (epoch == 1) and not watch.shrunk[-1]
    assert_whole(model)


def assert_whole_export(model):
    """What is exported on the way sees whole images as well."""
    said = contextlib.nullcontext()
    if model.joint.is_shrunk:
        said = pytest.warns(UserWarning, match="shown small images only")
    with said:
        assert not small_images.is_shrunk(model.export_model())


def test_what_begins_with_small_images():
    """Runs without a search, of images that have something to show."""
    for shape, expected in (((28, 28), True), ((8, 8, 1), False)):
        for rung in scale.ladder(shape):
            assert rung.begins_small == (expected and not rung.is_searched)
    assert not any(s.begins_small for s in scale.ladder((64, 64, 3), True))
