"""Arms side by side on one data set: the command line, the loop, the record.

For benchmarks whose arms differ in how a network comes about, and in nothing
else: the same images, the same number of epochs, one run for each seed.
"""

import argparse
import itertools

import keras

from benchmarks import images
from benchmarks.record import RESULTS
from benchmarks.record import Record


def compare(benchmark, description, arms, epochs, run, **settings):
    """Runs what the record of a benchmark does not hold yet.

    Args:
        benchmark: Its name.
        description: Text whose first line the command line's help shows.
        arms: Sequence of the arms' names.
        epochs: Integer, unless the command line says otherwise.
        run: Function `(arm, data, epochs, seed)` that trains once and returns
            what is kept of it, a dict.
        **settings: What all runs have in common beside data and epochs.

    Returns:
        The `Record`.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--dataset", choices=images.NAMES, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--data", help="folder of the packed image files")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument(
        "--anew", nargs="+", default=(), help="prefixes of arms to run again"
    )
    parser.add_argument("--output")
    options = parser.parse_args()
    data = images.load(options.dataset, options.limit, options.data)
    record = Record(
        options.output or RESULTS / f"{benchmark}_{options.dataset}.json",
        benchmark,
        {
            "dataset": options.dataset,
            "train_images": len(data.x_train),
            "test_images": len(data.x_test),
            "epochs": options.epochs,
            **settings,
        },
        options.anew,
    )
    for seed, arm in itertools.product(range(options.seeds), options.arms):
        if not record.has(arm, seed):
            record.add(arm, seed, run(arm, data, options.epochs, seed))
            keras.utils.clear_session()
    return record
