"""Runs contestants one after the other and writes record, table, picture.

    python -m benchmarks.peers --dataset digits --budget 240 --seeds 3

Each run has a process of its own, the same images and test set, and the same
seconds from the moment its data are there. What a search holds out comes
from the training images; the test images are seen once, at the end. The
record is kept run by run and gone on with.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import machine
from benchmarks import tables
from benchmarks.record import RESULTS
from benchmarks.record import Record

# Seconds; other budgets have a record of their own.
BUDGET = 240.0


def run_one(options):
    """Runs one contestant in this process; prints nothing, writes a file."""
    from benchmarks import images
    from benchmarks.peers.contestants import CONTESTANTS
    from benchmarks.peers.family import Data
    from keras_dha.batches import fitting_batch_size

    data = _loaded(options, options.seeds)
    training = Data(data.x_train, data.y_train, images.value_range(data))
    batch_size = fitting_batch_size(data.x_train, len(data.x_train))
    begun = time.monotonic()
    model, details = CONTESTANTS[options.one](
        training, options.budget, options.seeds, batch_size
    )
    seconds = time.monotonic() - begun
    predicted = model.predict(
        data.x_test.astype("float32"), batch_size=256, verbose=0
    )
    record = {
        "accuracy": float(np.mean(predicted.argmax(-1) == data.y_test)),
        "seconds": seconds,
        "parameters": model.count_params(),
        "details": details,
        "plain_step_ms": plain_step_ms(),
    }
    pathlib.Path(options.output).write_text(json.dumps(record))


def plain_step_ms():
    """Times a step of the hand-made network, in milliseconds.

    What runs of several days can be compared by: 128 images of 32x32x3.
    """
    from benchmarks import step_cost
    from benchmarks.peers import family

    network = family.build(family.BY_HAND, (32, 32, 3), 10, (0.0, 255.0))
    return step_cost.median_ms(step_cost.plain_step(network), 23)


def _loaded(options, seed):
    """Returns the dataset of the run with a seed."""
    from benchmarks import images

    data = images.load(options.dataset, options.limit, options.data)
    if options.folds is None:
        return data
    return images.dealt(data, options.folds, seed, options.few)


def run_apart(options, name, seed):
    """Runs one contestant in a process of its own; returns its record."""
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "record.json"
        command = [sys.executable, "-m", "benchmarks.peers"]
        command += ["--dataset", options.dataset, "--one", name]
        command += ["--budget", str(options.budget), "--seeds", str(seed)]
        command += ["--output", str(output)]
        if options.limit is not None:
            command += ["--limit", str(options.limit)]
        if options.data is not None:
            command += ["--data", options.data]
        if options.folds is not None:
            command += ["--folds", str(options.folds)]
        if options.few:
            command += ["--few"]
        subprocess.run(command, check=True)
        return json.loads(output.read_text())


def table(record):
    """Returns the record as rows of Markdown, the best first."""
    header = ["contestant", "test accuracy, %", "seeds", "seconds"]
    rows = []
    for name in ranked(record):
        accuracy = 100 * np.array(record.values(name))
        rows.append(
            [
                name,
                tables.mean_and_spread(accuracy),
                str(len(accuracy)),
                f"{np.mean(record.values(name, 'seconds')):.0f}",
                f"{np.mean(record.values(name, 'parameters')):.0f}",
            ]
        )
    return tables.markdown([*header, "parameters"], rows)


def ranked(record):
    """Returns the names of the contestants, the most accurate first."""
    return sorted(record.arms, key=lambda name: -np.mean(record.values(name)))


def picture(record, path):
    """Draws each contestant's runs and their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    names = ranked(record)[::-1]
    for height, name in enumerate(names):
        values = 100 * np.array(record.values(name))
        colour = "tab:orange" if name == "keras_dha" else "tab:blue"
        axes.plot(values, [height] * len(values), "o", color=colour, alpha=0.5)
        axes.plot(np.mean(values), height, "|", color=colour, markersize=20)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("test accuracy, %")
    settings = record.content["settings"]
    axes.set_title(
        f"{settings['dataset']}, {settings['train_images']} images, "
        f"{settings['budget']:g} s each"
    )
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def file_name(settings):
    """Returns the name of the record of runs with these settings."""
    name = f"peers_{settings['dataset']}_{settings['train_images']}"
    if "folds" in settings:
        name += f"_of_{settings['folds']}_folds"
    if settings["budget"] != BUDGET:
        name += f"_{settings['budget']:.0f}s"
    return f"{name}.json"


def main():
    """Runs what the command line asks for."""
    from benchmarks import images

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=images.NAMES, required=True)
    parser.add_argument("--budget", type=float, default=BUDGET)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--data", help="folder of the packed image files")
    parser.add_argument(
        "--folds", type=int, help="deal all images into so many parts"
    )
    parser.add_argument(
        "--few", action="store_true", help="train on one part alone"
    )
    parser.add_argument("--contestants", help="comma-separated names")
    parser.add_argument(
        "--anew", nargs="+", default=(), help="contestants to run again"
    )
    parser.add_argument("--output")
    # Of one run apart; `seeds` is then its seed.
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options)
        return
    from benchmarks.peers.contestants import CONTESTANTS

    names = (options.contestants or ",".join(CONTESTANTS)).split(",")
    unknown = sorted(set(names) - set(CONTESTANTS))
    if unknown:
        parser.error(f"unknown contestants {unknown}")
    if options.few and options.folds is None:
        parser.error("--few says which of --folds is trained on")
    data = _loaded(options, 0)
    settings = {
        "dataset": options.dataset,
        "train_images": len(data.x_train),
        "test_images": len(data.x_test),
        "budget": options.budget,
        "cpus": machine.cpus(),
    }
    if options.folds is not None:
        # Parts differ by an image.
        settings["folds"] = options.folds
    path = pathlib.Path(options.output or RESULTS / file_name(settings))
    record = Record(path, "peers", settings, options.anew)
    # Seed by seed, so that what else the machine does meets all of them.
    for seed in range(options.seeds):
        for name in names:
            if not record.has(name, seed):
                record.add(name, seed, run_apart(options, name, seed))
    path.with_suffix(".md").write_text(table(record))
    picture(record, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
