"""Planted truth: does the search find what was put there to be found?

architecture   digits; a useful branch among crippled ones (nothing, no
view of the neighbours, the image blurred away): how many
of 10 seeds pick it
invariance     Fashion-MNIST; search split and test rotated by up to 40
degrees, training images upright: the policy must turn to
rotations, and help on the rotated test images
learning_rate  Fashion-MNIST; started ten times too low, against a grid
of fixed rates with the same cosine

python -m benchmarks.planted architecture --strategy GDAS
"""

import argparse
import functools
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_dha
from benchmarks import machine
from keras_dha.augmentation import geometric

RESULTS = pathlib.Path(__file__).parent / "results"


def planted_space(input_shape, num_classes, normalised=False):
    """A network with one choice, of one useful branch in four.

    If `normalised`, branches end in a normalisation without parameters: a
    weight of theirs then is what it says, and no other weight can undo it.
    """
    x = inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 8, offset=-1)(x)
    x = layers.Conv2D(16, 1)(x)

    def block(name, kernel, blurred=False):
        parts = [
            layers.Conv2D(16, kernel, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(16, 1),
        ]
        if normalised:
            parts.append(
                layers.BatchNormalization(
                    momentum=0.9, center=False, scale=False
                )
            )
        if blurred:
            # Whatever was where: a mean over most of the image everywhere.
            parts.insert(0, layers.AveragePooling2D(8, 1, "same"))
        return keras.Sequential(parts, name=name)

    branch = keras_dha.Choice(
        [
            layers.Rescaling(0.0, name="nothing"),
            block("pointwise", 1),
            block("useful", 3),
            block("blurred", 1, blurred=True),
        ],
        name="choice",
    )(x)
    x = layers.ReLU()(layers.Add()([x, branch]))
    # The mean over places: all shape must have been seen by the branches.
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(num_classes, "softmax")(x))


def architecture(seeds=10, epochs=20, strategy="DSNAS"):
    """Counts the seeds that pick the useful branch."""
    data = keras_dha.datasets.load("digits")
    # Sparse codes are weights, and rank candidates by them.
    normalised = strategy == "ISTA"
    space = functools.partial(planted_space, normalised=normalised)
    picked, seconds = [], []
    for seed in range(seeds):
        model = keras_dha.AutoModel(
            space,
            method="dsnas",
            strategy=getattr(keras_dha.strategies, strategy)(),
            seed=seed,
        )
        model.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)
        found = [g["choice"] for g in model.result.genotype.values()]
        picked.append(found)
        seconds.append(model.result.cost["seconds"])
    right = sum(all(c.startswith("useful") for c in p) for p in picked)
    collapsed = sum(all(c.startswith("nothing") for c in p) for p in picked)
    return {
        "strategy": strategy,
        "normalised": normalised,
        "seeds": seeds,
        "epochs": epochs,
        "seconds": float(np.mean(seconds)),
        "right": right,
        "collapsed": collapsed,
        "picked": picked,
    }


def rotated(images, degrees, seed):
    """Images, each rotated by a random angle of up to `degrees`."""
    generator = np.random.default_rng(seed)
    angles = np.deg2rad(generator.uniform(-degrees, degrees, len(images)))
    cosine, sine = np.cos(angles), np.sin(angles)
    zero, one = np.zeros_like(angles), np.ones_like(angles)
    matrices = np.stack(
        [cosine, -sine, zero, sine, cosine, zero, zero, zero, one], axis=1
    ).reshape(-1, 3, 3)
    turned = geometric.warp(
        tf.cast(images, "float32"), tf.cast(matrices, "float32")
    )
    return turned.numpy()


def invariance(seeds=3, epochs=20, limit=4000):
    """Rotates search split and test; reads policy and accuracy."""
    data = keras_dha.datasets.load("fashion_mnist", limit=limit)
    held_out = limit // 10
    x_search = rotated(data.x_train[:held_out], 40, 1)
    x_test = rotated(data.x_test[:4000], 40, 2)
    y_test = data.y_test[:4000]
    runs = []
    for seed in range(seeds):
        record = {"seed": seed}
        for name, augmentation in (("learned", "auto"), ("none", None)):
            model = keras_dha.AutoModel(
                strategy=None, augmentation=augmentation, seed=seed
            )
            model.fit(
                data.x_train[held_out:].astype("float32"),
                data.y_train[held_out:],
                search_data=(x_search, data.y_train[:held_out]),
                epochs=epochs,
                verbose=0,
            )
            record[f"accuracy_{name}"] = model.evaluate(x_test, y_test)[1]
            if augmentation:
                policy = model.result.policy
                record["probabilities"] = dict(
                    zip(policy.operations, policy.probabilities, strict=True)
                )
        runs.append(record)
    uniform = 1 / len(runs[0]["probabilities"])
    return {
        "seeds": seeds,
        "epochs": epochs,
        "train_images": limit - held_out,
        "uniform": uniform,
        "runs": runs,
        "mean_rotate_and_shear": float(
            np.mean(
                [
                    sum(
                        r["probabilities"][name]
                        for name in ("Rotate", "ShearX", "ShearY")
                    )
                    for r in runs
                ]
            )
        ),
        "mean_accuracy_learned": float(
            np.mean([r["accuracy_learned"] for r in runs])
        ),
        "mean_accuracy_none": float(
            np.mean([r["accuracy_none"] for r in runs])
        ),
    }


def learning_rate(seeds=3, epochs=15, limit=10_000):
    """Starts ten times too low; compares with a grid of fixed rates."""
    data = keras_dha.datasets.load("fashion_mnist", limit=limit)
    planted = keras_dha.Range(1e-4, 1.0, start=0.01)
    rates = {
        **{f"fixed {r}": r for r in (0.01, 0.03, 0.1, 0.3)},
        "learned from 0.01": planted,
    }
    accuracies = {name: [] for name in rates}
    trajectory = []
    for seed in range(seeds):
        for name, rate in rates.items():
            model = keras_dha.AutoModel(
                strategy=None,
                augmentation=None,
                hyperparameters={"learning_rate": rate},
                seed=seed,
            )
            model.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)
            accuracies[name].append(model.evaluate(data.x_test, data.y_test)[1])
            if rate is planted:
                trajectory.append(model.result.history["learning_rate"])
    means = {name: float(np.mean(a)) for name, a in accuracies.items()}
    best = max(v for name, v in means.items() if name.startswith("fixed"))
    return {
        "seeds": seeds,
        "epochs": epochs,
        "train_images": limit,
        "accuracies": accuracies,
        "means": means,
        "behind_best_fixed": best - means["learned from 0.01"],
        "trajectory": trajectory,
    }


def main():
    """Runs one planted truth and writes its record."""
    experiments = {
        f.__name__: f for f in (architecture, invariance, learning_rate)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=sorted(experiments))
    parser.add_argument("--seeds", type=int)
    parser.add_argument(
        "--strategy", help="of the architecture: DSNAS, GDAS, DARTS, ISTA"
    )
    options = parser.parse_args()
    arguments = {} if options.seeds is None else {"seeds": options.seeds}
    name = f"planted_{options.experiment}"
    if options.strategy is not None:
        if options.experiment != "architecture":
            parser.error("--strategy is for the experiment `architecture`")
        arguments["strategy"] = options.strategy
        name += f"_{options.strategy.lower()}"
    record = {
        "benchmark": name,
        "machine": machine.describe(),
        **experiments[options.experiment](**arguments),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
