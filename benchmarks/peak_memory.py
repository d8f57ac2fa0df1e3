"""What a search takes of the machine's memory, against plain training.

Each in a process of its own: twenty Keras steps of the network that
`benchmarks.step_cost` compares with, and twenty steps of the supernet, of
sampled paths. Noted is the highest resident memory, before anything was built
and in all, so with what tracing takes: the graphs of a supernet are larger
than those of one network, whatever runs of them and whatever the images are.

    python -m benchmarks.peak_memory --space resnet
    python -m benchmarks.peak_memory --space mobile --size 224 --width 0.5
"""

import argparse
import json
import resource
import subprocess
import sys

import keras_dha  # noqa: F401  before the first reading
from benchmarks import machine
from benchmarks import step_cost
from benchmarks.record import RESULTS

STEPS = 20
KINDS = {
    "plain": lambda space, path, shape, **changed: step_cost.plain_step(
        step_cost.derived(space, path, shape, **changed)
    ),
    "supernet inner": lambda space, path, shape, **changed: (
        step_cost.joint_step(step_cost.supernet(space, shape, **changed))
    ),
}


def highest():
    """Returns the highest resident memory of this process yet, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(space, kind, path, shape, **changed):
    """Returns MB before one kind of step was built, and in the end.

    Args:
        space: Name of a space.
        kind: Name of a kind of step.
        path: The candidates of the plain network.
        shape: That of an image.
        **changed: Arguments of the space in place of the usual ones.
    """
    before = highest()
    with step_cost.as_in_a_run(kind):
        step = KINDS[kind](space, path, shape, **changed)
        for _ in range(STEPS):
            step().numpy()
    return {"before": before, "highest": highest()}


def main():
    """Measures both kinds apart and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--space", choices=sorted(step_cost.SPACES), default="resnet"
    )
    parser.add_argument("--size", type=int, help="of 3-channel images")
    parser.add_argument("--width", type=float, help="of the space")
    parser.add_argument("--kind", choices=sorted(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = options.size
    shape = (size, size, 3) if size else step_cost.SHAPE
    changed = {"width": options.width} if options.width else {}
    if options.kind:
        found = measure(
            options.space, options.kind, options.path, shape, **changed
        )
        sys.stdout.write(json.dumps(found) + "\n")
        return
    path = [int(index) for index in step_cost.typical(options.space)]
    megabytes = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.peak_memory"]
        command += ["--space", options.space, "--kind", kind]
        command += ["--path", json.dumps(path)]
        command += ["--size", str(size)] if size else []
        command += ["--width", str(options.width)] if changed else []
        found = subprocess.run(
            command, check=True, capture_output=True, text=True
        )
        megabytes[kind] = json.loads(found.stdout.splitlines()[-1])
    record = {
        "benchmark": "peak_memory",
        "machine": machine.describe(),
        "space": options.space,
        "space_arguments": step_cost.SPACES[options.space] | changed,
        "path": path,
        "batch": step_cost.BATCH,
        "image": list(shape),
        "steps": STEPS,
        "megabytes": megabytes,
        "over_plain": megabytes["supernet inner"]["highest"]
        / megabytes["plain"]["highest"],
    }
    suffix = f"_{size}" if size else ""
    suffix += f"_width_{options.width}" if changed else ""
    (RESULTS / f"peak_memory_{options.space}{suffix}.json").write_text(
        json.dumps(record, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
