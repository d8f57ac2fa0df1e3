"""Runs of a few seconds, and the data that they learn from."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.ranges import Range
from keras_dha.nested_layers import find_layers

CLASSES, BATCH = 3, 16
RATES = {
    "learning_rate": Range(1e-3, 0.2, start=0.05),
    "weight_decay": Range(1e-5, 1e-2),
}


def labelled_images(count=96, seed=0):
    """Bytes as floats; each class is bright in a region of its own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.integers(0, 150, (count, 8, 8, 1)).astype("float32")
    for label in range(CLASSES):
        x[y == label, 2 * label : 2 * label + 3] += 100.0
    x[0, 0, 0, 0] = 255.0
    return x, y


X, Y = labelled_images()
X_NEW, Y_NEW = labelled_images(40, seed=1)


def space(shape, num_classes):
    """Two choices, normalisation, and a layer that is random in training."""
    inputs = x = keras.Input(shape)
    if len(shape) == 2:
        x = layers.Reshape((*shape, 1))(x)
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Conv2D(4, 3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for k in range(2):
        branch = Choice(
            [
                layers.Conv2D(4, 3, padding="same", name=f"three{k}"),
                layers.Conv2D(4, 1, name=f"one{k}"),
            ],
            name=f"choice{k}",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.Dropout(0.2)(x)
    return keras.Model(
        inputs, layers.Dense(num_classes, activation="softmax")(x)
    )


def joint_auto_model(search_space=space, **kwargs):
    """All three searches, with fewer operations to compile."""
    augmentation = DifferentiableAugmentation(
        ["Identity", "Rotate", "Invert"], levels=2
    )
    arguments = {
        "strategy": DSNAS(warmup=0.1, until=0.5),
        "augmentation": augmentation,
        "hyperparameters": RATES,
        "outer_every": 2,
        "seed": 1,
        **kwargs,
    }
    return AutoModel(search_space, **arguments)


def quick_auto_model(search_space=space, **kwargs):
    """The architecture alone, which is quick to compile."""
    arguments = {"hyperparameters": {"learning_rate": 0.05}, "seed": 1}
    return AutoModel(search_space, augmentation=None, **{**arguments, **kwargs})


def fit(model, x=X, y=Y, epochs=3, **kwargs):
    arguments = {"batch_size": BATCH, "verbose": 0, **kwargs}
    return model.fit(x, y, epochs=epochs, **arguments)


def assert_plain(model):
    """The network holds stock Keras layers and nothing else."""
    for layer in (model, *find_layers(model, layers.Layer)):
        assert type(layer).__module__.startswith("keras."), layer


def as_dataset(x, y, batch_size=None):
    made = tf.data.Dataset.from_tensor_slices((x, y))
    return (made if batch_size is None else made.batch(batch_size)), None


def cross_entropy(probabilities, labels):
    return -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))
