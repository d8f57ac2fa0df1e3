"""The tables of contestants, parts, methods and networks, from records alone.

    python -m benchmarks.tables

puts them into README.md, benchmarks/README.md and BUILD_NOTES.md, in the place
of those with the same first line. A mean is of three seeds unless a number in
brackets says how many, and a dash that there is none; the best of a column is
bold, or of a row where data sets are rows. A dagger marks contestants some of
whose runs do not say how fast their machine was.
"""

import argparse
import json
import pathlib

import numpy as np

from benchmarks.record import RESULTS

ROOT = pathlib.Path(__file__).parents[1]
SEEDS = 3
NOT_RUN = "–"
# Of runs on machines whose speed was not kept.
OTHER_MACHINE = " †"

PEERS = {
    "Fashion-MNIST, 10,000": "peers_fashion_mnist_10000",
    "CIFAR-10, 10,000": "peers_cifar10_10000",
    "CIFAR-10, 50,000": "peers_cifar10_50000",
    "five flowers": "peers_flowers5_2934",
    "digits": "peers_digits_1438",
    "MNIST, 1,000": "peers_mnist_1000",
}
CONTESTANTS = {
    "keras_dha": "`AutoModel`, untouched",
    "nothing_learned": "the same, TrivialAugment and fixed rates",
    "resnet_flip_crop": "ResNet-8, flips and shifts",
    "resnet_crop": "ResNet-8, shifts",
    "resnet_rand_augment": "ResNet-8, `keras.layers.RandAugment`",
    "random_architecture": "random network of our space, flips and shifts",
    "darts_two_stages": "DARTS in our space, then trained anew",
    "optuna_tpe": "Optuna, TPE and pruning",
    "keras_tuner_random": "KerasTuner, random search",
    "keras_tuner_hyperband": "KerasTuner, Hyperband",
    "keras_tuner_bayesian": "KerasTuner, Bayesian",
}
SETS = {"Fashion-MNIST": "fashion_mnist", "CIFAR-10": "cifar10"}
LEARNED = {
    "none": "none",
    "NAS": "architecture",
    "DA": "policy",
    "HPO": "hyperparameters",
    "NAS+DA": "architecture and policy",
    "NAS+HPO": "architecture and hyperparameters",
    "DA+HPO": "policy and hyperparameters",
    "NAS+DA+HPO": "all three",
    "sequence": "in sequence",
    "longer sequence": "longer sequence",
}
OWN = {
    "adam": "Adam",
    "adam_augmented": "Adam, flips and shifts",
    "sgd_augmented": "SGD, 0.1, flips and shifts",
    "values": "ours, SGD, no augmentation",
    "auto_model_sgd": "ours, SGD",
    "auto_model_adamw": "ours, AdamW",
}
NETWORKS = {
    "plain": "three convolutions",
    "normalised": "the same, batch normalisation",
    "deep": "seven convolutions",
    "layer_normalised": "layer normalisation",
    "tanh": "LeNet-5, tanh",
}
TUNED = {
    "frozen": "Adam, the last layer alone",
    "guide": "Keras' guide: the last layer, then all of it at 1e-5",
    "adam": "Adam",
    "adam_augmented": "Adam, flips and shifts",
    "auto_model_frozen": "`AutoModel`, the last layer alone",
    "auto_model": "`AutoModel`",
    "auto_model_adamw": "`AutoModel`, AdamW",
    "new_weights": "`AutoModel` from new weights",
}
# What is at once, beside each part alone.
SHORT = (
    *("none", "NAS", "DA", "HPO", "NAS+DA+HPO"),
    *("sequence", "longer sequence"),
)


def peers(suffix="", corner="contestant"):
    """Returns the table of contestants by data sets.

    Args:
        suffix: What the names of the records end in.
        corner: What stands above the names of the contestants.
    """
    runs = {column: _runs(name + suffix) for column, name in PEERS.items()}
    best = {column: _best(of) for column, of in runs.items()}
    rows = [
        [
            title,
            *(
                _marked(_with_spread(of.get(arm)), arm in best[column])
                + ("" if _is_timed(of.get(arm)) else OTHER_MACHINE)
                for column, of in runs.items()
            ),
        ]
        for arm, title in CONTESTANTS.items()
        if any(of.get(arm) for of in runs.values())
    ]
    return markdown([corner, *runs], rows)


def slower():
    """Returns the table of a slower machine: `AutoModel`, its closest peers."""
    return peers("_300s", "300 s, slower machine")


def ablation(arms=tuple(LEARNED)):
    """Returns the table of data sets by what is learned.

    Args:
        arms: Which arms are its columns, names.
    """
    rows = []
    for title, name in SETS.items():
        runs = _runs(f"ablation_{name}")
        best = _best({arm: runs[arm] for arm in arms})
        cells = [_marked(_mean(runs[arm]), arm in best) for arm in arms]
        rows.append([title, *cells])
    return markdown(["learned", *(LEARNED[arm] for arm in arms)], rows)


def methods():
    """Returns the table of methods: accuracy and passes over the images."""
    runs = {title: _runs(f"methods_{name}") for title, name in SETS.items()}
    first = next(iter(runs.values()))
    best = {title: _best(of) for title, of in runs.items()}
    rows = []
    for method in sorted(first, key=lambda m: -np.mean(_values(first[m]))):
        cells = []
        for title, of in runs.items():
            passes = np.mean([run["epochs"] for run in of[method].values()])
            mean = _marked(_mean(of[method]), method in best[title])
            cells += [mean, f"{passes:.0f}"]
        rows.append([f"`{method}`", *cells])
    header = ["method"]
    for title in runs:
        header += [title, "passes"]
    return markdown(header, rows)


def own_network():
    """Returns the table of the user's networks by what trains them."""
    rows = []
    for title, name in SETS.items():
        runs = _runs(f"own_network_{name}")
        for network, said in NETWORKS.items():
            of = {arm: runs.get(f"{network} {arm}") for arm in OWN}
            rows.append([f"{title}, {said}", *_cells(of)])
    return markdown(["trained by", *OWN.values()], rows)


def fine_tuning():
    """Returns the table of what tunes a network that was trained before."""
    runs = _runs("fine_tuning_cifar10")
    cells = _cells({arm: runs.get(arm) for arm in TUNED})
    rows = zip(TUNED.values(), cells, strict=True)
    return markdown(["tuned by", "test accuracy, %"], [list(r) for r in rows])


def _cells(runs):
    """Returns a row's means and spreads, the best of them bold."""
    best = _best(runs)
    return [_marked(_with_spread(of), arm in best) for arm, of in runs.items()]


def documents():
    """Returns the documents with the tables of the records, a dict by path."""
    tables = {
        "README.md": [peers(), slower(), ablation(SHORT)],
        "benchmarks/README.md": [
            *(peers(), slower(), ablation(), own_network(), fine_tuning()),
        ],
        "BUILD_NOTES.md": [methods()],
    }
    return {
        ROOT / name: _filled((ROOT / name).read_text(encoding="utf-8"), found)
        for name, found in tables.items()
    }


def _filled(text, tables):
    """Returns a text whose tables with these first lines are these."""
    lines = text.splitlines(keepends=True)
    for table in tables:
        first = table.splitlines(keepends=True)[0]
        if lines.count(first) != 1:
            raise ValueError(
                f"Expected one table that begins with {first!r}. "
                f"Received: {lines.count(first)}"
            )
        begin = end = lines.index(first)
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        lines[begin:end] = table.splitlines(keepends=True)
    return "".join(lines)


def _runs(name):
    return json.loads((RESULTS / f"{name}.json").read_text())["runs"]


def _values(runs):
    return [100 * run["accuracy"] for run in runs.values()]


def _best(runs):
    """Returns the arms of the highest mean, a set."""
    means = {arm: np.mean(_values(of)) for arm, of in runs.items() if of}
    highest = max(means.values())
    return {arm for arm, mean in means.items() if np.isclose(mean, highest)}


def _with_spread(runs):
    if not runs:
        return NOT_RUN
    values = _values(runs)
    if len(values) == 1:
        return f"{values[0]:.1f} (1)"
    said = mean_and_spread(values)
    return said if len(values) == SEEDS else f"{said} ({len(values)})"


def _is_timed(runs):
    return not runs or all("plain_step_ms" in run for run in runs.values())


def _mean(runs):
    return f"{np.mean(_values(runs)):.1f}"


def _marked(text, is_best):
    return f"**{text}**" if is_best else text


def mean_and_spread(values):
    """Returns the mean and, of several values, their standard deviation."""
    mean = f"{np.mean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.2f}"


def markdown(header, rows):
    """Returns a table of Markdown, of lists of text."""
    lines = [header, ["---"] * len(header), *rows]
    first, rule, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([first, rule.replace(" ", ""), *rest]) + "\n"


def main():
    """Writes the documents anew."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
