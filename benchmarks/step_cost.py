"""What a joint step costs, part by part, against a plain Keras step.

The derived residual network (3x3 branches) and the supernet it comes from, on
128 images of 28x28x1. All steps are compiled in one process, first calls are
not counted, and the steps take turns, so that a busy moment of the machine
hits all alike; medians are compared.

    python -m benchmarks.step_cost
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks import machine
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.spaces import resnet
from keras_dha.architecture.strategies import DSNAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.hyperparameters.learned import AUTO
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.joint_model import JointModel

BATCH, SHAPE, CLASSES = 128, (28, 28, 1), 10
RESULTS = pathlib.Path(__file__).parent / "results" / "step_cost.json"


def batch(size, seed):
    """Returns random images and labels; what they show costs nothing."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (size, *SHAPE), dtype="uint8")
    return tf.constant(images), tf.constant(
        generator.integers(0, CLASSES, size)
    )


def network(is_supernet):
    """Returns the supernet, or the network of its first candidates."""
    supernet = resnet(SHAPE, CLASSES)
    if is_supernet:
        return supernet
    for decision in find_decisions(supernet):
        decision.freeze(0)
    return derive(supernet)


def plain_step():
    """Returns Keras' own training step on the derived network."""
    model = network(False)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=False,
    )
    images, labels = batch(BATCH, 0)
    step = tf.function(
        lambda x, y: model.train_step((tf.cast(x, "float32"), y))["loss"],
        autograph=False,
        jit_compile=False,
    )
    return lambda: step(images, labels)


def joint_step(is_supernet=False, hyper=False, policy=False, outer=False):
    """Returns a step of the joint model with some of its parts."""
    augmentation = None
    if policy:
        augmentation = DifferentiableAugmentation()
        augmentation.build((None, *SHAPE))
    model = JointModel(
        network(is_supernet),
        keras.losses.SparseCategoricalCrossentropy(),
        strategy=DSNAS() if is_supernet else None,
        augmentation=augmentation,
        hyperparameters=LearnedHyperparameters(AUTO if hyper else None),
    )
    search = (batch(BATCH // 2, 1),) if outer else ()
    step = tf.function(model.train_step, autograph=False, jit_compile=False)
    arguments = (batch(BATCH, 0), tf.constant(0.01), *search)
    return lambda: step(*arguments)


def steps():
    """Returns the steps to compare, by name."""
    parts = {"hyper": True, "policy": True}
    return {
        "plain": plain_step(),
        "inner": joint_step(),
        "inner, hyperparameters": joint_step(hyper=True),
        "inner, hyperparameters and policy": joint_step(**parts),
        "joint, hyperparameters": joint_step(hyper=True, outer=True),
        "joint, hyperparameters and policy": joint_step(**parts, outer=True),
        "supernet inner": joint_step(True),
        "supernet inner, all": joint_step(True, **parts),
        "supernet joint, all": joint_step(True, **parts, outer=True),
    }


def main():
    """Measures all steps in turn and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    compared = steps()
    first, seconds = {}, {name: [] for name in compared}
    for name, step in compared.items():
        begun = time.monotonic()
        step()
        first[name] = time.monotonic() - begun
    for _ in range(rounds):
        for name, step in compared.items():
            begun = time.monotonic()
            step().numpy()
            seconds[name].append(time.monotonic() - begun)
    medians = {name: float(np.median(s)) for name, s in seconds.items()}
    record = {
        "benchmark": "step_cost",
        "machine": machine.describe(),
        "rounds": rounds,
        "batch": BATCH,
        "search_batch": BATCH // 2,
        "milliseconds": {k: 1e3 * v for k, v in medians.items()},
        "over_plain": {k: v / medians["plain"] for k, v in medians.items()},
        "first_call_seconds": first,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
