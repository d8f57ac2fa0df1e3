"""Hyperparameters that start off the mark, against a grid of fixed ones."""

import numpy as np

import keras_dha
from benchmarks import images

# Nine fixed values; learning starts at the middle one times a factor.
GRIDS = {
    "learning_rate": [float(x) for x in np.geomspace(1e-2, 1.0, 9)],
    "weight_decay": [float(x) for x in np.geomspace(5e-6, 5e-2, 9)],
}
RANGES = {"learning_rate": (1e-4, 10.0), "weight_decay": (1e-6, 0.5)}


def planted_value(
    name,
    seeds=3,
    epochs=15,
    limit=10_000,
    dataset="fashion_mnist",
    data=None,
    start=(1 / 30, 30),
    grid=None,
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
    """
    loaded = images.load(dataset, limit, data)
    grid = grid or GRIDS[name]
    middle = GRIDS[name][len(GRIDS[name]) // 2]
    arms = {f"fixed {value:.4g}": value for value in grid}
    for factor in start:
        arms[f"learned from {factor:.4g}x"] = keras_dha.Range(
            *RANGES[name], start=middle * factor
        )
    record = {
        "dataset": loaded.name,
        "seeds": seeds,
        "epochs": epochs,
        "train_images": len(loaded.x_train),
        "middle": middle,
        "accuracies": {arm: [] for arm in arms},
        "trajectories": {},
        "undone": {},
    }
    for seed in range(seeds):
        for arm, value in arms.items():
            model = keras_dha.AutoModel(
                strategy=None,
                augmentation=None,
                hyperparameters={name: value},
                seed=seed,
            )
            model.fit(loaded.x_train, loaded.y_train, epochs=epochs, verbose=0)
            _, accuracy = model.evaluate(loaded.x_test, loaded.y_test)
            record["accuracies"][arm].append(accuracy)
            if isinstance(value, keras_dha.Range):
                path = model.result.history[name]
                record["trajectories"].setdefault(arm, []).append(path)
                undone = model.result.cost["undone"]
                record["undone"].setdefault(arm, []).append(undone)
    means = {arm: float(np.mean(a)) for arm, a in record["accuracies"].items()}
    best = max(v for arm, v in means.items() if arm.startswith("fixed"))
    behind = {
        arm: best - mean
        for arm, mean in means.items()
        if arm.startswith("learned")
    }
    return {**record, "means": means, "behind_best_fixed": behind}


def learning_rate(**options):
    """Plants a learning rate that is too low or too high."""
    return planted_value("learning_rate", **options)


def weight_decay(**options):
    """Plants a weight decay that is too low or too high."""
    return planted_value("weight_decay", **options)
