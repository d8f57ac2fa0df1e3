"""Learned hyperparameters against random draws, and the engines side by side.

    python -m benchmarks.hyperparameters draws --dataset fashion_mnist
        the defaults, learned in one run, against the best of 20 random pairs
        of learning rate and weight decay, each trained for the same steps;
        the best by accuracy on the split that the learned run learns from
    python -m benchmarks.hyperparameters engines --dataset fashion_mnist
        every engine and horizon on the same data and steps

One network without choices or augmentation throughout. The record is kept run
by run and gone on with.
"""

import argparse

import numpy as np

import keras_dha
from benchmarks import images
from benchmarks.record import RESULTS
from benchmarks.record import Record
from keras_dha.hyperparameters.engine import AUTO

DRAWS = 20
# What someone would draw from who knows little: logarithmically even.
DRAWN = {"learning_rate": (1e-4, 3.0), "weight_decay": (1e-5, 1e-2)}
# What forward mode and the implicit horizon leave fixed.
RATE, DECAY = 0.1, 5e-4
ENGINES = {
    "fixed 0.1": {"hyperparameters": None},
    "discounted": {},
    "one_step": {"horizon": "one_step"},
    "forward": {"horizon": "forward"},
    "implicit, decay alone": {
        "horizon": "implicit",
        "hyperparameters": {
            "learning_rate": RATE,
            "weight_decay": AUTO["weight_decay"],
        },
    },
    "autohas": {"hyperparameters": keras_dha.AutoHAS()},
}


def drawn(index):
    """Returns the pair of values of one random draw, a dict."""
    generator = np.random.default_rng(index)
    return {
        name: float(np.exp(generator.uniform(*np.log(ends))))
        for name, ends in DRAWN.items()
    }


def split(data, seed):
    """Returns the rows that train weights, and the tenth that does not."""
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    held = len(order) // 10
    return order[held:], order[:held]


def run(data, epochs, seed, **options):
    """Trains once; returns what is kept of it, a dict."""
    train, held = split(data, seed)
    model = keras_dha.AutoModel(
        strategy=None, augmentation=None, seed=seed, **options
    )
    search = (data.x_train[held], data.y_train[held])
    values = options.get("hyperparameters", "auto") or {}
    is_fixed = isinstance(values, dict) and not any(
        isinstance(v, keras_dha.Range) for v in values.values()
    )
    model.fit(
        data.x_train[train],
        data.y_train[train],
        epochs=epochs,
        verbose=0,
        **({} if is_fixed else {"search_data": search}),
    )
    cost, found = model.result.cost, model.result.hyperparameters
    return {
        "accuracy": model.evaluate(data.x_test, data.y_test)[1],
        "held_out_accuracy": model.evaluate(*search)[1],
        "seconds": cost["seconds"],
        "undone": cost["undone"],
        "values": {name: h["value"] for name, h in found.items()},
    }


def draws(record, data, epochs, seeds):
    """Learned in one run against the best of random draws."""
    for seed in range(seeds):
        if not record.has("learned", seed):
            record.add("learned", seed, run(data, epochs, seed))
        for index in range(DRAWS):
            arm = f"draw {index}"
            if not record.has(arm, seed):
                values = drawn(DRAWS * seed + index)
                kept = run(data, epochs, seed, hyperparameters=values)
                record.add(arm, seed, kept)
    arms = [f"draw {index}" for index in range(DRAWS)]
    held = np.array([record.values(a, "held_out_accuracy") for a in arms])
    tested = np.array([record.values(a) for a in arms])
    best = tested[np.argmax(held, axis=0), np.arange(held.shape[1])]
    record.write(
        learned=float(np.mean(record.values("learned"))),
        best_draw=float(best.mean()),
        mean_draw=float(tested.mean()),
        best_draws=best.tolist(),
    )


def engines(record, data, epochs, seeds):
    """Every engine and horizon."""
    for seed in range(seeds):
        for arm, options in ENGINES.items():
            if not record.has(arm, seed):
                record.add(arm, seed, run(data, epochs, seed, **options))
    record.write(means=record.means())


def main():
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", choices=("draws", "engines"))
    parser.add_argument(
        "--dataset", choices=images.NAMES, default="fashion_mnist"
    )
    parser.add_argument("--data", help="folder of the packed image files")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--anew", nargs="+", default=())
    parser.add_argument("--output")
    given = parser.parse_args()
    name = f"hyperparameters_{given.comparison}_{given.dataset}"
    record = Record(
        given.output or RESULTS / f"{name}.json",
        name,
        {
            "dataset": given.dataset,
            "train_images": given.limit,
            "epochs": given.epochs,
        },
        given.anew,
    )
    data = images.load(given.dataset, given.limit, given.data)
    compare = {"draws": draws, "engines": engines}[given.comparison]
    compare(record, data, given.epochs, given.seeds)


if __name__ == "__main__":
    main()
