"""Hyperparameters that start off the mark, against a grid of fixed ones."""

import numpy as np

import keras_dha
from benchmarks import images
from benchmarks.record import RESULTS
from benchmarks.record import Record
from keras_dha.hyperparameters.engine import AUTO

# Nine fixed values; learning starts at the middle one times a factor.
GRIDS = {
    "learning_rate": [float(x) for x in np.geomspace(1e-2, 1.0, 9)],
    "weight_decay": [float(x) for x in np.geomspace(5e-6, 5e-2, 9)],
}
RANGES = {"learning_rate": (1e-4, 10.0), "weight_decay": (1e-6, 0.5)}
# What else is learned, in all arms: with a learning rate that does not suit
# it, decay has the work of the rate to do.
BESIDE = {
    "learning_rate": {},
    "weight_decay": {"learning_rate": AUTO["learning_rate"]},
}


def planted_value(
    name,
    seeds=3,
    epochs=15,
    limit=10_000,
    dataset="fashion_mnist",
    data=None,
    start=(1 / 30, 30),
    grid=None,
    only="",
    anew=(),
    output=None,
):
    """Starts off the mark; compares with a grid of fixed values.

    Args:
        name: "learning_rate" or "weight_decay".
        seeds, epochs: Integers.
        limit: Integer, how many training images.
        dataset: Name of a set of `benchmarks.images`.
        data: Folder of its packed files.
        start: Factors of the grid's middle at which learning starts.
        grid: The fixed values.
        only: Prefix of the arms to run.
        anew: Prefixes of the arms to run again.
        output: Where the record is kept.
    """
    benchmark = f"planted_{name}_{dataset}"
    record = Record(
        output or RESULTS / f"{benchmark}.json",
        benchmark,
        {"dataset": dataset, "epochs": epochs, "train_images": limit},
        anew,
    )
    loaded = images.load(dataset, limit, data)
    middle = GRIDS[name][len(GRIDS[name]) // 2]
    arms = {f"fixed {value:.4g}": value for value in grid or GRIDS[name]}
    for factor in start:
        value = keras_dha.Range(*RANGES[name], start=middle * factor)
        arms[f"learned from {middle * factor:.4g}"] = value
    for seed in range(seeds):
        for arm, value in arms.items():
            if arm.startswith(only) and not record.has(arm, seed):
                record.add(arm, seed, _run(name, value, loaded, epochs, seed))
    means = record.means()
    fixed = [v for arm, v in means.items() if arm.startswith("fixed")]
    behind = {
        arm: max(fixed) - mean
        for arm, mean in means.items()
        if arm.startswith("learned") and fixed
    }
    record.write(means=means, behind_best_fixed=behind)


def _run(name, value, loaded, epochs, seed):
    """Trains once; returns what is kept of it."""
    model = keras_dha.AutoModel(
        strategy=None,
        augmentation=None,
        hyperparameters={name: value, **BESIDE[name]},
        seed=seed,
    )
    model.fit(loaded.x_train, loaded.y_train, epochs=epochs, verbose=0)
    _, accuracy = model.evaluate(loaded.x_test, loaded.y_test)
    kept = {"accuracy": accuracy}
    if isinstance(value, keras_dha.Range):
        kept["path"] = model.result.history[name]
        kept["undone"] = model.result.cost["undone"]
    return kept


def learning_rate(**options):
    """Plants a learning rate that is too low or too high."""
    planted_value("learning_rate", **options)


def weight_decay(**options):
    """Plants a weight decay that is too low or too high."""
    planted_value("weight_decay", **options)
