"""Invariances that a policy must find, and labels that it must not destroy."""

import numpy as np
import tensorflow as tf
from PIL import Image
from PIL import ImageOps

import keras_dha
from keras_dha.augmentation import geometric
from keras_dha.augmentation.layer import LEAST_CLEAN


def rotated(images, degrees, seed):
    """Images, each rotated by a random angle of up to `degrees`."""
    angles = np.deg2rad(_uniform(len(images), -degrees, degrees, seed))
    cosine, sine = np.cos(angles), np.sin(angles)
    return _warped(images, [cosine, -sine, 0, sine, cosine, 0])


def shifted(images, seed):
    """Images, each moved sideways by 0.25 to 0.45 of its width."""
    side = np.random.default_rng(seed + 1).choice([-1, 1], len(images))
    offset = side * _uniform(len(images), 0.25, 0.45, seed) * images.shape[2]
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


def posterized(images, seed):
    """Images, each with one or two bits of its grey levels left."""
    bits = np.random.default_rng(seed).integers(1, 3, len(images))
    step = (2.0 ** (8 - bits)).reshape(-1, 1, 1, 1).astype("float32")
    return np.floor(images / step) * step


def solarized(images, seed):
    """Images, in each of which values from a threshold on are inverted."""
    threshold = _uniform(len(images), 48, 192, seed).reshape(-1, 1, 1, 1)
    changed = np.where(images >= threshold, 255.0 - images, images)
    return changed.astype("float32")


def equalized(images, seed):
    """Images with a flat histogram, all of them."""
    del seed  # Nothing is drawn.
    planes = [Image.fromarray(i[..., 0].astype("uint8")) for i in images]
    flat = [np.asarray(ImageOps.equalize(plane)) for plane in planes]
    return np.stack(flat)[..., None].astype("float32")


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


# How images are changed, and what of the policy does the same. What is planted
# must be needed often and be nearly unreachable otherwise: shears are half a
# rotation, and an image that is dimmed is one of less contrast as well.
INVARIANCES = {
    "rotate": (lambda x, seed: rotated(x, 40, seed), ("Rotate",)),
    "shift": (shifted, ("TranslateX", "shift")),
    "shear": (sheared, ("ShearX",)),
    "brightness": (dimmed, ("Brightness",)),
    "invert": (inverted, ("Invert",)),
    "posterize": (posterized, ("Posterize",)),
    "solarize": (solarized, ("Solarize",)),
    "equalize": (equalized, ("Equalize",)),
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
                record["leading"] = max(
                    policy.usage(), key=lambda op: policy.usage()[op][0]
                )
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
        # By itself a run begins with few flips where mirror images are unlike
        # the images: here they are to be unlearned, from a half.
        augmentation = keras_dha.DifferentiableAugmentation(clean=LEAST_CLEAN)
        model = keras_dha.AutoModel(
            strategy=None, augmentation=augmentation, seed=seed
        )
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
