"""How long does it take to augment a batch?

128 images of 32x32x3, each with its own operation drawn from the uniform
policy over all operations, against the RandAugment layers of KerasCV and
Keras. Every candidate runs in its own `tf.function`; after a warm-up they
take turns, so that a busy moment of the machine hits all alike, and medians
are compared.

RandAugment applies several operations to an image by default (KerasCV 3,
Keras 2). `*_one_operation` are the same layers with one, as the policy has;
`ours_without_base` leaves out flip and shift, which they do not have either.

    python -m benchmarks.augmentation_speed
"""

import argparse
import json
import os
import pathlib
import platform
import time
from importlib import metadata

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from absl import logging

from keras_dha.augmentation.layer import DifferentiableAugmentation

SEED = 0
SHAPE = (128, 32, 32, 3)
RESULTS = pathlib.Path(__file__).parent / "results" / "augmentation_speed.json"
# What each candidate is measured against, and how many times faster it must
# be.
GOALS = {"keras_cv_rand_augment": 4.0, "keras_rand_augment": 12.0}


def candidates():
    """Returns the layers to compare, by name.

    Returns:
        Dictionary of functions from a batch of images to augmented images.
    """
    ours = DifferentiableAugmentation(seed=SEED)
    bare = DifferentiableAugmentation(flip=None, shift=None, seed=SEED)
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
        **{
            name: keras_cv.layers.RandAugment((0, 255), seed=SEED, **arguments)
            for name, arguments in keras_cv_layers.items()
        },
        **{
            name: keras.layers.RandAugment((0, 255), seed=SEED, **arguments)
            for name, arguments in keras_layers.items()
        },
    }
    return {name: _traced(name, layer) for name, layer in layers.items()}


def _traced(name, layer):
    # KerasCV's augmentation layers take no `training` argument.
    arguments = {} if name.startswith("keras_cv") else {"training": True}

    @tf.function(jit_compile=False)
    def run(images):
        return layer(images, **arguments)

    return run


def measure(functions, images, warm_up, rounds):
    """Times the functions in turn.

    Args:
        functions: Dictionary of functions of the images.
        images: float32 tensor of shape `[n, h, w, c]`.
        warm_up: Untimed calls of each function.
        rounds: Timed calls of each function.

    Returns:
        Dictionary of lists of seconds.
    """
    for function in functions.values():
        for _ in range(warm_up):
            function(images)
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function(images).numpy()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds):
    """Returns medians, spreads and ratios of the timings as plain data.

    Args:
        seconds: Dictionary of lists of seconds.

    Returns:
        Dictionary of JSON's own types.
    """
    milliseconds = {k: 1e3 * np.array(v) for k, v in seconds.items()}
    medians = {k: float(np.median(v)) for k, v in milliseconds.items()}
    others = [name for name in medians if not name.startswith("ours")]
    return {
        "batch": list(SHAPE),
        "seed": SEED,
        "rounds": len(seconds["ours"]),
        "median_ms": {k: round(v, 3) for k, v in medians.items()},
        "quartiles_ms": {
            k: np.percentile(v, [25, 75]).round(3).tolist()
            for k, v in milliseconds.items()
        },
        "times_faster": {
            base: {k: round(medians[k] / medians[base], 2) for k in others}
            for base in ("ours", "ours_without_base")
        },
        "goals_times_faster": GOALS,
        "goals_met": all(
            medians[k] >= goal * medians["ours"] for k, goal in GOALS.items()
        ),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "keras_cv": metadata.version("keras-cv"),
            "numpy": np.__version__,
        },
        "machine": {
            "platform": platform.system(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "gpus": len(tf.config.list_physical_devices("GPU")),
        },
    }


def main():
    """Measures, logs and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    images = np.random.default_rng(SEED).integers(0, 256, SHAPE)
    images = tf.constant(images, tf.float32)
    seconds = measure(candidates(), images, arguments.warm_up, arguments.rounds)
    text = json.dumps(report(seconds), indent=2)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n")
    logging.info("%s", text)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    main()
