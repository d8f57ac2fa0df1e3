"""Which `fit` is that of a directory, and which another one."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from keras import optimizers

from keras_dha import AutoModel
from keras_dha import Range
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.augmentation.layer import DifferentiableAugmentation
from tests.auto_model.directories import EPOCHS
from tests.auto_model.directories import SLOW
from tests.auto_model.directories import Kill
from tests.auto_model.directories import killed
from tests.auto_model.directories import names
from tests.auto_model.directories import plain
from tests.auto_model.directories import quick
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import space

pytestmark = pytest.mark.usefixtures("every_epoch")


def test_without_a_seed_that_of_the_run_goes_on(tmp_path):
    killed(quick(tmp_path, seed=None), 2)
    seed = json.loads((tmp_path / "configuration.json").read_text())["seed"]
    model = quick(tmp_path, seed=None)
    fit(model, epochs=EPOCHS)
    expected = quick(None, seed=seed)
    fit(expected, epochs=EPOCHS)
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))


# Of one run that was killed: each of them would take as long again.
OTHERS = [
    ({}, {"epochs": 9}, "epochs: 8 there, 9 now"),
    ({"seed": 2}, {}, "seed: 1 there, 2 now"),
    ({"hyperparameters": None}, {}, "hyperparameters: "),
    ({"network": plain(units=4)}, {}, "search_space: "),
    ({"optimizer": "nesterov"}, {}, "optimizer: "),
    # The default is a network's to choose.
    ({"optimizer": "sgd"}, {}, "optimizer: null there"),
    (
        {"optimizer": optimizers.SGD(0.01)},
        {},
        "optimizer.momentum: null there, 0.0",
    ),
    ({}, {"batch_size": 24}, "batch_size: 16 there, 24 now"),
    ({}, {"class_weight": {0: 2.0}}, "class_weight: null there"),
    ({}, {"x": X + 1.0}, "x: float32"),
    ({}, {"y": (Y + 1) % CLASSES}, "y: int64"),
    (
        {"hyperparameters": SLOW},
        {"search_data": (X, Y)},
        "search_data: None there",
    ),
]


def test_another_run_is_refused_and_nothing_is_lost(tmp_path):
    killed(quick(tmp_path), 2)
    before = names(tmp_path)
    for model, run, name in OTHERS:
        with pytest.raises(ValueError, match=f"asked for otherwise.*{name}"):
            fit(quick(tmp_path, **model), **{"epochs": EPOCHS, **run})
        assert names(tmp_path) == before, name
    # What is alike but for the names that Keras counts goes on.
    fit(quick(tmp_path), epochs=EPOCHS)


def test_an_optimizer_is_known_by_its_numbers(tmp_path):
    def model(optimizer):
        return quick(tmp_path, hyperparameters=None, optimizer=optimizer)

    killed(model(optimizers.SGD(0.01)), 2)
    schedule = optimizers.schedules.CosineDecay(0.01, 9)
    for now, name in (
        (optimizers.SGD(0.02), "learning_rate: 0.01 there, 0.02 now"),
        (optimizers.SGD(0.01, momentum=0.5), "momentum: 0.0 there, 0.5 now"),
        (
            optimizers.SGD(0.01, weight_decay=1e-3),
            "weight_decay: 0.0 there, 0.001 now",
        ),
        (optimizers.SGD(schedule), "base_schedule: "),
        (None, "learning_rate: 0.01 there, null now"),
    ):
        with pytest.raises(ValueError, match=f"asked for otherwise.*{name}"):
            fit(model(now), epochs=EPOCHS)
    fit(model(optimizers.SGD(0.01)), epochs=EPOCHS)
    assert names(tmp_path) == ["configuration.json", "result.json", "run.keras"]


@pytest.mark.parametrize(
    "given",
    [
        lambda: {
            "network": space((8, 8, 1), CLASSES),
            "strategy": DSNAS(until=0.5),
        },
        lambda: {
            "network": space((8, 8, 1), CLASSES),
            "strategy": ISTA(until=0.5),
        },
        lambda: {
            "augmentation": DifferentiableAugmentation(["Invert"], levels=2)
        },
    ],
    ids=["network", "network with codes", "augmentation"],
)
def test_what_was_given_once_may_be_given_again(tmp_path, given):
    """As in a cell of a notebook that is run again."""
    given = given()
    # In the search, and once the network was derived.
    for epoch in (1, 3):
        killed(quick(tmp_path, **given), epoch, epochs=4)
    history = fit(quick(tmp_path, **given), epochs=4).history
    assert len(history["loss"]) == 4
    again = fit(quick(tmp_path, **given), epochs=4, callbacks=[Kill(0)])
    assert again.history["loss"] == history["loss"]


def test_lists_are_known_by_the_arrays_that_they_make(tmp_path):
    lists = {"x": list(X), "y": Y.tolist()}
    killed(quick(tmp_path), 2, **lists)
    with pytest.raises(ValueError, match="asked for otherwise.*y: int64"):
        fit(quick(tmp_path), X, [*Y[1:].tolist(), 0], epochs=EPOCHS)
    seen = fit(quick(tmp_path), epochs=EPOCHS).history["loss"]
    assert seen == fit(quick(None), **lists, epochs=EPOCHS).history["loss"]
    assert fit(quick(tmp_path), **lists, epochs=EPOCHS).history["loss"] == seen


def test_search_data_may_be_lists(tmp_path):
    def fitted(*search_data):
        learned = {"learning_rate": 1e-4, "weight_decay": Range(1e-5, 1e-2)}
        model = quick(tmp_path, hyperparameters=learned)
        fit(model, epochs=1, search_data=search_data)

    images, labels = X.tolist(), Y.tolist()
    for _ in range(2):
        fitted(images, labels)
    labels[-1] = (labels[-1] + 1) % CLASSES
    with pytest.raises(ValueError, match="asked for otherwise.*search_data: "):
        fitted(images, labels)


def go_on(directory, dataset):
    model = quick(directory)
    fit(model, dataset, None, epochs=EPOCHS, batch_size=None)
    assert model.history.epoch == list(range(EPOCHS))
    return model


def test_what_is_measured_of_a_dataset_may_differ(tmp_path):
    """As of one that is shuffled, or changed at random, in part of it."""

    def dataset(highest):
        return as_dataset(X * (highest / 255), Y, 16)[0]

    killed(quick(tmp_path), 2, x=dataset(0.25), y=None, batch_size=None)
    model = go_on(tmp_path, dataset(0.375))
    # What goes on is the run that began with the first.
    for each in (model, AutoModel.load(tmp_path / "run.keras")):
        assert each._spec.value_range == pytest.approx((0.0, 0.25))
    with pytest.raises(ValueError, match="asked for otherwise.*x: "):
        go_on(tmp_path, dataset(0.25).map(lambda x, y: (x[:, :4], y)))


def test_a_dataset_may_show_fewer_classes_than_before(tmp_path):
    """One of which it is not known what it will show."""
    three, two = (as_dataset(X / 255, y, 16)[0].repeat() for y in (Y, Y % 2))
    killed(quick(tmp_path / "a"), 2, **endless(three))
    model = quick(tmp_path / "a")
    fit(model, epochs=EPOCHS, **endless(two))
    assert model.predict(X).shape[1] == CLASSES
    killed(quick(tmp_path / "b"), 2, **endless(two))
    with pytest.raises(ValueError, match="classes 0..1.*up to 2"):
        fit(quick(tmp_path / "b"), epochs=EPOCHS, **endless(three))


def endless(dataset):
    return {"x": dataset, "y": None, "batch_size": None, "steps_per_epoch": 6}


def test_a_function_is_known_by_what_it_builds(tmp_path):
    def builds(units):
        return lambda shape, classes: keras.Sequential(
            [plain(shape, units), layers.Dense(classes, "softmax")]
        )

    killed(quick(tmp_path, builds(5)), 2)
    fit(quick(tmp_path, builds(5)), epochs=EPOCHS)
    with pytest.raises(ValueError, match="search_space"):
        fit(quick(tmp_path, builds(6)), epochs=EPOCHS)


def test_without_a_seed_keras_seed_makes_the_same_run():
    seeds = []
    for seed in (7, 7, 8):
        keras.utils.set_random_seed(seed)
        seeds.append(AutoModel().settings.seed)
    assert seeds[0] == seeds[1] != seeds[2]
