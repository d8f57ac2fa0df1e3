"""What the fused kernel of batch normalisation saves.

The default network, `spaces.resnet` with its 3x3 branches, on 128 images: as
it is, and with Keras' own layers in the place of ours, which is what is
delivered. Plain Keras training steps take turns in one process; first calls
are not counted, and medians are compared.

    python -m benchmarks.normalization
"""

import argparse
import json
import time

import numpy as np

from benchmarks import machine
from benchmarks import step_cost
from benchmarks.record import RESULTS
from keras_dha import stock

SHAPES = ((28, 28, 1), (32, 32, 3), (64, 64, 3))


def compare(shape, rounds):
    """Returns median milliseconds of a step, by whose layers they are of.

    Args:
        shape: That of an image.
        rounds: Integer, steps of each.
    """
    ours = step_cost.derived("resnet", step_cost.typical("resnet"), shape)
    compared = {
        "keras_dha": step_cost.plain_step(ours),
        "keras": step_cost.plain_step(stock.stock(ours)),
    }
    seconds = {name: [] for name in compared}
    for step in compared.values():
        step().numpy()
    for _ in range(rounds):
        for name, step in compared.items():
            begun = time.monotonic()
            step().numpy()
            seconds[name].append(time.monotonic() - begun)
    return {name: 1e3 * float(np.median(s)) for name, s in seconds.items()}


def main():
    """Measures all shapes and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    found = {
        "x".join(map(str, shape)): compare(shape, rounds) for shape in SHAPES
    }
    record = {
        "benchmark": "normalization",
        "machine": machine.describe(),
        "rounds": rounds,
        "batch": step_cost.BATCH,
        "milliseconds": found,
        "keras_over_ours": {
            name: times["keras"] / times["keras_dha"]
            for name, times in found.items()
        },
    }
    path = RESULTS / "normalization.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
