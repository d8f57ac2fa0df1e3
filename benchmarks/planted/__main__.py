"""Runs one planted truth and writes its record.

    python -m benchmarks.planted architecture --strategy GDAS
        digits; a useful branch among crippled ones (nothing, no view of the
        neighbours, the image blurred away): how many of 10 seeds pick it
    python -m benchmarks.planted invariance --operation rotate
        Fashion-MNIST; search split and test changed by one operation,
        training images not: the policy must turn to that operation, and help
        on test images so changed
    python -m benchmarks.planted destruction --operation flip
        Fashion-MNIST; labels that tell left from right, or bright from dark:
        what destroys them must fall
    python -m benchmarks.planted learning_rate --start 0.0333 30
        started at these factors of the middle of a grid of nine fixed rates
    python -m benchmarks.planted weight_decay
        the same for weight decay, the rate being learned as by default

The last two keep their record run by run, and go on with it.

An option that an experiment does not know is refused by it.
"""

import argparse
import json
import pathlib

from benchmarks import images
from benchmarks import machine
from benchmarks.planted import policies
from benchmarks.planted import values
from benchmarks.planted.architecture import architecture

RESULTS = pathlib.Path(__file__).parents[1] / "results"
EXPERIMENTS = {
    f.__name__: f
    for f in (
        architecture,
        policies.invariance,
        policies.destruction,
        values.learning_rate,
        values.weight_decay,
    )
}
OPERATIONS = {
    policies.invariance: sorted(policies.INVARIANCES),
    policies.destruction: sorted(policies.DESTRUCTIONS),
}


def main():
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--outer-every", type=int)
    parser.add_argument(
        "--strategy", help="name of a `keras_dha.strategies` class, or auto"
    )
    parser.add_argument("--operation", help="which one is planted")
    parser.add_argument("--clean", type=float)
    parser.add_argument(
        "--estimator", choices=("influence", "dha", "relaxed", "relax")
    )
    parser.add_argument("--start", type=float, nargs="+")
    parser.add_argument("--grid", type=float, nargs="+")
    parser.add_argument("--dataset", choices=images.NAMES)
    parser.add_argument("--data", help="folder of the packed image files")
    parser.add_argument("--only", help="prefix of the arms to run")
    parser.add_argument(
        "--anew", nargs="+", help="prefixes of arms to run again"
    )
    parser.add_argument("--output")
    options = vars(parser.parse_args())
    experiment = EXPERIMENTS[options.pop("experiment")]
    given = {k: v for k, v in options.items() if v is not None}
    known = OPERATIONS.get(experiment, [])
    if "operation" in given and given["operation"] not in known:
        parser.error(f"expected one of {known}, got {given['operation']!r}")
    if experiment in (values.learning_rate, values.weight_decay):
        experiment(**given)
        return
    output = given.pop("output", None)
    variant = [
        str(given[k])
        for k in ("strategy", "operation", "estimator", "clean", "dataset")
        if k in given
    ]
    name = "_".join(["planted", experiment.__name__, *variant]).lower()
    record = {
        "benchmark": name,
        "machine": machine.describe(),
        **experiment(**given),
    }
    path = pathlib.Path(output or RESULTS / f"{name}.json")
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
