"""What a `fit` is worth to a network of the user's own, without choices.

The same small network from the same data in as many epochs. There are three
convolutions, plain or with batch normalisation; and, for which optimizer is to
be the default, seven plain ones, depthwise ones with layer normalisation, and
LeNet-5, whose activation is tanh:

    adam             compiled with Keras' Adam
    adam_augmented   the same with a cosine schedule, flips and shifts
    sgd_augmented    SGD with momentum, a rate of 0.1 and a decay of 5e-4, a
                     cosine schedule, flips and shifts
    values           `AutoModel(network, augmentation=None)`, SGD
    auto_model_sgd   `AutoModel(network)`, compiled with SGD
    auto_model_adamw the same, compiled with AdamW

    python -m benchmarks.own_network --dataset fashion_mnist --limit 10000

The record is kept run by run and gone on with.
"""

import functools
import time

import keras
from keras import layers

import keras_dha
from benchmarks.arms import compare
from benchmarks.images import value_range
from benchmarks.peers import family
from keras_dha.batches import fitting_batch_size

BY_KERAS = ("adam", "adam_augmented", "sgd_augmented")
OURS = ("values", "auto_model_sgd", "auto_model_adamw")
# For which optimizer is to be the default.
COMPARED = ("adam", "auto_model_sgd", "auto_model_adamw")


def three_convolutions(x, normalised=False):
    """A stack of convolutions, plain or with batch normalisation."""
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, padding="same")(x)
        if normalised:
            x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.MaxPooling2D(2)(layers.ReLU()(x))
    return layers.Dropout(0.3)(layers.Flatten()(x))


def seven_convolutions(x):
    """A deeper stack, as of VGG."""
    for filters, number in ((16, 2), (32, 2), (64, 3)):
        for _ in range(number):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    return layers.Dropout(0.5)(x)


def layer_normalised(x):
    """Depthwise convolutions and layer normalisation, as of ConvNeXt."""
    x = layers.LayerNormalization()(layers.Conv2D(32, 4, strides=4)(x))
    for _ in range(3):
        y = layers.DepthwiseConv2D(5, padding="same")(x)
        y = layers.Dense(96, activation="gelu")(layers.LayerNormalization()(y))
        x = layers.Add()([x, layers.Dense(32)(y)])
    return layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))


def lenet(x):
    """LeNet-5, whose activation is tanh."""
    x = layers.Conv2D(6, 5, padding="same", activation="tanh")(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Conv2D(16, 5, activation="tanh")(x)
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    for units in (120, 84):
        x = layers.Dense(units, activation="tanh")(x)
    return x


# The network between images and classes, and what it is trained by.
NETWORKS = {
    "plain": (three_convolutions, BY_KERAS + OURS),
    "normalised": (
        functools.partial(three_convolutions, normalised=True),
        BY_KERAS + OURS,
    ),
    "deep": (seven_convolutions, COMPARED),
    "layer_normalised": (layer_normalised, COMPARED),
    "tanh": (lenet, COMPARED),
}
ARMS = [
    f"{network} {arm}"
    for network, (_, arms) in NETWORKS.items()
    for arm in arms
]


def build(network, data, augments=False):
    """Returns one of the networks, uncompiled.

    Args:
        network: One of `NETWORKS`.
        data: `keras_dha.datasets.Dataset`.
        augments: Whether it begins with flips and shifts.
    """
    x = inputs = keras.Input(data.x_train.shape[1:])
    if augments:
        x = layers.RandomFlip("horizontal")(x)
        x = layers.RandomTranslation(0.1, 0.1, fill_mode="constant")(x)
    low, high = value_range(data)
    x = layers.Rescaling(1.0 / (high - low), offset=-low / (high - low))(x)
    body, _ = NETWORKS[network]
    outputs = layers.Dense(len(data.class_names), activation="softmax")(body(x))
    return keras.Model(inputs, outputs)


def by_keras(network, arm, data, epochs):
    """Returns the network, trained as its user would without us."""
    augments = arm != "adam"
    model = build(network, data, augments)
    batch_size = fitting_batch_size(data.x_train, len(data.x_train))
    steps = -(-len(data.x_train) // batch_size) * epochs
    rate = 0.1 if arm == "sgd_augmented" else 1e-3
    if augments:
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    if arm == "sgd_augmented":
        model = keras.models.clone_model(
            model, clone_function=lambda each: family.with_decay(each, 5e-4)
        )
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    else:
        optimizer = keras.optimizers.Adam(rate)
    model.compile(
        optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
    )
    return model, {}


def by_us(network, data, epochs, seed, optimizer=None, **options):
    """Returns (the `AutoModel` of a network, trained, what it learned)."""
    model = keras_dha.AutoModel(network, seed=seed, **options)
    model.compile(optimizer)
    model.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)
    found = model.result
    return model, {
        "hyperparameters": {
            name: found.history[name]
            for name in ("learning_rate", "weight_decay")
        },
        "undone": found.cost["undone"],
    }


def run(arm, data, epochs, seed):
    """Trains once; returns what is kept of it, a dict."""
    keras.utils.set_random_seed(seed)
    network, arm = arm.split()
    begun = time.monotonic()
    if arm in BY_KERAS:
        model, details = by_keras(network, arm, data, epochs)
    else:
        optimizer = "adamw" if arm == "auto_model_adamw" else "sgd"
        options = {"augmentation": None} if arm == "values" else {}
        model, details = by_us(
            build(network, data), data, epochs, seed, optimizer, **options
        )
    return {
        "accuracy": model.evaluate(data.x_test, data.y_test, verbose=0)[1],
        "seconds": time.monotonic() - begun,
        **details,
    }


def main():
    """Runs what the record does not hold yet."""
    record = compare("own_network", __doc__, ARMS, 30, run)
    record.write(mean_accuracy=record.means())


if __name__ == "__main__":
    main()
