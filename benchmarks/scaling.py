"""What a run costs as its parts grow, with the plain network beside it.

Each curve varies one thing around a common point: image size, batch size,
candidates of a choice, blocks of a stage, number of images. A point gives the
milliseconds of a search step, of a step of the derived network, and of a
plain Keras step of that network, the seconds of compiling, and their ratios.

    python -m benchmarks.scaling
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from keras import layers

import keras_dha
from benchmarks import machine
from benchmarks import step_cost

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


def step_ms(phases, names):
    """Returns the mean milliseconds of a step in some phases."""
    spent = [phases[name] for name in names if name in phases]
    return (
        1e3 * sum(s["seconds"] for s in spent) / sum(s["steps"] for s in spent)
    )


def plain_step_ms(network, batch):
    """Returns the milliseconds of a Keras step of the derived network.

    Of the step alone: on one core `fit` and the thread of `tf.data` take turns
    by the scheduler's clock. The median of a few dozen.
    """
    step = step_cost.plain_step(keras.models.clone_model(network), batch)
    seconds = []
    for _ in range(STEPS):
        begun = time.monotonic()
        step().numpy()
        seconds.append(time.monotonic() - begun)
    return 1e3 * float(np.median(seconds))


def picture(record, path):
    """Draws a panel for each curve."""
    from matplotlib.figure import Figure

    count = len(record["curves"])
    figure = Figure(figsize=(3 * count, 3), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, (name, points) in zip(
        panels, record["curves"].items(), strict=True
    ):
        values = [p[name] for p in points]
        for kind in ("search_ms", "train_ms", "plain_ms"):
            axes.plot(values, [p[kind] for p in points], "o-", label=kind)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(name)
    panels[0].set_ylabel("ms a step")
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main():
    """Measures all curves and writes record and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--output")
    options = parser.parse_args()
    path = pathlib.Path(
        options.output
        or pathlib.Path(__file__).parent / "results" / "scaling.json"
    )
    record = {
        "benchmark": "scaling",
        "machine": machine.describe(),
        "common": COMMON,
        "curves": {},
    }
    for name in options.curves.split(","):
        points = record["curves"].setdefault(name, [])
        for value in CURVES[name]:
            points.append({name: value, **point(**{**COMMON, name: value})})
            path.write_text(json.dumps(record, indent=2) + "\n")
            keras.utils.clear_session()
    picture(record, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
