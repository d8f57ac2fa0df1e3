"""What a run was given: nobody gets another's result without being told."""

import contextlib
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import Range
from tests.auto_model.directories import Kill
from tests.auto_model.directories import Killed
from tests.auto_model.directories import names
from tests.auto_model.directories import plain
from tests.auto_model.directories import quick
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import X as BYTES
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import fit as fit_on

pytestmark = pytest.mark.usefixtures("every_epoch")

EPOCHS = 2
X = BYTES / 255


def fit(directory, *data, network=None, arguments=(), **kwargs):
    """A whole run, or what is left of it."""
    model = quick(directory, network, **dict(arguments))
    x, y = data or (X, Y)
    if y is None:
        kwargs["batch_size"] = None
    fit_on(model, x, y, **{"epochs": EPOCHS, **kwargs})
    return model


def kill(directory, *data, **kwargs):
    with pytest.raises(Killed):
        fit(directory, *data, callbacks=[Kill(1)], **kwargs)


def load(directory, *data, **kwargs):
    """A run that has ended: nothing of it is trained."""
    return fit(directory, *data, callbacks=[Kill(0)], **kwargs)


def told(name):
    """The scope in which it is said what was given otherwise."""
    match = f"given something else.*Received: directory=.*{name}: .* there"
    return pytest.warns(UserWarning, match=match)


def dataset(x=X, y=Y):
    return as_dataset(x, y, 16)[0], None


@pytest.mark.parametrize("begin", [kill, fit])
def test_all_of_arrays_is_compared(begin, tmp_path):
    count = 1500
    x = np.random.default_rng(0).normal(size=(count, 2))
    y = np.arange(count) % CLASSES
    begin(tmp_path, x, y)
    before, image, label = names(tmp_path), x.copy(), y.copy()
    image[2, 1] += 1.0
    label[2] = (label[2] + 1) % CLASSES
    for other, name in (((image, y), "x"), ((x, label), "y")):
        differs = rf"asked for otherwise.*\({name}: [^;]*\)$"
        with pytest.raises(ValueError, match=differs):
            fit(tmp_path, *other)
    assert names(tmp_path) == before
    fit(tmp_path, x, y)


@pytest.mark.parametrize("begin", [kill, fit])
def test_other_labels_of_a_dataset_are_refused(begin, tmp_path):
    begin(tmp_path, *dataset())
    before = names(tmp_path)
    match = r"asked for otherwise.*\(labels: \[\{0: .* there, \[\{0: .* now"
    one_more = [np.concatenate([part, part[:1]]) for part in (X, Y)]
    for other in (dataset(X, Y % 2), dataset(*one_more)):
        with pytest.raises(ValueError, match=match):
            fit(tmp_path, *other)
    assert names(tmp_path) == before
    fit(tmp_path, *dataset())


@pytest.mark.parametrize("begin", [kill, fit])
def test_labels_that_differ_from_pass_to_pass_are_not_compared(begin, tmp_path):
    """As of some examples of many, drawn anew each time."""
    passes = itertools.count(1)

    def drawn():
        first = next(passes) % 30
        return zip(X[first : first + 60], Y[first : first + 60], strict=True)

    signature = tf.TensorSpec((8, 8, 1)), tf.TensorSpec((), "int32")
    given = tf.data.Dataset.from_generator(drawn, output_signature=signature)
    given = given.batch(16)
    begin(tmp_path, given, None)
    next(passes)
    fit(tmp_path, given, None)


def test_of_an_endless_dataset_nothing_is_compared(tmp_path):
    for y in (Y, Y[::-1]):
        given, _ = dataset(X[::-1] if y is Y else X, y)
        fit(tmp_path, given.repeat(), None, steps_per_epoch=2)


def test_other_images_of_a_dataset(tmp_path):
    """As of folds that have as many of each class."""
    other = dataset(X[:, ::-1] * 0.5)
    kill(tmp_path, *dataset())
    # They may be changed at random, and what goes on learns from these.
    fit(tmp_path, *other)
    load(tmp_path, *dataset())
    with told("examples"):
        load(tmp_path, *other)


def noisy(given):
    """A dataset whose images are others in each pass, whatever the seeds."""
    generator = np.random.default_rng(0)

    def add(images):
        return images + generator.random(images.shape, "float32")

    def changed(x, y):
        return tf.ensure_shape(tf.numpy_function(add, [x], x.dtype), x.shape), y

    return given.map(changed)


def test_a_dataset_may_shuffle_itself_and_change_at_random(tmp_path):
    given, _ = dataset()
    for number, made in enumerate(
        (given.unbatch().shuffle(96).batch(9), noisy(given))
    ):
        for _ in range(2):
            fit(tmp_path / str(number), made, None)


def seeded(seed):
    keras.utils.set_random_seed(seed)
    return plain()


def test_other_initial_weights(tmp_path):
    kill(tmp_path, network=seeded(1))
    # Whoever draws them at random has others in each process.
    trained = seeded(2)
    first = fit(tmp_path, network=trained)
    # What a run has moved is no sign of anything.
    load(tmp_path, network=trained)
    load(tmp_path, network=seeded(1))
    with told("initial weights") as said:
        again = load(tmp_path, network=seeded(2), verbose=0)
    assert "set_random_seed" in str([each.message for each in said])
    np.testing.assert_array_equal(again.predict(X), first.predict(X))
    fit(tmp_path, network=seeded(2), arguments={"overwrite": True})
    load(tmp_path, network=seeded(2))


ARRAYS = {"validation_data": (X_NEW / 255, Y_NEW)}
OTHERS = {"validation_data": (X_NEW / 255, Y_NEW[::-1])}
VALIDATION = {
    "arrays": (ARRAYS, OTHERS),
    "lists": (
        {"validation_data": [list(X_NEW / 255), Y_NEW.tolist()]},
        {"validation_data": [list(X_NEW / 256), Y_NEW.tolist()]},
    ),
    "datasets": tuple(
        {"validation_data": dataset(*given["validation_data"])[0]}
        for given in (ARRAYS, {"validation_data": (X_NEW / 256, Y_NEW)})
    ),
    "unbatched": tuple(
        {"validation_data": as_dataset(X_NEW / 255, y)[0]}
        for y in (Y_NEW, Y_NEW % 2)
    ),
}


@pytest.mark.parametrize("kind", VALIDATION)
def test_other_validation_data(kind, tmp_path):
    """What is said of them is of those that were there."""
    given, other = VALIDATION[kind]
    kill(tmp_path, **given)
    with told("validation_data"):
        kill(tmp_path, **other)
    fit(tmp_path, **given)
    load(tmp_path, **given)
    # Without them nobody is told anything wrong.
    load(tmp_path)
    with told("validation_data"):
        load(tmp_path, **other)


def test_validation_data_that_differ_from_pass_to_pass(tmp_path):
    given = noisy(dataset(X_NEW / 255, Y_NEW)[0])
    for _ in range(2):
        fit(tmp_path, validation_data=given)


def test_a_validation_split_is_known(tmp_path):
    for _ in range(2):
        fit(tmp_path, validation_split=0.25)


def test_other_search_data(tmp_path):
    learned = {"learning_rate": 1e-4, "weight_decay": Range(1e-5, 1e-2)}
    given = {"arguments": {"hyperparameters": learned}}
    for x, is_told in ((X_NEW / 255, False), (X_NEW / 256, True)):
        said = told("search_data") if is_told else contextlib.nullcontext()
        with said:
            fit(tmp_path, search_data=dataset(x, Y_NEW)[0], **given)


def test_of_a_run_that_says_nothing_nothing_is_compared(tmp_path):
    given = {"network": seeded(1), **ARRAYS}
    fit(tmp_path, *dataset(), **given)
    path = tmp_path / "configuration.json"
    written = json.loads(path.read_text())
    assert set(written.pop("seen")) == {
        *("labels", "examples", "initial weights", "validation_data")
    }
    path.write_text(json.dumps(written))
    other = {"network": seeded(2), **OTHERS}
    load(tmp_path, *dataset(X * 0.5, Y[::-1]), **other)
