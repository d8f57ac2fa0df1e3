"""Data, networks and runs with several inputs and outputs."""

import keras
import numpy as np
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.dropout import Dropout
from tests.auto_model.small_runs import RATES

N = 96


def numbers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 7)).astype("float32")
    third = np.digitize(x[:, 1], [-0.5, 0.5])
    return x, (x[:, 0] + x[:, 4] > 0).astype(int), third


X, Y, OTHER = numbers()
LEFT, RIGHT = X[:, :3], X[:, 3:]


def dense(units, seed, **kwargs):
    start = keras.initializers.GlorotUniform(seed)
    return layers.Dense(units, kernel_initializer=start, **kwargs)


def on_the_whole(shape, num_classes):
    inputs = keras.Input(shape, name="whole")
    x = dense(6, 1, activation="relu")(inputs)
    return keras.Model(inputs, dense(num_classes, 2)(x))


def on_halves(shape, num_classes):
    """In whatever form the shapes come."""
    if isinstance(shape, dict):
        inputs = {n: keras.Input(shape[n], name=n) for n in ("right", "left")}
        parts = [inputs["left"], inputs["right"]]
    else:
        inputs = parts = [keras.Input(each) for each in shape]
    x = dense(6, 1, activation="relu")(layers.Concatenate()(parts))
    return keras.Model(inputs, dense(num_classes, 2)(x))


def with_another_output(shape, num_classes):
    """Their names sort otherwise than the network has them."""
    if isinstance(num_classes, list):
        num_classes = dict(zip(["first", "extra"], num_classes, strict=True))
    inputs = keras.Input(shape, name="whole")
    x = dense(6, 1, activation="relu")(inputs)
    first = dense(num_classes["first"], 2, name="first")(x)
    extra = dense(num_classes["extra"], 3, name="extra")(x)
    return keras.Model(inputs, [first, extra])


def run(space, x, y=None, epochs=2, compiled=None, fit=None, **kwargs):
    arguments = {
        "augmentation": None,
        "hyperparameters": {**RATES, "mixup": 0.2, "label_smoothing": 0.1},
        "outer_every": 2,
        "seed": 1,
        **kwargs,
    }
    model = AutoModel(space, **arguments)
    if compiled:
        model.compile(**compiled)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, **(fit or {}))
    return model


def by_name():
    """An image and a vector, two outputs, a choice before and at the end."""
    # Else its weights would be of the session's random seed.
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    vector = keras.Input((7,), name="vector")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    x = layers.GlobalAveragePooling2D()(x)
    branch = Choice(
        [
            layers.Dense(4, activation="tanh", name="tanh"),
            layers.Dense(4, activation="relu", name="relu"),
        ],
        name="branch",
    )(vector)
    x = Dropout(0.2)(layers.Concatenate()([x, branch]))
    softmax = {"activation": "softmax"}
    first = Choice(
        [
            layers.Dense(2, name="short", **softmax),
            keras.Sequential(
                [layers.Dense(3), layers.Dense(2, **softmax)], name="long"
            ),
        ],
        name="first",
    )(x)
    return {"image": image, "vector": vector}, {
        "first": first,
        "other": layers.Dense(3, name="other")(x),
    }


def in_order():
    inputs, outputs = by_name()
    return list(inputs.values()), list(outputs.values())


IMAGES = np.random.default_rng(2).uniform(0, 1, (N, 8, 8, 1)).astype("float32")
NAMED = {"image": IMAGES, "vector": X}, {"first": Y, "other": OTHER}
ORDERED = (IMAGES, X), (Y, OTHER)
QUICK = {"hyperparameters": {"learning_rate": 0.05, "dropout_rate": 0.2}}
NO_DROPOUT = {"hyperparameters": {"learning_rate": 0.05}}
