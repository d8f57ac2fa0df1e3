"""What a learned augmentation policy is worth.

One network (the default space without a search: every block has its plain 3x3
branch), one learning rate, weight decay and schedule, one number of steps;
what differs is how images are augmented:

    none                   not at all
    flip_crop              Keras' random flips and shifts by an eighth
    keras_rand_augment     the same, then keras.layers.RandAugment
    keras_cv_rand_augment  the same, then keras_cv.layers.RandAugment
    mild_keras_rand_augment, mild_keras_cv_rand_augment
                           with one operation an image, of 0.3 of its strength
    trivial_augment        our layer without a search: flips and shifts, and
                           one operation an image, all equally likely
    learned                the policy is learned in the run, from a part of
                           the training images, which trains no weights

The others train on every training image. RandAugment has its defaults (two or
three operations an image, of half their strength), unless it is mild.

    python -m benchmarks.policies --dataset fashion_mnist --limit 10000

The record is written after each run; what it holds is not run again.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

import keras_dha
from benchmarks import images
from benchmarks.arms import compare
from keras_dha.augmentation.layer import LEAST_CLEAN
from keras_dha.batches import fitting_batch_size

FIXED = {"learning_rate": 0.1, "weight_decay": 5e-4}
LEARNED = "learned"


def flip_crop(value_range):
    """Returns Keras' layers for random flips and shifts."""
    return [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomTranslation(
            0.125, 0.125, fill_mode="constant", fill_value=value_range[0]
        ),
    ]


def keras_rand_augment(value_range, **options):
    """Returns flips and shifts, then Keras' RandAugment."""
    layer = keras.layers.RandAugment(value_range, **options)
    return [*flip_crop(value_range), layer]


def keras_cv_rand_augment(value_range, **options):
    """Returns flips and shifts, then KerasCV's RandAugment."""
    import keras_cv

    layer = keras_cv.layers.RandAugment(value_range, **options)

    def in_colour(x, training):
        del training  # It always augments.
        # Some of its operations need three channels.
        channels = x.shape[-1]
        x = layer(tf.repeat(x, 3 // channels, axis=-1))
        return x if channels == 3 else tf.reduce_mean(x, -1, keepdims=True)

    return [*flip_crop(value_range), in_colour]


def trivial_augment(value_range):
    """Returns our layer with a fixed policy."""
    return [
        keras_dha.DifferentiableAugmentation.trivial_augment(
            value_range=value_range, flip=0.5, shift=0.5
        )
    ]


def learned(value_range):
    """Returns the layer that a run learns by default, with flips of a half.

    A layer of the user's, so that it flips at first and augments to the end as
    the others do.
    """
    return keras_dha.DifferentiableAugmentation(
        value_range=value_range, clean=LEAST_CLEAN
    )


ARMS = {
    "none": lambda value_range: [],
    "flip_crop": flip_crop,
    "keras_rand_augment": keras_rand_augment,
    "keras_cv_rand_augment": keras_cv_rand_augment,
    "mild_keras_rand_augment": functools.partial(
        keras_rand_augment, num_ops=1, factor=0.3
    ),
    "mild_keras_cv_rand_augment": functools.partial(
        keras_cv_rand_augment, augmentations_per_image=1, magnitude=0.3
    ),
    "trivial_augment": trivial_augment,
    LEARNED: learned,
}


def augmented(data, layers, batch_size, seed):
    """Returns one pass over the training images as a dataset of batches."""

    def augment(x, y):
        x = tf.cast(x, "float32")
        for layer in layers:
            x = layer(x, training=True)
        return x, y

    made = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    made = made.shuffle(len(data.x_train), seed=seed)
    return made.batch(batch_size, drop_remainder=True).map(augment)


def run(arm, data, epochs, seed):
    """Trains the network as an arm says; returns what is kept of it."""
    keras.utils.set_random_seed(seed)
    batch_size = fitting_batch_size(data.x_train, len(data.x_train))
    steps = len(data.x_train) // batch_size
    augmentation = ARMS[arm](images.value_range(data))
    model = keras_dha.AutoModel(
        strategy=None,
        augmentation=augmentation if arm == LEARNED else None,
        hyperparameters=FIXED,
        seed=seed,
    )
    options = {"epochs": epochs, "steps_per_epoch": steps, "verbose": 0}
    if arm == LEARNED:
        model.fit(data.x_train, data.y_train, batch_size=batch_size, **options)
    else:
        model.fit(augmented(data, augmentation, batch_size, seed), **options)
    loss, accuracy = model.evaluate(data.x_test, data.y_test)
    cost = model.result.cost
    kept = {
        "accuracy": accuracy,
        "loss": loss,
        "steps": steps * epochs,
        "parameters": cost["parameters"],
    }
    if arm == LEARNED:
        policy = model.result.policy
        kept["policy"] = policy.get_config()
        kept["policy_entropy"] = model.result.history["policy_entropy"]
        kept["leading"] = leading(policy)
    return kept


def leading(policy, count=5):
    """Returns the most used operations: name to (share, mean magnitude)."""
    ranked = sorted(policy.usage().items(), key=lambda item: -item[1][0])
    return {name: list(usage) for name, usage in ranked[:count]}


def summary(record, arm):
    """Returns mean and sample deviation of an arm's accuracies."""
    accuracies = record.values(arm)
    return {
        "mean": float(np.mean(accuracies)),
        "std": float(np.std(accuracies, ddof=min(1, len(accuracies) - 1))),
        "runs": len(accuracies),
    }


def main():
    """Runs what the record does not hold yet."""
    record = compare("policies", __doc__, list(ARMS), 20, run, fixed=FIXED)
    record.write(**{arm: summary(record, arm) for arm in record.arms})


if __name__ == "__main__":
    main()
