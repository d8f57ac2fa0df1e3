"""Planted truth: does the search find what was put there to be found?

architecture   digits; a useful branch among crippled ones (nothing, no
view of the neighbours, the image blurred away): how many
of 10 seeds pick it
invariance     Fashion-MNIST; search split and test rotated by up to 40
degrees, training images upright: the policy must turn to
rotations, and help on the rotated test images
learning_rate  started too low and too high by the factors of --start,
against a grid of nine fixed rates with the same cosine
weight_decay   the same for weight decay, at a fixed rate

python -m benchmarks.planted architecture
python -m benchmarks.planted learning_rate --dataset cifar10 --data FOLDER \
    --start 0.0333 30

The factors multiply the middle of the grid. CIFAR-10 is read from
`cifar10_jpeg.npz` in the folder that --data names: its images went through
JPEG again and are not the published pixels.
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


def cifar10(folder, limit):
    """Returns CIFAR-10 from a file of JPEG images, as `datasets.load` does."""
    packed = dict(np.load(pathlib.Path(folder) / "cifar10_jpeg.npz"))

    def images(part, count):
        raw, ends = packed[f"{part}_jpeg"].tobytes(), packed[f"{part}_offsets"]
        return np.stack(
            [
                tf.io.decode_jpeg(raw[begin:end]).numpy()
                for begin, end in zip(
                    ends[:count], ends[1 : count + 1], strict=True
                )
            ]
        )

    y_train, y_test = packed["y_train"][:limit], packed["y_test"]
    return keras_dha.datasets.Dataset(
        "cifar10",
        images("train", len(y_train)),
        y_train.astype("int64"),
        images("test", len(y_test)),
        y_test.astype("int64"),
        tuple(str(k) for k in range(10)),
    )


def load(options):
    """Returns the images that the options ask for."""
    if options.dataset == "cifar10":
        return cifar10(options.data, options.limit)
    return keras_dha.datasets.load(options.dataset, limit=options.limit)


# Nine fixed values; learning starts at the middle one times a factor.
GRIDS = {
    "learning_rate": [float(x) for x in np.geomspace(1e-2, 1.0, 9)],
    "weight_decay": [float(x) for x in np.geomspace(5e-6, 5e-2, 9)],
}
RANGES = {"learning_rate": (1e-4, 10.0), "weight_decay": (1e-6, 0.5)}


def planted_value(name, options):
    """Starts off the mark; compares with a grid of fixed values."""
    data, grid = load(options), GRIDS[name]
    arms = {f"fixed {value:.4g}": value for value in grid}
    for factor in options.start:
        start = grid[len(grid) // 2] * factor
        arms[f"learned from {factor:g}x"] = keras_dha.Range(
            *RANGES[name], start=start
        )
    record = {
        "dataset": data.name,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "train_images": len(data.x_train),
        "middle": grid[len(grid) // 2],
        "accuracies": {arm: [] for arm in arms},
        "trajectories": {},
        "undone": {},
    }
    for seed in range(options.seeds):
        for arm, value in arms.items():
            model = keras_dha.AutoModel(
                strategy=None,
                augmentation=None,
                hyperparameters={name: value},
                seed=seed,
            )
            model.fit(
                data.x_train, data.y_train, epochs=options.epochs, verbose=0
            )
            _, accuracy = model.evaluate(data.x_test, data.y_test)
            record["accuracies"][arm].append(accuracy)
            if isinstance(value, keras_dha.Range):
                path = model.result.history[name]
                record["trajectories"].setdefault(arm, []).append(path)
                undone = model.result.cost["undone"]
                record["undone"].setdefault(arm, []).append(undone)
    means = {arm: float(np.mean(a)) for arm, a in record["accuracies"].items()}
    best = max(v for arm, v in means.items() if arm.startswith("fixed"))
    behind = {
        arm: best - mean
        for arm, mean in means.items()
        if arm.startswith("learned")
    }
    return {**record, "means": means, "behind_best_fixed": behind}


def learning_rate(options):
    """Plants a learning rate that is too low or too high."""
    return planted_value("learning_rate", options)


def weight_decay(options):
    """Plants a weight decay that is too low or too high."""
    return planted_value("weight_decay", options)


def main():
    """Runs one planted truth and writes its record."""
    values = {f.__name__: f for f in (learning_rate, weight_decay)}
    others = {f.__name__: f for f in (architecture, invariance)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=sorted(values | others))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--start", type=float, nargs="+", default=[1 / 30, 30])
    parser.add_argument(
        "--dataset",
        choices=["fashion_mnist", "cifar10", "digits"],
        default="fashion_mnist",
    )
    parser.add_argument("--data", help="folder of cifar10_jpeg.npz")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output")
    options = parser.parse_args()
    name = options.experiment
    if name in values:
        options.seeds = options.seeds or 3
        found = values[name](options)
        suffix = "" if options.dataset == "fashion_mnist" else options.dataset
    else:
        arguments = {} if options.seeds is None else {"seeds": options.seeds}
        found, suffix = others[name](**arguments), ""
    record = {
        "benchmark": f"planted_{name}",
        "machine": machine.describe(),
        **found,
    }
    file = "_".join(filter(None, ["planted", name, suffix])) + ".json"
    path = pathlib.Path(options.output or RESULTS / file)
    path.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
