"""Arms side by side on one data set: the command line, the loop, the record.

For benchmarks whose arms differ in how a network comes about, and in nothing
else: the same images, as many epochs or as much time, one run for each seed.
"""

import argparse
import itertools

import keras

from benchmarks import images
from benchmarks.record import RESULTS
from benchmarks.record import Record


def compare(benchmark, description, arms, extent, run, **settings):
    """Runs what the record of a benchmark does not hold yet.

    Args:
        benchmark: Its name.
        description: Text whose first line the command line's help shows.
        arms: Sequence of the arms' names.
        extent: How much each run trains, unless the command line says
            otherwise: an integer of epochs, or a float of seconds.
        run: Function `(arm, data, extent, seed)` that trains once and returns
            what is kept of it, a dict.
        **settings: What all runs have in common beside data and extent.

    Returns:
        The `Record`.
    """
    unit = "seconds" if isinstance(extent, float) else "epochs"
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--dataset", choices=images.NAMES, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--data", help="folder of the packed image files")
    parser.add_argument(f"--{unit}", type=type(extent), default=extent)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument(
        "--anew", nargs="+", default=(), help="prefixes of arms to run again"
    )
    parser.add_argument("--output")
    options = parser.parse_args()
    data = images.load(options.dataset, options.limit, options.data)
    extent = getattr(options, unit)
    record = Record(
        options.output or RESULTS / f"{benchmark}_{options.dataset}.json",
        benchmark,
        {
            "dataset": options.dataset,
            "train_images": len(data.x_train),
            "test_images": len(data.x_test),
            unit: extent,
            **settings,
        },
        options.anew,
    )
    for seed, arm in itertools.product(range(options.seeds), options.arms):
        if not record.has(arm, seed):
            record.add(arm, seed, run(arm, data, extent, seed))
            keras.utils.clear_session()
    return record


def outcome(model, data):
    """Returns what is kept of any run, a dict.

    Args:
        model: `AutoModel` that was fitted.
        data: `keras_dha.datasets.Dataset` whose test images judge it.
    """
    result = model.result
    return {
        "accuracy": model.evaluate(data.x_test, data.y_test)[1],
        "seconds": result.cost["seconds"],
        "epochs": len(result.history["loss"]),
        "parameters": result.cost["parameters"],
        "genotype": chosen(result),
    }


def chosen(result):
    """Returns the candidate of each choice of a `SearchResult`, a dict."""
    return {name: gene["choice"] for name, gene in result.genotype.items()}
