"""What a `fit` is worth to a network that was trained on other images.

A ResNet-8 learns the first half of the classes. With a new last layer it then
learns the others from few images, in as many epochs:

    frozen             the last layer alone, by Adam at Keras' rate of 1e-3
    guide              as Keras' guide to transfer learning says: this for half
                       of the epochs, with flips and rotations, then all of it
                       by Adam at 1e-5
    adam               all of it at once, by Adam at 1e-3
    adam_augmented     the same with a cosine schedule, flips and shifts
    auto_model_frozen  `AutoModel` of the network whose last layer alone learns
    auto_model         `AutoModel(network)`
    auto_model_adamw   the same, compiled with AdamW
    new_weights        `AutoModel` of the network as it was before it learned

    python -m benchmarks.fine_tuning --dataset cifar10 --data FOLDER

The record is kept run by run and gone on with.
"""

import dataclasses
import functools
import time

import keras
from keras import layers

from benchmarks import joint_run
from benchmarks import own_network
from benchmarks.arms import compare
from benchmarks.images import value_range
from benchmarks.peers import family
from keras_dha.batches import fitting_batch_size

BY_KERAS = ("frozen", "guide", "adam", "adam_augmented")
OURS = ("auto_model_frozen", "auto_model", "auto_model_adamw", "new_weights")
# How many images there are of the classes that come second, and how many
# epochs what comes first takes.
FEW = 1000
EPOCHS_BEFORE = 10


@functools.lru_cache(maxsize=1)
def halves(data):
    """Returns the images of the first classes, and few of the others.

    Args:
        data: `keras_dha.datasets.Dataset`.
    """
    first = len(data.class_names) // 2
    later, tested = data.y_train >= first, data.y_test >= first
    return dataclasses.replace(
        data,
        x_train=data.x_train[~later],
        y_train=data.y_train[~later],
        x_test=data.x_test[~tested],
        y_test=data.y_test[~tested],
        class_names=data.class_names[:first],
    ), dataclasses.replace(
        data,
        x_train=data.x_train[later][:FEW],
        y_train=data.y_train[later][:FEW] - first,
        x_test=data.x_test[tested],
        y_test=data.y_test[tested] - first,
        class_names=data.class_names[first:],
    )


@functools.lru_cache(maxsize=1)
def learned_before(data, seed):
    """Returns the weights of a ResNet-8, trained, and its test accuracy.

    Args:
        data: `keras_dha.datasets.Dataset` of the classes that come first.
        seed: Integer.
    """
    keras.utils.set_random_seed(seed)
    network = new_resnet(data, family.BY_HAND["weight_decay"])
    size = fitting_batch_size(data.x_train, len(data.x_train))
    steps = len(data.x_train) // size
    network.compile(
        keras.optimizers.SGD(
            joint_run.Cosine(steps * EPOCHS_BEFORE), momentum=joint_run.MOMENTUM
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    network.fit(
        family.batches(
            *(data.x_train, data.y_train, "flip_crop"),
            *(value_range(data), size, seed),
        ),
        steps_per_epoch=steps,
        epochs=EPOCHS_BEFORE,
        shuffle=False,
        verbose=0,
    )
    accuracy = network.evaluate(data.x_test, data.y_test, verbose=0)[1]
    return network.get_weights(), accuracy


def new_resnet(data, decay=0.0):
    """Returns a ResNet-8 for a dataset, uncompiled.

    Args:
        data: `keras_dha.datasets.Dataset`.
        decay: Float, the decay of its weights.
    """
    return family.build(
        {**family.BY_HAND, "weight_decay": decay},
        *(data.x_train.shape[1:], len(data.class_names)),
        value_range(data),
    )


def with_new_layer(network, num_classes, augmentation=()):
    """Returns (network that ends in a new layer, the layers before it).

    Args:
        network: Keras model whose last layer gives the classes.
        num_classes: Integer, how many other classes there are.
        augmentation: Layers that the network begins with.
    """
    features = keras.Model(network.input, network.layers[-2].output)
    inputs = x = keras.Input(network.input_shape[1:])
    for layer in augmentation:
        x = layer(x)
    x = layers.Dropout(0.2)(features(x))
    outputs = layers.Dense(num_classes, activation="softmax")(x)
    return keras.Model(inputs, outputs), features


def by_keras(arm, network, data, epochs):
    """Returns the network, trained as its user would without us."""
    augmentation = {
        "guide": [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)],
        "adam_augmented": joint_run.augmentation(
            "flip_crop", value_range(data)
        ),
    }.get(arm, [])
    num_classes = len(data.class_names)
    model, features = with_new_layer(network, num_classes, augmentation)
    size = fitting_batch_size(data.x_train, len(data.x_train))

    def fit(rate, epochs):
        model.compile(
            keras.optimizers.Adam(rate),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(*(data.x_train, data.y_train, size), epochs=epochs, verbose=0)

    if arm in ("frozen", "guide"):
        features.trainable = False
        fit(1e-3, epochs if arm == "frozen" else epochs // 2)
    if arm == "guide":
        features.trainable = True
        fit(1e-5, epochs - epochs // 2)
    if arm == "adam":
        fit(1e-3, epochs)
    if arm == "adam_augmented":
        steps = -(-len(data.x_train) // size) * epochs
        fit(keras.optimizers.schedules.CosineDecay(1e-3, steps), epochs)
    return model, {}


def by_us(arm, network, data, epochs, seed):
    """Returns the `AutoModel` of the network, trained."""
    network, features = with_new_layer(network, len(data.class_names))
    features.trainable = arm != "auto_model_frozen"
    optimizer = "adamw" if arm == "auto_model_adamw" else None
    return own_network.by_us(network, data, epochs, seed, optimizer)


def run(arm, data, epochs, seed):
    """Trains once; returns what is kept of it, a dict."""
    known, new = halves(data)
    weights, accuracy_before = learned_before(known, seed)
    keras.utils.set_random_seed(seed)
    network = new_resnet(known)
    if arm != "new_weights":
        network.set_weights(weights)
    begun = time.monotonic()
    if arm in BY_KERAS:
        model, details = by_keras(arm, network, new, epochs)
    else:
        model, details = by_us(arm, network, new, epochs, seed)
    return {
        "accuracy": model.evaluate(new.x_test, new.y_test, verbose=0)[1],
        "accuracy_before": accuracy_before,
        "seconds": time.monotonic() - begun,
        **details,
    }


def main():
    """Runs what the record does not hold yet."""
    record = compare(
        *("fine_tuning", __doc__, BY_KERAS + OURS, 30, run),
        images=FEW,
        epochs_before=EPOCHS_BEFORE,
    )
    record.write(mean_accuracy=record.means())


if __name__ == "__main__":
    main()
