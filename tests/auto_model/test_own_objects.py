"""Losses, metrics and layers of the user's own, in the files of runs."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha import AutoModel
from keras_dha.architecture.choice import Choice
from tests.auto_model.directories import Kill
from tests.auto_model.directories import Killed
from tests.auto_model.directories import names
from tests.auto_model.directories import quick
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X as BYTES
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import fit as fit_on

EPOCHS = 3
X = BYTES / 255

pytestmark = pytest.mark.usefixtures("every_epoch")


class Entropy(keras.losses.Loss):
    """A loss that nobody registered."""

    def call(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


class Scaled(layers.Layer):
    """A layer that nobody registered."""

    def call(self, inputs):
        return inputs * 2.0

    def compute_output_shape(self, input_shape):
        return input_shape


def top1(y_true, y_pred):
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


def squashed(inputs):
    return keras.ops.tanh(inputs)


class Decay(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.01

    def get_config(self):
        return {}


OWN = {"Entropy": Entropy, "top1": top1, "Scaled": Scaled}
OWN |= {"squashed": squashed, "Decay": Decay}


def network(*within, activation=None):
    keras.utils.set_random_seed(4)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *within,
            layers.Flatten(),
            layers.Dense(4, activation=activation),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def compiled_base():
    """Loss and metrics of a part are in the file as well."""
    base = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(1, 1)])
    base.compile(loss=Entropy())
    return base


def fit(model, **kwargs):
    return fit_on(model, X, **kwargs)


def killed(model, epoch):
    with pytest.raises(Killed):
        fit(model, epochs=EPOCHS, callbacks=[Kill(epoch)])


# Name: what has it, a function that makes a network and arguments.
CASES = {
    "Entropy": lambda: (network(), {"compile": {"loss": Entropy()}}),
    "top1": lambda: (network(), {"compile": {"metrics": [top1]}}),
    "Scaled": lambda: (network(Scaled()), {}),
    "squashed": lambda: (network(activation=squashed), {}),
    "Decay": lambda: (
        network(),
        {"base_schedule": Decay(), "hyperparameters": None},
    ),
}
ELSEWHERE = {
    "in a choice": lambda: network(
        Choice([Scaled(), layers.Rescaling(0.01)], name="c")
    ),
    "in a wrapper": lambda: network(
        layers.Reshape((8, 8)), layers.TimeDistributed(Scaled())
    ),
    "in a model": lambda: network(
        keras.Sequential([keras.Input((8, 8, 1)), Scaled()])
    ),
    "compiled with": lambda: network(compiled_base()),
}


def made(case, directory=None):
    net, arguments = CASES[case]()
    compile_with = arguments.pop("compile", {})
    model = quick(directory, net, strategy=None, **arguments)
    if compile_with:
        model.compile(**compile_with)
    return model


@contextlib.contextmanager
def registered(own):
    """The scope in which a class or function is registered."""
    keras.saving.register_keras_serializable("tests")(own)
    try:
        yield
    finally:
        registration = keras.src.saving.object_registration
        name = registration.GLOBAL_CUSTOM_NAMES.pop(own)
        keras.saving.get_custom_objects().pop(name)


@pytest.mark.parametrize("case", CASES)
def test_what_no_file_could_be_read_with_is_refused_at_once(case, tmp_path):
    model = made(case, tmp_path / "run")
    match = f"register_keras_serializable.*Received: .*{case}.*not locate"
    with pytest.raises(ValueError, match=match) as caught:
        fit(model, callbacks=[Kill(0)])
    assert len(str(caught.value)) < 600
    assert model.joint is None
    assert names(tmp_path / "run") == []


@pytest.mark.parametrize("case", ELSEWHERE)
def test_wherever_it_is(case, tmp_path):
    model = quick(tmp_path, ELSEWHERE[case](), strategy=None)
    with pytest.raises(ValueError, match="not locate class '(Scaled|Entropy)"):
        fit(model, callbacks=[Kill(0)])
    assert names(tmp_path) == []


@pytest.mark.parametrize("case", ["Entropy", "top1", "Scaled"])
def test_what_is_registered_goes_on(case, tmp_path):
    expected = fit(made(case), epochs=EPOCHS).history["loss"]
    with registered(OWN[case]):
        killed(made(case, tmp_path), 1)
        model = made(case, tmp_path)
        assert fit(model, epochs=EPOCHS).history["loss"] == expected
        loaded = AutoModel.load(tmp_path / "run.keras")
        np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
        again = made(case, tmp_path)
        history = fit(again, epochs=EPOCHS, callbacks=[Kill(0)]).history
        assert history["loss"] == expected
        model.save(tmp_path / "saved.keras")


@pytest.mark.parametrize("case", ["Entropy", "top1", "Decay"])
def test_what_is_known_in_a_scope_goes_on_there(case, tmp_path):
    with keras.saving.custom_object_scope(OWN):
        killed(made(case, tmp_path), 1)
    match = "No checkpoint .*custom_object_scope.*Could not locate"
    with pytest.raises(ValueError, match=match) as caught:
        fit(made(case, tmp_path), epochs=EPOCHS)
    assert len(str(caught.value)) < 1500
    with keras.saving.custom_object_scope(OWN):
        fit(made(case, tmp_path), epochs=EPOCHS)


@pytest.mark.parametrize("case", ["Entropy", "top1", "Scaled"])
def test_what_is_registered_later_is_the_same_run(case, tmp_path):
    """Though its file asks for it by the name that it had."""
    with keras.saving.custom_object_scope(OWN):
        killed(made(case, tmp_path), 1)
        with registered(OWN[case]):
            fit(made(case, tmp_path), epochs=EPOCHS)


@pytest.mark.parametrize("case", ["Entropy", "top1", "Scaled", "Decay"])
def test_what_is_saved_all_the_same_is_read_with_its_objects(case, tmp_path):
    model, path = made(case), tmp_path / "run.keras"
    fit(model, epochs=1)
    with pytest.warns(UserWarning, match="register_keras_serializable"):
        model.save(path)
    with pytest.raises((TypeError, ValueError)):
        AutoModel.load(path)
    loaded = AutoModel.load(path, custom_objects=OWN)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.evaluate(X, Y) == model.evaluate(X, Y)
    with keras.saving.custom_object_scope(OWN):
        AutoModel.load(path)


@keras.saving.register_keras_serializable("tests")
class Forgetful(layers.Layer):
    """Its configuration lacks what its constructor takes."""

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return super().get_config()


@keras.saving.register_keras_serializable("tests")
class Holding(layers.Layer):
    """Makes what it holds itself, so that no file has it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.held = Scaled()

    def build(self, input_shape):
        self.held.build(input_shape)

    def call(self, inputs):
        return self.held(inputs)


def test_what_cannot_be_made_anew_is_refused(tmp_path):
    model = quick(tmp_path, network(Forgetful(0.01)))
    with pytest.raises(ValueError, match="get_config.*Forgetful=.*'factor'"):
        fit(model)
    assert names(tmp_path) == []


def test_what_is_in_no_file_need_not_be_registered(tmp_path):
    model = quick(tmp_path, network(Holding()))
    fit(model, epochs=1)
    loaded = AutoModel.load(tmp_path / "run.keras")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


@pytest.mark.filterwarnings("ignore:The object being serialized includes")
def test_a_lambda_within_a_layer_is_refused(tmp_path):
    """Of which Keras writes something, and reads nothing."""
    model = quick(tmp_path / "run", network(activation=lambda x: x / 2.0))
    with pytest.raises(ValueError, match="function of your own.*Dense=dense"):
        fit(model)
    assert names(tmp_path / "run") == []


@keras.saving.register_keras_serializable("tests")
class Drawing(layers.Layer):
    """Draws a seed when it is made, and weights when it is built."""

    built_ones = []

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator()

    def build(self, shape):
        self.built_ones.append(self.name)
        self.kernel = self.add_weight(shape=shape[1:])

    def call(self, inputs):
        noise = keras.random.uniform(inputs.shape[1:], seed=self.generator)
        return inputs * self.kernel + noise


def test_a_check_leaves_no_trace(tmp_path):
    histories = []
    for directory in (None, tmp_path):
        keras.utils.set_random_seed(3)
        model = quick(directory, network(Drawing()))
        made_before = len(Drawing.built_ones)
        histories.append(fit(model, epochs=1).history)
        assert len(Drawing.built_ones) == made_before
    assert histories[0] == histories[1]
