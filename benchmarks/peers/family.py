"""A fair family of networks and trainings for the peers to search.

It contains what a practitioner would write by hand: a small residual network
with SGD, a cosine schedule and flips and shifts. Around it vary width, depth,
kernels, dropout, learning rate, weight decay and augmentation.
"""

import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dha import base_schedule
from keras_dha import pace
from keras_dha.data import untuned

# The hand-made choice: ResNet-8.
BY_HAND = {
    "width": 16,
    "blocks": 1,
    "kernel1": 3,
    "kernel2": 3,
    "kernel3": 3,
    "dropout": 0.0,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "augmentation": "flip_crop",
}


def suggest(choice, log):
    """Returns a member of the family.

    Args:
        choice: Function (name, options) -> one of them.
        log: Function (name, low, high) -> float, log-uniform.
    """
    return {
        "width": choice("width", [8, 16, 32]),
        "blocks": choice("blocks", [1, 2]),
        "kernel1": choice("kernel1", [3, 5]),
        "kernel2": choice("kernel2", [3, 5]),
        "kernel3": choice("kernel3", [3, 5]),
        "dropout": choice("dropout", [0.0, 0.2, 0.4]),
        "learning_rate": log("learning_rate", 1e-3, 1.0),
        "weight_decay": log("weight_decay", 1e-5, 1e-2),
        "augmentation": choice(
            "augmentation", ["none", "flip_crop", "rand_augment"]
        ),
    }


def build(member, shape, num_classes, value_range):
    """Returns an uncompiled residual network of the family."""
    decay = keras.regularizers.L2(member["weight_decay"] / 2)

    def convolution(x, filters, kernel, stride=1):
        x = layers.Conv2D(
            filters,
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=decay,
        )(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    low, high = value_range
    scale = 2.0 / (high - low)
    inputs = keras.Input(shape)
    x = layers.Rescaling(scale, offset=-1.0 - low * scale)(inputs)
    # The stem of keras_dha's default space: a network of equal speed.
    stride = 1 if min(shape[:2]) < 24 else 2 if min(shape[:2]) < 96 else 4
    x = layers.ReLU()(convolution(x, member["width"], 3, stride))
    for stage in range(3):
        filters = member["width"] * 2**stage
        kernel = member[f"kernel{stage + 1}"]
        for block in range(member["blocks"]):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = x
            if stride > 1 or x.shape[-1] != filters:
                shortcut = convolution(x, filters, 1, stride)
            y = layers.ReLU()(convolution(x, filters, kernel, stride))
            y = convolution(y, filters, 3)
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.GlobalAveragePooling2D()(x)
    if member["dropout"]:
        x = layers.Dropout(member["dropout"])(x)
    x = layers.Dense(
        num_classes, activation="softmax", kernel_regularizer=decay
    )(x)
    return keras.Model(inputs, x)


def with_decay(layer, decay):
    """Returns a fresh copy of a layer whose kernel decays.

    Coupled decay, as the joint run has it: the penalty's gradient goes
    through the momentum. Keras' own is decoupled.

    Args:
        layer: Keras layer.
        decay: Float, the weight decay.
    """
    config = layer.get_config()
    for name in ("kernel_regularizer", "depthwise_regularizer"):
        if name in config:
            config[name] = keras.regularizers.L2(decay / 2)
    return type(layer).from_config(config)


def batches(x, y, kind, value_range, batch_size, seed):
    """Returns endless shuffled, augmented training batches."""
    shifts = layers.RandomTranslation(
        0.125, 0.125, fill_mode="constant", fill_value=value_range[0]
    )
    augmentation = {
        "none": [],
        "crop": [shifts],
        "flip_crop": [layers.RandomFlip("horizontal"), shifts],
        "rand_augment": [layers.RandAugment(value_range)],
    }[kind]

    def augmented(images, labels):
        images = tf.cast(images, "float32")
        for layer in augmentation:
            images = layer(images, training=True)
        return images, labels

    made = tf.data.Dataset.from_tensor_slices((x, y))
    made = made.shuffle(len(x), seed=seed).repeat()
    made = made.batch(batch_size, drop_remainder=True)
    # A search waited a fifth of its time for the autotuner to end trials.
    return untuned(made.map(augmented, num_parallel_calls=2).prefetch(2))


class Cosine(keras.callbacks.Callback):
    """The learning rate's schedule, and the end of the run, by the clock.

    Args:
        rate: Float, the highest learning rate.
        seconds: Float, how long the run takes.
        begun: Float, reading of `time.monotonic()` at its beginning.
    """

    def __init__(self, rate, seconds, begun):
        super().__init__()
        self._rate = rate
        self._pace = pace.ClockPace(seconds, begun)

    def on_train_batch_begin(self, batch, logs=None):
        position = min(self._pace.position(0), self._pace.total - 1)
        self.model.optimizer.learning_rate = self._rate * base_schedule.factor(
            "warmup_cosine", position, self._pace.total
        )

    def on_train_batch_end(self, batch, logs=None):
        if self._pace.is_over(0):
            self.model.stop_training = True


def train(
    member, data, seconds, seed, batch_size, validation=None, callbacks=()
):
    """Trains a member for so many seconds.

    Args:
        member: Dict, as `suggest` returns it.
        data: `Data`.
        seconds: Float, all included.
        seed: Integer.
        batch_size: Integer.
        validation: Pair of arrays that are evaluated after each epoch.
        callbacks: Further Keras callbacks.

    Returns:
        (model, history).
    """
    begun = time.monotonic()
    keras.utils.set_random_seed(seed)
    model = build(member, data.x.shape[1:], data.num_classes, data.value_range)
    return fit(
        model,
        member,
        data,
        Cosine(member["learning_rate"], seconds, begun),
        seed,
        batch_size,
        validation,
        callbacks,
    )


def fit(
    model,
    member,
    data,
    cosine,
    seed,
    batch_size,
    validation=None,
    callbacks=(),
    epochs=10_000,
):
    """Compiles and fits a model as a member says; returns (model, history)."""
    model.compile(
        keras.optimizers.SGD(member["learning_rate"], momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    if validation is not None:
        validation = untuned(
            tf.data.Dataset.from_tensor_slices(validation).batch(256)
        )
    history = model.fit(
        batches(
            data.x,
            data.y,
            member["augmentation"],
            data.value_range,
            batch_size,
            seed,
        ),
        steps_per_epoch=len(data.x) // batch_size,
        epochs=epochs,
        validation_data=validation,
        callbacks=[cosine, *callbacks],
        shuffle=False,
        verbose=0,
    )
    return model, history


class Data:
    """Training images of a contestant.

    Args:
        x, y: Arrays.
        value_range: Pair of floats.
    """

    def __init__(self, x, y, value_range):
        self.x, self.y, self.value_range = x, y, value_range
        self.num_classes = int(np.max(y)) + 1

    def split(self, share=0.1, seed=0):
        """Returns (the larger part, pair of arrays of the held-out part)."""
        order = np.random.default_rng(seed).permutation(len(self.x))
        held, kept = np.split(order, [round(share * len(self.x))])
        kept = Data(self.x[kept], self.y[kept], self.value_range)
        kept.num_classes = self.num_classes
        return kept, (self.x[held], self.y[held])
