"""A useful branch among crippled ones: how many seeds pick it."""

import functools

import keras
import numpy as np
from keras import layers

import keras_dha


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


def searched_by(strategy):
    """Returns the arguments of an `AutoModel` that searches so, a dict."""
    if strategy == "auto":
        return {"method": "auto"}
    # The one row that looks at the search split at every step.
    method = "autohas" if strategy == "Reinforce" else "dsnas"
    made = getattr(keras_dha.strategies, strategy)()
    return {"method": method, "strategy": made}


def architecture(seeds=10, epochs=20, strategy="DSNAS"):
    """Counts the seeds that pick the useful branch.

    Args:
        seeds: Integer.
        epochs: Integer.
        strategy: Name of a class of `keras_dha.strategies`, which has its
            defaults; or `"auto"` for that of the default method.
    """
    data = keras_dha.datasets.load("digits")
    # Sparse codes are weights, and rank candidates by them.
    normalised = strategy == "ISTA"
    space = functools.partial(planted_space, normalised=normalised)
    picked, seconds = [], []
    for seed in range(seeds):
        model = keras_dha.AutoModel(
            space,
            **searched_by(strategy),
            augmentation=None,
            hyperparameters=None,
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
