"""Runs in a directory that are killed, for the tests of directories."""

import pathlib

import keras
import pytest
from keras import layers

from keras_dha import AutoModel
from keras_dha import Range
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model

EPOCHS = 8
# What does not diverge in so many epochs, though it spends them at its bound.
SLOW = {
    "learning_rate": Range(1e-3, 0.05, start=0.02),
    "weight_decay": Range(1e-5, 1e-2),
}


class Killed(BaseException):
    """What no code of a run expects."""


class Kill(keras.callbacks.Callback):
    """Ends a run in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            raise Killed


def plain(shape=(8, 8, 1), units=CLASSES):
    """A network that is quick to train, made anew each time."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(units, activation="softmax"),
        ]
    )


def quick(directory, network=None, optimizer=None, **kwargs):
    arguments = {
        "augmentation": None,
        "hyperparameters": {"learning_rate": 0.01},
        "seed": 1,
        **kwargs,
    }
    model = AutoModel(network or plain, directory=directory, **arguments)
    if optimizer is not None:
        model.compile(optimizer)
    return model


def joint(directory):
    return joint_auto_model(directory=directory, hyperparameters=SLOW)


def killed(model, epoch, epochs=EPOCHS, **kwargs):
    with pytest.raises(Killed):
        fit(model, epochs=epochs, callbacks=[Kill(epoch)], **kwargs)


def names(directory):
    return sorted(path.name for path in pathlib.Path(directory).iterdir())
