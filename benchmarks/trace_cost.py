"""What the first steps of the DARTS space cost, in processor seconds.

Processor time of the whole process, all threads: it does not depend on what
else runs on the machine, as the time on the wall does.

python -m benchmarks.trace_cost --strategy DSNAS --cells 8
"""

import argparse
import json
import pathlib
import time

import keras
import tensorflow as tf

import keras_dha
from benchmarks import machine
from keras_dha import compiled
from keras_dha.joint_model import JointModel

RESULTS = pathlib.Path(__file__).parent / "results"


def measure(strategy, cells, batch_size=32):
    """Builds the space; traces and runs its steps."""
    begun = time.process_time()
    network = keras_dha.spaces.darts((32, 32, 3), 10, cells=cells)
    built = time.process_time()
    joint = JointModel(
        network,
        keras.losses.SparseCategoricalCrossentropy(),
        strategy=getattr(keras_dha.strategies, strategy)(),
    )
    labels = tf.zeros((batch_size,), "int32")
    # Metrics create their variables first, as a run has it.
    outputs = tf.fill((batch_size, 10), 0.1)
    network.compute_metrics(None, labels, outputs)
    inner, outer = compiled.step_functions(joint, tf.distribute.get_strategy())
    batch = (tf.zeros((batch_size, 32, 32, 3)), labels)
    steps = {"": (inner, (batch, tf.constant(1.0)))}
    if joint.needs_search_data:
        steps["joint_"] = (outer, (batch, tf.constant(1.0), batch))
    seconds = {"build_seconds": built - begun}
    with compiled.unoptimized_graphs():
        for name, (step, arguments) in steps.items():
            times = [time.process_time()]
            step.get_concrete_function(*arguments)
            for _ in range(2):
                times.append(time.process_time())
                step(*arguments)
            times.append(time.process_time())
            for what, a, b in zip(
                ("trace", "first_step", "second_step"),
                times[:-1],
                times[1:],
                strict=True,
            ):
                seconds[f"{name}{what}_seconds"] = b - a
    return {
        "strategy": strategy,
        "cells": cells,
        "channels": 16,
        "batch_size": batch_size,
        **seconds,
    }


def main():
    """Measures once and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", default="DSNAS")
    parser.add_argument("--cells", type=int, default=8)
    options = parser.parse_args()
    record = {
        "benchmark": "trace_cost",
        "machine": machine.describe(),
        "clock": "process_time",
        "runs": 1,
        **measure(options.strategy, options.cells),
    }
    path = RESULTS / f"trace_cost_{options.strategy.lower()}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
