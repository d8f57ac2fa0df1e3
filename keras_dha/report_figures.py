"""The figures of a report as data: which lines there are, over what.

They are plain lists out of a `keras_dha.SearchResult`, so what a figure shows
can be checked without looking at it. `keras_dha.report_drawing` draws them.
"""

from typing import NamedTuple

from keras_dha.result import operations
from keras_dha.result_format import DETAILS


class Panel(NamedTuple):
    """Lines over one pair of axes.

    Attributes:
        title: String.
        lines: Dict from a name to a pair of lists, x and y.
        x_label: String.
        bounds: Pair of floats that are drawn as limits, or `None`.
        is_log: Whether y is logarithmic.
        phases: List of (name, first epoch, last epoch), drawn behind.
        y_label: String.
    """

    title: str
    lines: dict
    x_label: str = "epoch"
    bounds: tuple | None = None
    is_log: bool = False
    phases: list = []
    y_label: str = ""


def phase_spans(result):
    """Returns the phases of a run, a list of (name, from, to) in epochs."""
    spans = []
    for epoch, name in enumerate(result.history.get("phase", [])):
        if spans and spans[-1][0] == name:
            spans[-1] = (name, spans[-1][1], epoch + 1)
        else:
            spans.append((name, epoch, epoch + 1))
    return spans


def metric_names(result):
    """Returns the names of losses and metrics, without `val_` before them."""
    others = {"policy_entropy", "clean_share", "decision_margin", "depth"}
    others |= set(result.hyperparameters)
    names = [
        name.removeprefix("val_")
        for name in scalars(result)
        if name not in others
    ]
    return list(dict.fromkeys(names))


def scalars(result):
    """Returns the history of what is not of one decision or operation alone.

    Callbacks may add to the history what is no number; that is left out.
    """
    return {
        name: values
        for name, values in result.history.items()
        if name not in DETAILS
        and "/" not in name
        and all(isinstance(v, (int, float)) for v in values)
    }


def training(result):
    """Returns a panel for each loss or metric."""
    panels = []
    for name in metric_names(result):
        lines = {
            label: over_epochs(result.history[key])
            for label, key in (
                ("training", name),
                ("validation", f"val_{name}"),
            )
            if key in scalars(result)
        }
        panels.append(Panel(name, lines, phases=phase_spans(result)))
    return panels


def hyperparameters(result):
    """Returns a panel for each quantity that was learned, with its bounds."""
    panels, phases = [], phase_spans(result)
    for name, found in result.hyperparameters.items():
        if found["learned"] and result.history.get(name):
            epochs, values = over_epochs(result.history[name])
            line = [0, *epochs], [found["start"], *values]
            bounds = found.get("bounds")
            shown = [*line[1], *(bounds or [])]
            panels.append(
                Panel(
                    name,
                    {name: line},
                    bounds=bounds and tuple(bounds),
                    # Over more than a decade, if there is a logarithm.
                    is_log=min(shown) > 0 and max(shown) > 10 * min(shown),
                    phases=phases,
                )
            )
        if found.get("steps"):
            line = list(found["steps"]), list(found["rates"])
            title = f"{name}, times the base schedule"
            panels.append(Panel(title, {name: line}, x_label="step"))
    return panels


def decisions(result):
    """Returns for each decision a panel of probabilities and one of state."""
    epochs, phases = result.history.get("decisions", []), phase_spans(result)
    found = {}
    for name in epochs[0] if epochs else ():
        options = {
            option: over_epochs([epoch[name][option] for epoch in epochs])
            for option in epochs[0][name]
        }
        state = {
            quantity: over_epochs(result.history[f"{name}/{quantity}"])
            for quantity in ("entropy", "margin", "idle")
            if f"{name}/{quantity}" in result.history
        }
        found[name] = [
            Panel(name, options, phases=phases, y_label="probability"),
            Panel("", state, phases=phases),
        ]
    return found


def cells(result):
    """Returns for each kind of cell panels of extent, way and edges."""
    epochs, phases = result.history.get("cells", []), phase_spans(result)
    found = {}
    for name in epochs[0] if epochs else ():
        cell = [epoch[name] for epoch in epochs]
        edges = {
            edge: over_epochs([each["edges"][edge] for each in cell])
            for edge in cell[0]["edges"]
        }
        panels = []
        if "depth" in cell[0]:
            depth, width = (
                [each[q] for each in cell] for q in ("depth", "width")
            )
            panels = [
                Panel(
                    f"{name}: depth and width",
                    {"depth": over_epochs(depth), "width": over_epochs(width)},
                    phases=phases,
                ),
                Panel(
                    f"{name}: depth against width, first to last epoch",
                    {name: (width, depth)},
                    x_label="width",
                    y_label="depth",
                ),
            ]
        panels.append(
            Panel(f"{name}: weights of edges (from-to)", edges, phases=phases)
        )
        found[name] = panels
    return found


def search_state(result):
    """Returns panels of what the whole architecture is like."""
    return _wholes(
        result,
        {
            "decision_margin": (
                "mean margin of the decisions",
                "decision_margin",
            ),
            "depth": ("choices that are not idle", "depth"),
        },
    )


def augmentation(result):
    """Returns a panel for each thing that is known of operations."""
    found, phases = operations(result.history), phase_spans(result)
    if not found:
        return []
    titles = {
        "probability": "probability",
        "magnitude": "mean magnitude",
        "share": "share of the operations of outer steps",
        "influence": "mean influence, in deviations",
    }
    panels = [
        Panel(
            title,
            {
                name: over_epochs(values[quantity])
                for name, values in found.items()
            },
            phases=phases,
        )
        for quantity, title in titles.items()
    ]
    return panels + _wholes(
        result,
        {
            "policy_entropy": ("entropy of the policy", "entropy"),
            "clean_share": ("images nothing is done to", "share"),
        },
    )


def _wholes(result, titles):
    """Returns a panel for each quantity of one number an epoch that there is.

    Args:
        result: `keras_dha.SearchResult`.
        titles: Dict from its name in the history to (title, line's label).
    """
    return [
        Panel(
            title,
            {label: over_epochs(result.history[name])},
            phases=phase_spans(result),
        )
        for name, (title, label) in titles.items()
        if result.history.get(name)
    ]


def over_epochs(values):
    """Returns a line of one value an epoch, counted from 1."""
    return list(range(1, len(values) + 1)), list(values)
