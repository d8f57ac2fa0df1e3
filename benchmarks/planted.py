"""Planted truth: does the search find what was put there to be found?

architecture   digits; a useful branch among crippled ones (nothing, no
view of the neighbours, the image blurred away): how many
of 10 seeds pick it
invariance     Fashion-MNIST; search split and test changed by one operation
(--operation), training images not: the policy must turn to
that operation, and help on test images so changed
destruction    Fashion-MNIST; labels that tell left from right, or bright
from dark (--operation): what destroys them must fall
learning_rate  Fashion-MNIST; started ten times too low, against a grid
of fixed rates with the same cosine

python -m benchmarks.planted architecture
"""

import argparse
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


def planted_space(input_shape, num_classes):
    """A network with one choice, of one useful branch in four."""
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


def architecture(seeds=10, epochs=20):
    """Counts the seeds that pick the useful branch."""
    data = keras_dha.datasets.load("digits")
    picked = []
    for seed in range(seeds):
        model = keras_dha.AutoModel(planted_space, method="dsnas", seed=seed)
        model.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)
        found = [g["choice"] for g in model.result.genotype.values()]
        picked.append(found)
    right = sum(all(c.startswith("useful") for c in p) for p in picked)
    collapsed = sum(all(c.startswith("nothing") for c in p) for p in picked)
    return {
        "seeds": seeds,
        "epochs": epochs,
        "right": right,
        "collapsed": collapsed,
        "picked": picked,
    }


def rotated(images, degrees, seed):
    """Images, each rotated by a random angle of up to `degrees`."""
    angles = np.deg2rad(_uniform(len(images), -degrees, degrees, seed))
    cosine, sine = np.cos(angles), np.sin(angles)
    return _warped(images, [cosine, -sine, 0, sine, cosine, 0])


def shifted(images, seed):
    """Images, each moved sideways by up to 0.4 of its width."""
    offset = _uniform(len(images), -0.4, 0.4, seed) * images.shape[2]
    return _warped(images, [1, 0, offset, 0, 1, 0])


def sheared(images, seed):
    """Images, each sheared sideways by a slope of up to 0.45."""
    return _warped(
        images, [1, _uniform(len(images), -0.45, 0.45, seed), 0, 0, 1, 0]
    )


def dimmed(images, seed):
    """Images, each with 20 to 60 % of its brightness."""
    factor = _uniform(len(images), 0.2, 0.6, seed)
    return images * factor.reshape(-1, 1, 1, 1).astype("float32")


def inverted(images, seed):
    """Images, half of them inverted."""
    some = np.random.default_rng(seed).random(len(images)) < 0.5
    return np.where(some[:, None, None, None], 255.0 - images, images)


def flipped(images, seed):
    """Images, half of them mirrored."""
    some = np.random.default_rng(seed).random(len(images)) < 0.5
    return np.where(some[:, None, None, None], images[:, :, ::-1], images)


def _uniform(count, low, high, seed):
    return np.random.default_rng(seed).uniform(low, high, count)


def _warped(images, entries):
    count = len(images)
    rows = [np.broadcast_to(entry, count) for entry in (*entries, 0, 0, 1)]
    matrices = np.stack(rows, axis=1).reshape(-1, 3, 3)
    warped = geometric.warp(
        tf.cast(images, "float32"), tf.cast(matrices, "float32")
    )
    return warped.numpy()


# How images are changed, and what of the policy does the same.
INVARIANCES = {
    "rotate": (lambda x, seed: rotated(x, 40, seed), ("Rotate",)),
    "shift": (shifted, ("TranslateX", "shift")),
    "shear": (sheared, ("ShearX",)),
    "brightness": (dimmed, ("Brightness",)),
    "invert": (inverted, ("Invert",)),
    "flip": (flipped, ("flip",)),
}


def _share_of(policy, names):
    """How often the policy does these.

    An operation starts at 1 / K, flip and shift at 1 / 2.
    """
    usage = policy.usage()
    return {
        name: usage[name][0] if name in usage else getattr(policy, name)
        for name in names
    }


def invariance(
    seeds=3,
    epochs=20,
    limit=4000,
    operation="rotate",
    outer_every=8,
    clean=0.1,
    estimator="influence",
):
    """Changes search split and test; reads policy and accuracy.

    `clean` is the share of images that the policy leaves alone; accuracy and
    loss on test images that were not changed show what it is good for.
    """
    policies = _policies(clean, estimator)
    change, names = INVARIANCES[operation]
    data = keras_dha.datasets.load("fashion_mnist", limit=limit)
    held_out = limit // 10
    x = data.x_train.astype("float32")
    x_search = change(x[:held_out], 1)
    x_test = change(data.x_test[:4000].astype("float32"), 2)
    runs = []
    for seed in range(seeds):
        record = {"seed": seed}
        for name, augmentation in policies.items():
            model = keras_dha.AutoModel(
                strategy=None,
                augmentation=augmentation(),
                outer_every=outer_every,
                seed=seed,
            )
            model.fit(
                x[held_out:],
                data.y_train[held_out:],
                search_data=(x_search, data.y_train[:held_out]),
                epochs=epochs,
                verbose=0,
            )
            accuracy = model.evaluate(x_test, data.y_test[:4000])[1]
            record[f"accuracy_{name}"] = accuracy
            record[f"unchanged_loss_{name}"] = model.evaluate(
                data.x_test[:4000], data.y_test[:4000]
            )[0]
            if name == "learned":
                policy = model.result.policy
                record["planted"] = _share_of(policy, names)
                record["policy"] = policy.get_config()
        runs.append(record)
    return {
        "operation": operation,
        "outer_every": outer_every,
        "clean": clean,
        "estimator": estimator,
        "seeds": seeds,
        "epochs": epochs,
        "train_images": limit - held_out,
        "uniform": {n: 0.5 if n.islower() else 1 / 15 for n in names},
        "runs": runs,
        "mean_planted": {
            n: float(np.mean([r["planted"][n] for r in runs])) for n in names
        },
        **{
            f"mean_{what}_{name}": float(
                np.mean([r[f"{what}_{name}"] for r in runs])
            )
            for name in policies
            for what in ("accuracy", "unchanged_loss")
        },
    }


def _policies(clean, estimator):
    """A learned policy, the one it starts from, and none."""
    layer = keras_dha.DifferentiableAugmentation
    return {
        "learned": lambda: layer(clean=clean, estimator=estimator),
        "uniform": lambda: layer(clean=clean, trainable=False),
        "none": lambda: None,
    }


def _left_from_right(images, labels):
    """Mirrors every other image; the label says which."""
    odd = np.arange(len(images)) % 2
    mirrored = np.where(odd[:, None, None, None], images[:, :, ::-1], images)
    return mirrored, 2 * (labels == 5) + odd


def _bright_from_dark(images, labels):
    """Dims every other image; the label says which."""
    odd = np.arange(len(images)) % 2
    return images * np.where(odd, 0.35, 0.7)[:, None, None, None], odd


# How labels are made, and what destroys them.
DESTRUCTIONS = {
    # Shoes and boots all point to one side.
    "flip": ((7, 9, 5), _left_from_right, ("flip",)),
    "brightness": (
        range(10),
        _bright_from_dark,
        ("Brightness", "AutoContrast", "Equalize", "Invert"),
    ),
}


def destruction(seeds=3, epochs=20, limit=4000, operation="flip"):
    """Plants labels that some operations destroy; reads the policy."""
    classes, make, names = DESTRUCTIONS[operation]
    data = keras_dha.datasets.load("fashion_mnist", limit=limit)
    kept = np.isin(data.y_train, list(classes))
    x, y = make(data.x_train[kept].astype("float32"), data.y_train[kept])
    runs = []
    for seed in range(seeds):
        model = keras_dha.AutoModel(strategy=None, seed=seed)
        model.fit(x, y, epochs=epochs, verbose=0)
        policy = model.result.policy
        runs.append(
            {
                "seed": seed,
                "planted": _share_of(policy, names),
                "policy": policy.get_config(),
            }
        )
    return {
        "operation": operation,
        "seeds": seeds,
        "epochs": epochs,
        "train_images": len(x),
        "uniform": {n: 0.5 if n.islower() else 1 / 15 for n in names},
        "runs": runs,
        "mean_planted": {
            n: float(np.mean([r["planted"][n] for r in runs])) for n in names
        },
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
        f.__name__: f
        for f in (architecture, invariance, destruction, learning_rate)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=sorted(experiments))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--outer-every", type=int)
    parser.add_argument("--clean", type=float)
    parser.add_argument(
        "--estimator", choices=("influence", "dha", "relaxed", "relax")
    )
    parser.add_argument(
        "--operation", choices=sorted({*INVARIANCES, *DESTRUCTIONS})
    )
    options = vars(parser.parse_args())
    experiment = options.pop("experiment")
    arguments = {k: v for k, v in options.items() if v is not None}
    name = "_".join(
        [
            *("planted", experiment),
            *filter(None, (options["operation"], options["estimator"])),
            *([] if options["clean"] is None else [str(options["clean"])]),
        ]
    )
    record = {
        "benchmark": name,
        "machine": machine.describe(),
        **experiments[experiment](**arguments),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
