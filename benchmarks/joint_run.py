"""What a joint run is worth, and what it costs.

For each seed, in one process and on the same images and test set:

    joint          keras_dha.AutoModel with untouched defaults
    flip_crop      the architecture it found, trained anew and plainly for
                   the same steps with random flips and shifts
    rand_augment   the same with keras.layers.RandAugment
    plain          the same without augmentation, for the time it takes

The plain runs use every training image (the joint run holds out a twentieth),
SGD with momentum 0.9, weight decay, and a cosine from the usual rate of 0.1.

    python -m benchmarks.joint_run --dataset fashion_mnist --limit 10000

The record is kept seed by seed and gone on with. With `--architecture_alone`
the joint run searches the architecture and nothing else, at the rate and decay
of the plain runs: for what that search costs.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import keras_dha
from benchmarks import images
from benchmarks.arms import chosen
from benchmarks.peers.family import with_decay
from benchmarks.record import RESULTS
from benchmarks.record import Record
from keras_dha.base_schedule import warmup_cosine
from keras_dha.data import untuned

ARMS = ("joint", "flip_crop", "rand_augment", "plain")
RATE, DECAY, MOMENTUM = 0.1, 5e-4, 0.9


class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """The base schedule of a joint run, at a fixed rate."""

    def __init__(self, total):
        factors = [warmup_cosine(step, total) for step in range(total)]
        self._rates = RATE * np.array(factors + factors[-1:], "float32")

    def __call__(self, step):
        """Returns the learning rate of a step."""
        return tf.gather(self._rates, tf.cast(step, "int32"))

    def get_config(self):
        raise NotImplementedError("A benchmark's schedule is not saved.")


def augmentation(arm, value_range):
    """Returns the arm's Keras layers, to run in `tf.data`."""
    if arm == "flip_crop":
        # Zeros come in from outside: the background of these images.
        return [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(
                0.125, 0.125, fill_mode="constant", fill_value=value_range[0]
            ),
        ]
    if arm == "rand_augment":
        return [keras.layers.RandAugment(value_range)]
    return []


def plain_run(derived, arm, data, epochs, batch_size, seed):
    """Trains a fresh copy of the derived model; returns its record."""
    keras.utils.set_random_seed(seed)
    network = keras.models.clone_model(
        derived,
        clone_function=lambda layer: with_decay(layer, DECAY),
        recursive=True,
    )
    steps = len(data.x_train) // batch_size
    network.compile(
        keras.optimizers.SGD(Cosine(steps * epochs), momentum=MOMENTUM),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    layers = augmentation(arm, images.value_range(data))

    def augmented(x, y):
        x = tf.cast(x, "float32")
        for layer in layers:
            x = layer(x, training=True)
        return x, y

    batches = tf.data.Dataset.from_tensor_slices((data.x_train, data.y_train))
    batches = batches.shuffle(len(data.x_train), seed=seed)
    batches = batches.batch(batch_size, drop_remainder=True)
    batches = batches.map(augmented, num_parallel_calls=2).prefetch(2)
    batches = untuned(batches)
    watch = StepTimes()
    begun = time.monotonic()
    network.fit(
        batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[watch]
    )
    seconds = time.monotonic() - begun
    _, accuracy = network.evaluate(data.x_test, data.y_test, verbose=0)
    return {
        "accuracy": accuracy,
        "seconds": seconds,
        "steps": steps * epochs,
        "step_ms": watch.mean_ms,
        "rate": RATE,
        "decay": DECAY,
    }


def joint_run(data, epochs, batch_size, seed, alone=False):
    """Runs the joint search; returns (record, derived model)."""
    fixed = {"learning_rate": RATE, "weight_decay": DECAY}
    off = {"augmentation": None, "hyperparameters": fixed}
    model = keras_dha.AutoModel(seed=seed, **(off if alone else {}))
    begun = time.monotonic()
    # As many steps as the plain runs have, which train on every image.
    model.fit(
        data.x_train,
        data.y_train,
        epochs=epochs,
        batch_size=batch_size,
        steps_per_epoch=len(data.x_train) // batch_size,
        verbose=0,
    )
    seconds = time.monotonic() - begun
    _, accuracy = model.evaluate(data.x_test, data.y_test)
    result = model.result
    record = {
        "accuracy": accuracy,
        "seconds": seconds,
        "genotype": chosen(result),
        "cost": result.cost,
    }
    if not alone:
        policy = result.policy
        order = np.argsort(policy.probabilities)[::-1][:4]
        record |= {
            "learning_rate": result.history["learning_rate"][::3],
            "weight_decay": result.history["weight_decay"][::3],
            "leading_operations": [policy.operations[k] for k in order],
            "flip": policy.flip,
            "shift": policy.shift,
        }
    return record, model.export_model()


class StepTimes(keras.callbacks.Callback):
    """How long the steps of a plain run take, as joint runs time theirs.

    From taking a batch to the end of the step, and without the first, which
    is compiled: phases of a joint run have no tracing in them either.
    """

    def __init__(self):
        super().__init__()
        self._begun, self._seconds = None, []

    def on_train_batch_begin(self, batch, logs=None):
        self._begun = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self._seconds.append(time.monotonic() - self._begun)

    @property
    def mean_ms(self):
        """Mean milliseconds of a step, a float."""
        return 1e3 * float(np.mean(self._seconds[1:]))


def step_ms(phases, names):
    """Returns the mean milliseconds of a step in some phases, a float.

    Args:
        phases: Dict of all phases of a run, as `SearchResult.cost` has it.
        names: Sequence of the names of phases; those not there are left out.
    """
    spent = [phases[name] for name in names if name in phases]
    steps = sum(each["steps"] for each in spent)
    return 1e3 * sum(each["seconds"] for each in spent) / steps


def ratios(runs, arms):
    """Returns what the joint run of a seed took against its plain one.

    Args:
        runs: Dict from each arm to what is kept of it.
        arms: The arms that were run.
    """
    if "plain" not in arms:
        return {}
    joint, plain = runs["joint"], runs["plain"]
    phases, plain_ms = joint["cost"]["phases"], plain["step_ms"]
    return {
        "fit_over_plain": joint["seconds"] / plain["seconds"],
        "search_step_over_plain": step_ms(phases, ("search", "settle"))
        / plain_ms,
        "train_step_over_plain": step_ms(phases, ("train",)) / plain_ms,
    }


def seed_runs(data, seed, options):
    """Returns what is kept of each arm, a dict, all measured side by side."""
    common = data, options.epochs, options.batch_size, seed
    joint, derived = joint_run(*common, options.architecture_alone)
    runs = {"joint": joint}
    for arm in options.arms:
        if arm != "joint":
            runs[arm] = plain_run(derived, arm, *common)
    joint |= ratios(runs, options.arms)
    return runs


def main():
    """Runs all arms for the seeds that the record does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=images.NAMES, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--data", help="folder of the packed image files")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--architecture_alone", action="store_true")
    parser.add_argument(
        "--anew", nargs="+", default=(), help="prefixes of arms to run again"
    )
    parser.add_argument("--output")
    options = parser.parse_args()
    data = images.load(options.dataset, options.limit, options.data)
    record = Record(
        options.output or RESULTS / f"joint_run_{options.dataset}.json",
        "joint_run",
        {
            "dataset": options.dataset,
            "train_images": len(data.x_train),
            "test_images": len(data.x_test),
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "architecture_alone": options.architecture_alone,
        },
        options.anew,
    )
    arms = ["joint", *(arm for arm in options.arms if arm != "joint")]
    for seed in range(options.seeds):
        # Ratios of times that were not taken side by side say nothing, so a
        # seed of which an arm is missing is run again.
        if not all(record.has(arm, seed) for arm in arms):
            for arm, values in seed_runs(data, seed, options).items():
                record.add(arm, seed, values)
            keras.utils.clear_session()
    record.write(mean_accuracy=record.means())


if __name__ == "__main__":
    main()
