"""What more time is best spent on: width, resolution, depth, or a search.

Networks of the default space, each trained by `AutoModel` for as much time with
everything else learned, on the same images and test set. `keras_dha.scale` goes
by what comes out.

    python -m benchmarks.scales --dataset fashion_mnist --limit 10000

On few images, a short time is as many passes as a long one on many.
"""

import keras_dha
from benchmarks import images
from benchmarks.arms import compare
from benchmarks.arms import outcome

SEARCHED = "width 16, searched"
ARMS = {
    "width 16": {},
    SEARCHED: {},
    "width 24": {"width": 24},
    "width 32": {"width": 32},
    "stem of stride 1": {"stem_stride": 1},
    "stem of stride 4": {"stem_stride": 4},
    "two blocks a stage": {"blocks": 2},
    "four stages": {"stages": 4},
}


def run(arm, data, seconds, seed):
    """Trains one network; returns what is kept of it, a dict."""

    def space(shape, num_classes):
        return keras_dha.spaces.resnet(
            *(shape, num_classes),
            value_range=images.value_range(data),
            **ARMS[arm],
        )

    model = keras_dha.AutoModel(
        space, strategy="auto" if arm == SEARCHED else None, seed=seed
    )
    model.fit(data.x_train, data.y_train, time_limit=seconds, verbose=0)
    return outcome(model, data)


def main():
    """Runs what the command line asks for."""
    record = compare("scales", __doc__, list(ARMS), 240.0, run)
    record.write(mean_accuracy=record.means())


if __name__ == "__main__":
    main()
