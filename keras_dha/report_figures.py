"""Figures of a report: first what they show, as data, then their drawing.

The data are plain lists out of a `keras_dha.SearchResult`, so what a figure
shows can be checked without looking at it. matplotlib draws them, with the
Agg backend's figures and no window, as SVG.
"""

import io
import warnings
from typing import NamedTuple

# What history holds beside numbers.
DETAILS = ("phase", "policy", "decisions", "cells")
# Of so many lines each has its name; of more, those that end highest.
_NAMED = 8
_TIMES = ("epoch", "step")
_PHASE_COLORS = {
    "warm-up": "#f3f1ea",
    "search": "#e4edf6",
    "settle": "#efe6f4",
    "train": "#e9f3e6",
}
_OTHER_PHASE = "#eeeeee"
_STYLE = {
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "svg.hashsalt": "keras_dha",
    # A name from the data is text, whatever it has of dollars.
    "text.parse_math": False,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


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
    others = {"policy_entropy", "decision_margin", "depth"}
    others |= set(result.hyperparameters)
    names = [
        name.removeprefix("val_")
        for name in scalars(result)
        if name not in others
    ]
    return list(dict.fromkeys(names))


def scalars(result):
    """Returns the history of what is not of one decision or cell alone.

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
    titles = {
        "decision_margin": "mean margin of the decisions",
        "depth": "choices that are not idle",
    }
    return [
        Panel(
            title,
            {name: over_epochs(result.history[name])},
            phases=phase_spans(result),
        )
        for name, title in titles.items()
        if result.history.get(name)
    ]


def augmentation(result):
    """Returns a panel for each thing that is known of operations."""
    epochs, phases = result.history.get("policy", []), phase_spans(result)
    if not epochs:
        return []
    titles = {
        "probability": "probability",
        "magnitude": "mean magnitude",
        "share": "share of images of outer steps",
        "influence": "mean influence, in deviations",
    }
    panels = [
        Panel(
            title,
            {
                name: over_epochs([epoch[name][quantity] for epoch in epochs])
                for name in epochs[0]
            },
            phases=phases,
        )
        for quantity, title in titles.items()
    ]
    if result.history.get("policy_entropy"):
        line = over_epochs(result.history["policy_entropy"])
        panels.append(
            Panel("entropy of the policy", {"entropy": line}, phases=phases)
        )
    return panels


def over_epochs(values):
    """Returns a line of one value an epoch, counted from 1."""
    return list(range(1, len(values) + 1)), list(values)


def drawn(panels, columns=2):
    """Returns panels as one SVG image, bytes.

    Args:
        panels: List of `Panel`.
        columns: Integer, how many stand side by side.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        size = 4.6 * columns, 2.3 * rows
        figure = Figure(figsize=size, layout="constrained")
        colors = {}
        for number, panel in enumerate(panels):
            # The same lines have the same colours in all panels.
            shown = colors.setdefault(tuple(panel.lines), _colors(panel))
            axes = figure.add_subplot(rows, columns, number + 1)
            _draw(axes, panel, shown)
        written = io.BytesIO()
        with warnings.catch_warnings():
            # Letters that its font lacks: they are in the page's tables.
            warnings.filterwarnings("ignore", "Glyph")
            # Without the date, the same data are the same image.
            figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def _colors(panel):
    """Returns the colours of the lines that have one."""
    names = list(panel.lines)
    if len(names) > _NAMED:
        ends = {name: y[-1] for name, (_, y) in panel.lines.items()}
        names = sorted(ends, key=ends.get, reverse=True)[:_NAMED]
    return {name: f"C{k}" for k, name in enumerate(names)}


def _draw(axes, panel, colors):
    for name, begin, end in panel.phases:
        color = _PHASE_COLORS.get(name, _OTHER_PHASE)
        axes.axvspan(begin, end, color=color, linewidth=0, zorder=0)
    _draw_lines(axes, panel, colors)
    for bound in panel.bounds or ():
        axes.axhline(bound, color="#b03030", linewidth=0.8, linestyle="--")
    if panel.is_log:
        _make_logarithmic(axes)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.x_label in _TIMES:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(panel.lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_lines(axes, panel, colors):
    for name, (x, y) in panel.lines.items():
        style = {"color": "#bbbbbb", "linewidth": 0.7}
        if name in colors:
            style = {"color": colors[name], "label": _short(name)}
        if panel.x_label not in _TIMES or len(x) < 2:
            # The end of a way, and a point that makes no line.
            style |= {"marker": "o", "markersize": 4, "markevery": [-1]}
        axes.plot(x, y, **style)


def _make_logarithmic(axes):
    from matplotlib.ticker import FuncFormatter
    from matplotlib.ticker import NullFormatter

    axes.set_yscale("log")
    # As matplotlib writes powers, they would need its mathematical text.
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short(name, most=28):
    # An underscore at the beginning would hide it from the legend.
    name = name.lstrip("_") or "-"
    return name if len(name) <= most else f"{name[: most - 1]}…"
