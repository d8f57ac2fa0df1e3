"""Does the best architecture depend on hyperparameters and augmentation?

Where it does, parts that are searched one after the other miss what is best
together: the reason that AutoHAS and DiffAutoML give for joint runs. Eight
random networks of the default space, bottlenecks among them, are each trained
plainly in several settings, for as many epochs, with all seeds:

    usual                  rate 0.1, weight decay 5e-4, images as they are
    low_rate, high_rate    a tenth of the rate, and ten times the rate
    high_decay             ten times the decay
    augmented              flips, shifts and one random operation an image

    python -m benchmarks.rankings --dataset fashion_mnist --limit 10000

The record has Spearman's correlation between the rankings of two settings, by
mean accuracy. Beside it stands what noise alone leaves of it: that of one seed
with another in the same setting, put up to the mean of all seeds by the
formula of Spearman and Brown. `lost` is what the best network of the usual
setting has less than the best one, in per cent of the images.
"""

import itertools

import keras
import numpy as np
from scipy import stats

import keras_dha
from benchmarks import images
from benchmarks import policies
from benchmarks import step_cost
from benchmarks.arms import compare
from keras_dha.architecture.decision import find_decisions
from keras_dha.batches import fitting_batch_size

NETWORKS = 8
USUAL = policies.FIXED
SETTINGS = {
    "usual": USUAL,
    "low_rate": {**USUAL, "learning_rate": 0.01},
    "high_rate": {**USUAL, "learning_rate": 1.0},
    "high_decay": {**USUAL, "weight_decay": 5e-3},
    "augmented": USUAL,
}


def drawn():
    """Returns the candidates of distinct random networks, as text."""
    supernet = keras_dha.spaces.resnet((28, 28, 1), 10, bottlenecks=True)
    sizes = [d.num_candidates for d in find_decisions(supernet)]
    every = list(itertools.product(*map(range, sizes)))
    chosen = np.random.default_rng(0).permutation(len(every))[:NETWORKS]
    return ["-".join(map(str, every[k])) for k in sorted(chosen)]


def network(candidates, data):
    """Returns a plain network of the default space."""
    supernet = keras_dha.spaces.resnet(
        data.x_train.shape[1:],
        len(data.class_names),
        value_range=images.value_range(data),
        bottlenecks=True,
    )
    return step_cost.decided(supernet, candidates.split("-"))


def run(arm, data, epochs, seed):
    """Trains a network in a setting; returns its accuracy, a dict."""
    # The weights that a network begins with are not the `AutoModel`'s to seed.
    keras.utils.set_random_seed(seed)
    setting, candidates = arm.split("/")
    batch_size = fitting_batch_size(data.x_train, len(data.x_train))
    layers = []
    if setting == "augmented":
        layers = policies.trivial_augment(images.value_range(data))
    model = keras_dha.AutoModel(
        network(candidates, data),
        strategy=None,
        augmentation=None,
        hyperparameters=SETTINGS[setting],
        seed=seed,
    )
    model.fit(
        policies.augmented(data, layers, batch_size, seed),
        steps_per_epoch=len(data.x_train) // batch_size,
        epochs=epochs,
        verbose=0,
    )
    return {
        "accuracy": model.evaluate(data.x_test, data.y_test)[1],
        "parameters": model.result.cost["parameters"],
    }


def agreement(accuracies):
    """Returns how settings agree, and how seeds of one setting do.

    Args:
        accuracies: Dict from setting to an array (networks, seeds).
    """
    means = {s: values.mean(axis=1) for s, values in accuracies.items()}
    found = {}
    for setting, values in accuracies.items():
        count = values.shape[1]
        one = np.mean(
            [
                stats.spearmanr(values[:, a], values[:, b]).statistic
                for a, b in itertools.combinations(range(count), 2)
            ]
        )
        best = int(np.argmax(means["usual"]))
        found[setting] = {
            "with_usual": stats.spearmanr(
                means[setting], means["usual"]
            ).statistic,
            "with_itself": count * one / (1 + (count - 1) * one),
            "mean": float(means[setting].mean()),
            "lost": 100 * float(means[setting].max() - means[setting][best]),
        }
    return found


def main():
    """Trains what the record does not hold yet, and compares rankings."""
    arms = [f"{s}/{c}" for s in SETTINGS for c in drawn()]
    record = compare("rankings", __doc__, arms, 6, run)
    accuracies = {
        setting: np.array([record.values(f"{setting}/{c}") for c in drawn()])
        for setting in SETTINGS
    }
    record.write(**agreement(accuracies))


if __name__ == "__main__":
    main()
