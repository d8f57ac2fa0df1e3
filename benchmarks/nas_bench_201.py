r"""Table truth: a search on CIFAR-10 images, judged by published accuracies.

For each seed one search in `keras_dha.spaces.nas_bench_201` on a proxy that
two cores can train: a part of the training images, made smaller, in a
network with fewer channels and one cell a stage. The cell that it ends with
is looked up in the benchmark's table: test accuracy of the full network after
200 epochs, mean of three trainings. To compare with:

    random        the mean over all cells of the operations searched, which
                  is what a random choice expects
    best of k     (`--strategy random`) k random cells, each trained plainly
                  on the proxy for a k-th of the search's epochs; the one that
                  does best on images that the proxy did not train on

    python -m benchmarks.nas_bench_201 --data FOLDER --arguments \
        '{"warmup": 0.4, "until": 0.97, "margin": 0.95, "learning_rate": 0.01}'
    python -m benchmarks.nas_bench_201 --data FOLDER --strategy random

The folder holds `nasbench201_cifar10.csv.gz` and `cifar10_jpeg.npz`: CIFAR-10
as JPEG of quality 75, which are not quite its own pixels.
"""

import argparse
import csv
import gzip
import io
import json
import pathlib
import re
import time

import keras
import numpy as np
from PIL import Image

import keras_dha
from benchmarks import machine
from keras_dha.architecture.spaces.nas_bench_201 import EDGES
from keras_dha.architecture.spaces.nas_bench_201 import OPERATIONS

RESULTS = pathlib.Path(__file__).parent / "results"
OPTIMUM = 94.3733
HELD_OUT = 2000


def published(folder):
    """Returns a dict from each cell to its row of the table."""
    path = folder / "nasbench201_cifar10.csv.gz"
    with gzip.open(path, "rt") as text:
        return {row["arch"]: row for row in csv.DictReader(text)}


def training_images(folder, count, size):
    """Returns the first `count` training images, and their labels."""
    with np.load(folder / "cifar10_jpeg.npz") as data:
        raw = data["train_jpeg"].tobytes()
        bounds = data["train_offsets"][: count + 1]
        labels = data["y_train"][:count].astype("int64")
    pixels = []
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        image = Image.open(io.BytesIO(raw[begin:end])).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.LANCZOS)
        pixels.append(np.asarray(image))
    return np.stack(pixels), labels


class Trajectory(keras.callbacks.Callback):
    """Notes the probability of the leading operation of each edge."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        genes = list(self.model.genotype.values())[: len(EDGES)]
        self.epochs.append(
            [round(max(g["probabilities"].values()), 3) for g in genes]
        )


def search(images, labels, space, strategy, options, seed):
    """Searches once; returns the cell's string and what it took."""
    model = keras_dha.AutoModel(
        space,
        strategy=strategy,
        augmentation=None,
        hyperparameters=None,
        search_split=options.search_split,
        outer_every=options.outer_every,
        seed=seed,
    )
    trajectory = Trajectory()
    begun = time.monotonic()
    model.fit(
        images,
        labels,
        epochs=options.epochs,
        batch_size=options.batch_size,
        callbacks=[trajectory],
        verbose=0,
    )
    genotype = model.result.genotype
    cell = keras_dha.spaces.nas_bench_201_string(genotype)
    genes = list(genotype.values())[: len(EDGES)]
    return {
        "seed": seed,
        "cell": cell,
        "seconds": time.monotonic() - begun,
        "phases": model.result.cost["phases"],
        "probabilities": [
            [round(p, 3) for p in gene["probabilities"].values()]
            for gene in genes
        ],
        "leading_probability": trajectory.epochs,
    }


def random_cell(generator, operations):
    """Returns the string of a cell drawn uniformly."""
    drawn = iter(generator.choice(operations, len(EDGES)))
    nodes = [[f"{next(drawn)}~{k}" for k in range(n)] for n in (1, 2, 3)]
    return "+".join("|" + "|".join(node) + "|" for node in nodes)


def best_of_random(images, labels, space, options, seed):
    """Trains k random cells on the proxy; returns the best one's record."""
    generator = np.random.default_rng(seed)
    tried, begun = [], time.monotonic()
    epochs = max(1, options.epochs // options.random)
    for _ in range(options.random):
        cell = random_cell(generator, options.operations)
        model = keras_dha.AutoModel(
            lambda shape, classes, cell=cell: space(
                shape, classes, architecture=cell
            ),
            augmentation=None,
            hyperparameters=None,
            seed=seed,
        )
        model.fit(
            images[HELD_OUT:],
            labels[HELD_OUT:],
            epochs=epochs,
            batch_size=options.batch_size,
            verbose=0,
        )
        accuracy = model.evaluate(images[:HELD_OUT], labels[:HELD_OUT])[1]
        tried.append((accuracy, cell))
        keras.backend.clear_session()
    return {
        "seed": seed,
        "cell": max(tried)[1],
        "seconds": time.monotonic() - begun,
        "epochs_each": epochs,
        "tried": [{"accuracy": a, "cell": c} for a, c in tried],
    }


def summarised(runs, table):
    """Returns the runs of one arm with their published accuracies."""
    for run in runs:
        row = table[run["cell"]]
        run["test200"] = float(row["cifar10_test200"])
        run["params_m"] = float(row["cifar10_params_m"])
    accuracies = [run["test200"] for run in runs]
    return {
        "mean_test200": float(np.mean(accuracies)),
        "min_test200": float(np.min(accuracies)),
        "mean_seconds": float(np.mean([run["seconds"] for run in runs])),
        "runs": runs,
    }


def parser():
    """Returns the command line's parser."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--data", type=pathlib.Path, required=True)
    made.add_argument("--strategy", default="DSNAS")
    made.add_argument(
        "--arguments",
        type=json.loads,
        help="the strategy's arguments, as JSON",
    )
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--random", type=int, default=5, help="k of best of k")
    made.add_argument("--images", type=int, default=20_000)
    made.add_argument("--size", type=int, default=16)
    made.add_argument("--channels", type=int, default=8)
    made.add_argument("--cells", type=int, default=1)
    made.add_argument("--epochs", type=int, default=10)
    made.add_argument("--batch_size", type=int, default=64)
    made.add_argument("--search_split", type=float, help="default 0.5")
    made.add_argument("--outer_every", type=int, help="default 2")
    made.add_argument("--affine", type=int, choices=(0, 1), default=0)
    made.add_argument("--operations", nargs="+", default=list(OPERATIONS))
    made.add_argument("--output", type=pathlib.Path)
    return made


# What a search has, and random cells do not.
OF_SEARCHES = {"arguments": {}, "search_split": 0.5, "outer_every": 2}


def parsed(arguments=None):
    """Returns the command line's options; refuses what has no effect."""
    made = parser()
    options = made.parse_args(arguments)
    for name, default in OF_SEARCHES.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif options.strategy == "random":
            made.error(f"--{name} is of searches: leave it out")
    return options


def main():
    """Searches for all seeds and writes the record."""
    options = parsed()
    table = published(options.data)
    images, labels = training_images(options.data, options.images, options.size)
    is_random = options.strategy == "random"
    arguments = {"k": options.random}
    if not is_random:
        strategy_class = getattr(keras_dha.strategies, options.strategy)
        arguments = strategy_class(**options.arguments).get_config()

    def space(shape, classes, architecture=None):
        return keras_dha.spaces.nas_bench_201(
            shape,
            classes,
            channels=options.channels,
            cells=options.cells,
            affine=bool(options.affine),
            operations=options.operations,
            architecture=architecture,
        )

    every = [
        float(row["cifar10_test200"])
        for cell, row in table.items()
        if set(re.findall(r"\|(\w+)~", cell)) <= set(options.operations)
    ]
    record = {
        "benchmark": "nas_bench_201",
        "machine": machine.describe(),
        "strategy": options.strategy,
        "strategy_arguments": arguments,
        "proxy": {
            name: getattr(options, name)
            for name in (
                "images",
                "size",
                "channels",
                "cells",
                "epochs",
                "batch_size",
                "search_split",
                "outer_every",
                "affine",
                "operations",
            )
            if not (is_random and name in OF_SEARCHES)
        },
        "optimum_test200": OPTIMUM,
        "random_mean_test200": float(np.mean(every)),
        "random_median_test200": float(np.median(every)),
    }
    path = options.output or (
        RESULTS / f"nas_bench_201_{options.strategy.lower()}.json"
    )
    runs = []
    for seed in range(options.seeds):
        if is_random:
            found = best_of_random(images, labels, space, options, seed)
        else:
            strategy = strategy_class(**options.arguments)
            found = search(images, labels, space, strategy, options, seed)
        runs.append(found)
        keras.backend.clear_session()
        # After each seed, so that a long run can be read while it goes on.
        record["search"] = summarised(runs, table)
        path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
