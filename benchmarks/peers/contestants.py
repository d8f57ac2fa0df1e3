"""The contestants: from training data and a budget to a trained model.

Each is a function (data, seconds, seed, batch_size) -> (model, details), to
be called in a process of its own.
"""

import time

import keras
import numpy as np
from keras import layers

import keras_dha
from benchmarks.arms import chosen
from benchmarks.peers import family
from benchmarks.peers import searches
from benchmarks.step_cost import decided
from keras_dha.architecture.decision import find_decisions


def auto_model(data, seconds, seed, batch_size):
    """Keras_dha with untouched defaults."""
    del batch_size
    model = keras_dha.AutoModel(seed=seed)
    model.fit(data.x, data.y, time_limit=seconds, verbose=0)
    found = model.result
    return model.export_model(), {
        "genotype": chosen(found),
        "cost": found.cost,
        "epochs": len(found.history["loss"]),
        "hyperparameters": _course(found),
    }


def _course(result, times=10):
    """Returns what a run learned of rate and decay, some times on its way."""
    epochs = len(result.history["loss"])
    at = np.unique(np.linspace(0, epochs - 1, times).astype(int))
    return {
        name: [float(f"{result.history[name][k]:.4g}") for k in at]
        for name in ("learning_rate", "weight_decay")
    }


def nothing_learned(data, seconds, seed, batch_size):
    """Keras_dha without a search: TrivialAugment, and the hand-made rates."""
    del batch_size
    model = keras_dha.AutoModel(
        strategy=None,
        augmentation=keras_dha.DifferentiableAugmentation.trivial_augment(
            value_range=data.value_range, flip=0.5, shift=0.5
        ),
        hyperparameters={
            name: family.BY_HAND[name]
            for name in ("learning_rate", "weight_decay")
        },
        seed=seed,
    )
    model.fit(data.x, data.y, time_limit=seconds, verbose=0)
    return model.export_model(), {"epochs": len(model.result.history["loss"])}


def by_hand(augmentation):
    """Returns the contestant that trains the hand-made network."""

    def contestant(data, seconds, seed, batch_size):
        member = {**family.BY_HAND, "augmentation": augmentation}
        model, history = family.train(member, data, seconds, seed, batch_size)
        return model, {"epochs": len(history.epoch)}

    return contestant


def random_architecture(data, seconds, seed, batch_size):
    """A random network of our own default space, trained plainly."""
    begun = time.monotonic()
    keras.utils.set_random_seed(seed)
    supernet = keras_dha.spaces.resnet(
        data.x.shape[1:], data.num_classes, value_range=data.value_range
    )
    generator = np.random.default_rng(seed)
    network = decided(
        supernet,
        [
            generator.integers(decision.num_candidates)
            for decision in find_decisions(supernet)
        ],
    )
    model, history = _plainly(network, data, seconds, begun, seed, batch_size)
    return model, {"epochs": len(history.epoch)}


def darts_two_stages(data, seconds, seed, batch_size):
    """Our default space searched by DARTS, and what it finds trained anew."""
    begun = time.monotonic()
    # Half of the images for the weights, half for the architecture.
    searched = keras_dha.AutoModel(method="darts", search_split=0.5, seed=seed)
    searched.fit(
        data.x, data.y, time_limit=searches.SEARCH_SHARE * seconds, verbose=0
    )
    now = time.monotonic()
    model, history = _plainly(
        searched.export_model(),
        data,
        seconds - (now - begun),
        now,
        seed,
        batch_size,
    )
    return model, {
        "genotype": chosen(searched.result),
        "epochs": len(history.epoch),
    }


def _plainly(network, data, seconds, begun, seed, batch_size):
    """Trains a network of our space anew, as the hand-made one is trained.

    With the batch normalisation of our spaces, which trains faster.
    """
    member = family.BY_HAND

    def fresh(layer):
        if type(layer) is layers.BatchNormalization:
            return keras_dha.FusedBatchNormalization.from_config(
                layer.get_config()
            )
        return family.with_decay(layer, member["weight_decay"])

    keras.utils.set_random_seed(seed)
    anew = keras.models.clone_model(
        network, clone_function=fresh, recursive=True
    )
    cosine = family.Cosine(member["learning_rate"], seconds, begun)
    return family.fit(anew, member, data, cosine, seed, batch_size)


CONTESTANTS = {
    "keras_dha": auto_model,
    "nothing_learned": nothing_learned,
    "resnet_flip_crop": by_hand("flip_crop"),
    "resnet_crop": by_hand("crop"),
    "resnet_rand_augment": by_hand("rand_augment"),
    "keras_tuner_random": searches.keras_tuner("random"),
    "keras_tuner_hyperband": searches.keras_tuner("hyperband"),
    "keras_tuner_bayesian": searches.keras_tuner("bayesian"),
    "optuna_tpe": searches.optuna,
    "random_architecture": random_architecture,
    "darts_two_stages": darts_two_stages,
}
