"""What a joint step costs, part by part, against a plain Keras step.

A supernet and a network derived from it, on 128 images of 28x28x1. Of
`spaces.resnet` it is the one with 3x3 branches, of `spaces.mobile` (a quarter
as wide, half as deep) the one of a thousand whose operations come nearest to
the mean over all. The supernet's steps are of sampled paths and, marked "same
path", of the derived network's own. All steps are compiled in one process.
First calls are not counted, nor are the thirty behind them: a candidate is
prepared when it first runs. Then the steps take turns, so that a busy moment
of the machine hits all alike; medians are compared.

    python -m benchmarks.step_cost
    python -m benchmarks.step_cost --space mobile
"""

import argparse
import contextlib
import json
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks import machine
from keras_dha import compiled
from keras_dha.architecture import spaces
from keras_dha.architecture.cost import NetworkCost
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.strategies import DSNAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.hyperparameters.engine import AUTO
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.joint_model import JointModel

BATCH, SHAPE, CLASSES = 128, (28, 28, 1), 10
RESULTS = pathlib.Path(__file__).parent / "results"
SPACES = {
    "resnet": {},
    "mobile": {"width": 0.25, "depth": 0.5},
}
# Of seven candidates one in a hundred has not run after so many steps.
UNCOUNTED = 30
# What a logit must lead by to be sampled always.
CERTAIN = 50.0


def batch(size, seed, shape):
    """Returns random images and labels; what they show costs nothing."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (size, *shape), dtype="uint8")
    return tf.constant(images), tf.constant(
        generator.integers(0, CLASSES, size)
    )


def supernet(space, shape=SHAPE, **changed):
    """Returns the supernet of a space, `changed` in place of its arguments."""
    arguments = SPACES[space] | changed
    return getattr(spaces, space)(shape, CLASSES, **arguments)


def typical(space):
    """Returns the candidates of the network to compare with."""
    cost = NetworkCost(supernet(space), measures=("flops",))
    sizes = [d.num_candidates for d in cost.decisions]
    if space == "resnet":
        return [0] * len(sizes)
    generator = np.random.default_rng(0)
    tried = [list(generator.integers(0, sizes)) for _ in range(1000)]
    mean = cost.expected([tf.fill([k], 1.0 / k) for k in sizes])["flops"]
    return min(tried, key=lambda i: abs(cost.of(i)["flops"] - float(mean)))


def derived(space, indices, shape=SHAPE, **changed):
    """Returns the plain network of some candidates."""
    return decided(supernet(space, shape, **changed), indices)


def decided(network, indices):
    """Returns the plain network that a supernet with some candidates is."""
    for decision, index in zip(find_decisions(network), indices, strict=True):
        decision.freeze(int(index))
    return derive(network)


def plain_step(model, size=BATCH):
    """Returns Keras' own training step on a plain network and `size` images."""
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(),
        jit_compile=False,
    )
    images, labels = batch(size, 0, model.input_shape[1:])
    step = tf.function(
        lambda x, y: model.train_step((tf.cast(x, "float32"), y))["loss"],
        autograph=False,
        jit_compile=False,
    )
    return lambda: step(images, labels)


def median_ms(step, count):
    """Returns the median milliseconds of a step that is taken so often."""
    seconds = []
    for _ in range(count):
        begun = time.monotonic()
        step().numpy()
        seconds.append(time.monotonic() - begun)
    return 1e3 * float(np.median(seconds))


def joint_step(network, hyper=False, policy=False, outer=False, path=None):
    """Returns a step of the joint model with some of its parts.

    Args:
        network: Plain network or supernet.
        hyper, policy: Whether these are learned.
        outer: Whether the step is a joint one.
        path: The candidates that a supernet samples in every step; `None`
            for a path of its own in each.
    """
    decisions = find_decisions(network)
    if path is not None:
        for decision, index in zip(decisions, path, strict=True):
            logits = np.zeros(decision.num_candidates)
            logits[index] = CERTAIN
            decision.logits.assign(logits)
    augmentation = None
    if policy:
        augmentation = DifferentiableAugmentation()
        augmentation.build((None, *SHAPE))
    model = JointModel(
        network,
        keras.losses.SparseCategoricalCrossentropy(),
        strategy=DSNAS() if decisions else None,
        augmentation=augmentation,
        hyperparameters=LearnedHyperparameters(AUTO if hyper else None),
    )
    shape = network.input_shape[1:]
    search = (batch(BATCH // 2, 1, shape),) if outer else ()
    step = tf.function(model.train_step, autograph=False, jit_compile=False)
    arguments = (batch(BATCH, 0, shape), tf.constant(0.01), *search)
    return lambda: step(*arguments)


def steps(space, path):
    """Returns the steps to compare, by name."""
    parts = {"hyper": True, "policy": True}
    compared = {
        "plain": plain_step(derived(space, path)),
        "inner": joint_step(derived(space, path)),
        "supernet inner": joint_step(supernet(space)),
        "supernet inner, same path": joint_step(supernet(space), path=path),
    }
    if space != "resnet":
        return compared
    for name, options in (
        ("inner, hyperparameters", {"hyper": True}),
        ("inner, hyperparameters and policy", parts),
        ("joint, hyperparameters", {"hyper": True, "outer": True}),
        ("joint, hyperparameters and policy", {**parts, "outer": True}),
    ):
        compared[name] = joint_step(derived(space, path), **options)
    for name, outer in (("inner", False), ("joint", True)):
        compared[f"supernet {name}, all"] = joint_step(
            supernet(space), **parts, outer=outer
        )
    return compared


def as_in_a_run(name):
    """Returns the context that a run calls steps of this name in."""
    if name.startswith("supernet"):
        return compiled.unoptimized_graphs()
    return contextlib.nullcontext()


def main():
    """Measures all steps in turn and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--space", choices=sorted(SPACES), default="resnet")
    options = parser.parse_args()
    rounds, path = options.rounds, typical(options.space)
    compared = steps(options.space, path)
    first, seconds = {}, {name: [] for name in compared}
    for name, step in compared.items():
        begun = time.monotonic()
        with as_in_a_run(name):
            step().numpy()
            first[name] = time.monotonic() - begun
            for _ in range(UNCOUNTED):
                step().numpy()
    for _ in range(rounds):
        for name, step in compared.items():
            with as_in_a_run(name):
                begun = time.monotonic()
                step().numpy()
                seconds[name].append(time.monotonic() - begun)
    medians = {name: float(np.median(s)) for name, s in seconds.items()}
    record = {
        "benchmark": "step_cost",
        "space": options.space,
        "space_arguments": SPACES[options.space],
        "path": [int(index) for index in path],
        "machine": machine.describe(),
        "rounds": rounds,
        "batch": BATCH,
        "search_batch": BATCH // 2,
        "milliseconds": {k: 1e3 * v for k, v in medians.items()},
        "over_plain": {k: v / medians["plain"] for k, v in medians.items()},
        "first_call_seconds": first,
    }
    suffix = "" if options.space == "resnet" else f"_{options.space}"
    (RESULTS / f"step_cost{suffix}.json").write_text(
        json.dumps(record, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
