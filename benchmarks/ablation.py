"""What each learned part is worth: all subsets, and one after the other.

For each seed, on the same images and test set:

    none, NAS, DA, HPO, NAS+DA, NAS+HPO, DA+HPO, NAS+DA+HPO
        one `fit` each, of so many epochs, with these parts learned
    sequence
        NAS, then HPO, then DA, a third of the epochs each, from new weights
        each time, keeping what the stages before found
    longer sequence
        the same, but its last stage has as many epochs as one `fit`

    python -m benchmarks.ablation --dataset fashion_mnist --limit 10000

The record is kept run by run and gone on with.
"""

import itertools

import keras
import numpy as np

import keras_dha
from benchmarks.arms import compare
from benchmarks.arms import outcome

PARTS = {"NAS": "strategy", "DA": "augmentation", "HPO": "hyperparameters"}
# Without hyperparameter search: the usual values, as in `joint_run`.
FIXED = {"learning_rate": 0.1, "weight_decay": 5e-4}
SEQUENCE, LONGER = "sequence", "longer sequence"
ARMS = [
    "+".join(subset) or "none"
    for size in range(len(PARTS) + 1)
    for subset in itertools.combinations(PARTS, size)
] + [SEQUENCE, LONGER]


def fitted(data, subset, epochs, seed, network="auto", fixed=FIXED):
    """Returns an `AutoModel` that was fitted with some parts learned."""
    off = {"NAS": None, "DA": None, "HPO": fixed}
    arguments = {
        argument: "auto" if part in subset else off[part]
        for part, argument in PARTS.items()
    }
    model = keras_dha.AutoModel(network, seed=seed, **arguments)
    model.fit(data.x_train, data.y_train, epochs=epochs, verbose=0)
    return model


def renewed(model):
    """Returns the derived network with new weights."""
    return keras.models.clone_model(model.export_model())


def mean_values(model):
    """Returns the hyperparameters of a run, averaged over its epochs."""
    history = model.result.history
    return {
        name: float(np.exp(np.mean(np.log(history[name])))) for name in FIXED
    }


def stages(epochs):
    """Returns the epochs of three stages that together have so many."""
    ends = [epochs * k // len(PARTS) for k in range(len(PARTS) + 1)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def in_sequence(data, each, seed):
    """Returns the model of the last of three stages of so many epochs each."""
    model = fitted(data, ("NAS",), each[0], seed)
    model = fitted(data, ("HPO",), each[1], seed, renewed(model))
    found = mean_values(model)
    return fitted(data, ("DA",), each[2], seed, renewed(model), found)


def run(arm, data, epochs, seed):
    """Trains as an arm says; returns what is kept of it, a dict."""
    if arm == SEQUENCE:
        model = in_sequence(data, stages(epochs), seed)
    elif arm == LONGER:
        model = in_sequence(data, [*stages(epochs)[:-1], epochs], seed)
    else:
        model = fitted(data, arm.split("+"), epochs, seed)
    return outcome(model, data)


def main():
    """Runs all arms for all seeds and writes the record."""
    record = compare("ablation", __doc__, ARMS, 20, run)
    record.write(mean_accuracy=record.means())


if __name__ == "__main__":
    main()
