"""What `import keras_dha` costs beside `import tensorflow, keras`.

Both are timed in fresh processes, in turn, so that what else the machine
does falls on both alike; the result is the ratio of the medians, with the
spread. Writes benchmarks/results/import_time.json; the goal is at most 1.2.

    python -m benchmarks.import_time
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

from benchmarks import machine

RUNS = 10
GOAL = 1.2
STATEMENTS = {
    "tensorflow_and_keras": "import tensorflow, keras",
    "keras_dha": "import tensorflow, keras, keras_dha",
    # What a first use loads, for the record.
    "keras_dha_auto_model": "import keras_dha; keras_dha.AutoModel",
}
RESULT = pathlib.Path(__file__).parent / "results" / "import_time.json"


def seconds(statement):
    """Returns how long a statement takes in a fresh process."""
    code = (
        "import time; start = time.perf_counter()\n"
        f"{statement}\n"
        "print(time.perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return float(done.stdout.split()[-1])


def main():
    """Measures, writes the result and shows it."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    times = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():
        seconds(statement)  # fills the disk cache, not counted
    for _ in range(RUNS):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    median = {name: statistics.median(t) for name, t in times.items()}
    base = median["tensorflow_and_keras"]
    result = {
        "goal": GOAL,
        "ratio": median["keras_dha"] / base,
        "ratio_with_auto_model": median["keras_dha_auto_model"] / base,
        "seconds": {
            name: {"median": median[name], "min": min(t), "max": max(t)}
            for name, t in times.items()
        },
        "runs": RUNS,
        "machine": machine.describe(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
