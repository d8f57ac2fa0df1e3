"""How long does it take to augment a batch?

Images of 32, 64 and 224 pixels, each with its own operation drawn from the
uniform policy over all operations, against the RandAugment layers of KerasCV
and Keras, in a `tf.function` and as a `tf.data` map. Candidates take turns, so
that a busy moment of the machine hits all alike, and medians are compared.

RandAugment applies several operations to an image by default (KerasCV 3,
Keras 2). `*_one_operation` are the same layers with one, as the policy has;
`ours_without_base` leaves out flip and shift, which they do not have either;
`ours_pairs` applies two operations and no base.

    python -m benchmarks.augmentation_speed
"""

import argparse
import json
import pathlib
import time

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from absl import logging

from benchmarks import machine
from keras_dha.augmentation.layer import DifferentiableAugmentation

SEED = 0
# Image size to (images of a batch, timed calls).
SIZES = {32: (128, 40), 64: (64, 25), 224: (16, 12)}
RESULTS = pathlib.Path(__file__).parent / "results" / "augmentation_speed.json"
# What each candidate is measured against, and how many times faster it must
# be.
GOALS = {
    32: {"keras_cv_rand_augment": 4.0, "keras_rand_augment": 12.0},
    64: {"keras_cv_rand_augment": 2.0, "keras_rand_augment": 4.0},
    224: {"keras_cv_rand_augment": 2.0, "keras_rand_augment": 4.0},
}


def candidates():
    """Returns the layers to compare, by name.

    Returns:
        Dictionary of functions from a batch of images to augmented images.
    """
    ours = DifferentiableAugmentation(seed=SEED)
    bare = DifferentiableAugmentation(flip=None, shift=None, seed=SEED)
    pairs = DifferentiableAugmentation(
        length=2, flip=None, shift=None, seed=SEED
    )
    keras_cv_layers = {
        "keras_cv_rand_augment": {},
        "keras_cv_rand_augment_one_operation": {"augmentations_per_image": 1},
    }
    keras_layers = {
        "keras_rand_augment": {},
        "keras_rand_augment_one_operation": {"num_ops": 1},
    }
    layers = {
        "ours": ours,
        "ours_without_base": bare,
        "ours_pairs": pairs,
        **{
            name: keras_cv.layers.RandAugment((0, 255), seed=SEED, **arguments)
            for name, arguments in keras_cv_layers.items()
        },
        **{
            name: keras.layers.RandAugment((0, 255), seed=SEED, **arguments)
            for name, arguments in keras_layers.items()
        },
    }
    return {name: _call(name, layer) for name, layer in layers.items()}


def _call(name, layer):
    # KerasCV's augmentation layers take no `training` argument.
    arguments = {} if name.startswith("keras_cv") else {"training": True}
    return lambda images: layer(images, **arguments)


def in_functions(calls, images):
    """Returns the candidates as compiled functions without arguments."""

    def traced(call):
        function = tf.function(call, jit_compile=False)
        return lambda: function(images)

    return {name: traced(call) for name, call in calls.items()}


def in_maps(calls, images):
    """Returns the candidates as steps of a `tf.data` pipeline."""
    options = tf.data.Options()
    # Nothing may run ahead while another candidate is timed.
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False

    def mapped(call):
        data = tf.data.Dataset.from_tensors(images).repeat().map(call)
        iterator = iter(data.with_options(options))
        return lambda: next(iterator)

    return {name: mapped(call) for name, call in calls.items()}


def measure(functions, warm_up, rounds):
    """Times the functions in turn.

    Args:
        functions: Dictionary of functions without arguments.
        warm_up: Untimed calls of each function.
        rounds: Timed calls of each function.

    Returns:
        Dictionary of lists of seconds.
    """
    for function in functions.values():
        for _ in range(warm_up):
            function()
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function().numpy()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds, size, batch):
    """Returns medians, spreads and ratios of the timings as plain data.

    Args:
        seconds: Dictionary of lists of seconds.
        size: Height and width of the images.
        batch: Number of images.

    Returns:
        Dictionary of JSON's own types.
    """
    milliseconds = {k: 1e3 * np.array(v) for k, v in seconds.items()}
    medians = {k: float(np.median(v)) for k, v in milliseconds.items()}
    others = [name for name in medians if not name.startswith("ours")]
    return {
        "rounds": len(seconds["ours"]),
        "median_ms": {k: round(v, 3) for k, v in medians.items()},
        "images_per_second": {
            k: round(1e3 * batch / v) for k, v in medians.items()
        },
        "quartiles_ms": {
            k: np.percentile(v, [25, 75]).round(3).tolist()
            for k, v in milliseconds.items()
        },
        "times_faster": {
            base: {k: round(medians[k] / medians[base], 2) for k in others}
            for base in medians
            if base.startswith("ours")
        },
        "goals_times_faster": GOALS[size],
        "goals_met": all(
            medians[k] >= goal * medians["ours"]
            for k, goal in GOALS[size].items()
        ),
    }


def main():
    """Measures, logs and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    found = {}
    for size in arguments.sizes:
        batch, rounds = SIZES[size]
        images = np.random.default_rng(SEED).integers(
            0, 256, (batch, size, size, 3)
        )
        images = tf.constant(images, tf.float32)
        found[str(size)] = {"batch": list(images.shape)}
        for form in (in_functions, in_maps):
            seconds = measure(
                form(candidates(), images), arguments.warm_up, rounds
            )
            found[str(size)][form.__name__] = report(seconds, size, batch)
    record = {
        "benchmark": "augmentation_speed",
        "machine": machine.describe(),
        "seed": SEED,
        "sizes": found,
    }
    text = json.dumps(record, indent=2)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n")
    logging.info("%s", text)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    main()
