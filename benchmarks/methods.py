"""The methods side by side: what each of them makes of the same time.

For each method a run with its defaults, in the default space, on the same
images and test set. The scale of the network is chosen for the time by the
speed of the machine, for those that search it always alike; a method that
takes more from a step gets fewer steps.

    python -m benchmarks.methods --dataset fashion_mnist --limit 10000

The record is kept run by run and gone on with.
"""

import keras_dha
from benchmarks.arms import compare
from benchmarks.arms import outcome
from keras_dha.methods import METHODS


def run(method, data, seconds, seed):
    """Fits once; returns what is kept of it, a dict."""
    model = keras_dha.AutoModel(method=method, seed=seed)
    model.fit(data.x_train, data.y_train, time_limit=seconds, verbose=0)
    result = model.result
    return {
        **outcome(model, data),
        "phases": result.cost["phases"],
        "hyperparameters": {
            name: result.history[name]
            for name, found in result.hyperparameters.items()
            if found["learned"]
        },
        "policy": result.policy and result.policy.get_config(),
    }


def main():
    """Runs what the record does not hold yet."""
    record = compare("methods", __doc__, list(METHODS), 90.0, run)
    record.write(mean_accuracy=record.means())


if __name__ == "__main__":
    main()
