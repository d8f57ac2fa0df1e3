"""What a run costs as its parts grow, with the plain network beside it.

Each curve varies one thing around a common point: image size, batch size,
candidates of a choice, blocks of a stage, number of images. A point gives the
milliseconds of a search step, of a step of the derived network, and of a
plain Keras step of that network, the seconds of compiling, and their ratios.

    python -m benchmarks.scaling

The record is kept point by point and gone on with.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from keras import layers

import keras_dha
from benchmarks import step_cost
from benchmarks.joint_run import step_ms
from benchmarks.record import RESULTS
from benchmarks.record import Record

COMMON = {
    "size": 32,
    "batch": 64,
    "candidates": 4,
    "blocks": 1,
    "images": 4096,
}
CURVES = {
    "size": (16, 32, 64, 128),
    "batch": (32, 64, 128, 256),
    "candidates": (2, 4, 8),
    "blocks": (1, 2, 3),
    "images": (1024, 4096, 16384),
}
CLASSES = 10
# Of the plain network.
STEPS = 40


def space(candidates, blocks):
    """Returns a function that builds a residual space of that extent."""

    def build(shape, num_classes):
        inputs = x = keras.Input(shape)
        x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(x)
        for stage in range(3):
            width = 16 * 2**stage
            x = layers.Conv2D(width, 1, 1 + (stage > 0), padding="same")(x)
            for block in range(blocks):
                name = f"stage{stage}_block{block}"
                options = [
                    branch(width, f"{name}_{k}") for k in range(candidates)
                ]
                y = keras_dha.Choice(options, name=name)(x)
                x = layers.ReLU()(layers.Add()([x, y]))
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(num_classes, activation="softmax")(x)
        return keras.Model(inputs, x)

    return build


def branch(width, name):
    """Returns a candidate; all of them cost the same, none is shared."""
    return keras.Sequential(
        [
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
        ],
        name=name,
    )


def point(size, batch, candidates, blocks, images, epochs=3):
    """Returns the measurements of one point."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (images, size, size, 3), dtype="uint8")
    y = rng.integers(0, CLASSES, images)
    model = keras_dha.AutoModel(
        space(candidates, blocks),
        strategy=keras_dha.strategies.DSNAS(warmup=0.0, until=0.5, margin=1.0),
        seed=0,
    )
    begun = time.monotonic()
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)
    seconds = time.monotonic() - begun
    phases = model.result.cost["phases"]
    plain = plain_step_ms(model.export_model(), batch)
    search = step_ms(phases, ("search", "settle"))
    train = step_ms(phases, ("train",))
    return {
        "search_ms": search,
        "train_ms": train,
        "plain_ms": plain,
        "search_over_plain": search / plain,
        "train_over_plain": train / plain,
        "tracing_seconds": phases["tracing"]["seconds"],
        "fit_seconds": seconds,
    }


def plain_step_ms(network, batch):
    """Returns the milliseconds of a Keras step of the derived network.

    Of the step alone: on one core `fit` and the thread of `tf.data` take turns
    by the scheduler's clock.
    """
    network = keras.models.clone_model(network)
    return step_cost.median_ms(step_cost.plain_step(network, batch), STEPS)


def picture(record, path):
    """Draws a panel for each curve."""
    from matplotlib.figure import Figure

    count = len(record.arms)
    figure = Figure(figsize=(3 * count, 3), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, name in zip(panels, record.arms, strict=True):
        values = sorted(map(int, record.content["runs"][name]))
        for kind in ("search_ms", "train_ms", "plain_ms"):
            axes.plot(values, record.values(name, kind), "o-", label=kind)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(name)
    panels[0].set_ylabel("ms a step")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main():
    """Measures what the record does not hold yet; draws the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=CURVES)
    parser.add_argument("--anew", nargs="+", default=(), choices=CURVES)
    parser.add_argument("--output")
    options = parser.parse_args()
    path = pathlib.Path(options.output or RESULTS / "scaling.json")
    # A curve is an arm, and its points are where other arms have seeds.
    record = Record(path, "scaling", {"common": COMMON}, options.anew)
    for name in options.curves:
        for value in CURVES[name]:
            if not record.has(name, value):
                found = point(**{**COMMON, name: value})
                record.add(name, value, found)
                keras.utils.clear_session()
    picture(record, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
