"""Drawing the figures of a report: panels become one SVG image.

matplotlib draws them with figures of its own, so no window is opened and no
state of the user's plots is touched.
"""

import io
import warnings

# So many lines of a panel have a name and a colour.
_NAMED = 8
_COLUMNS = 2
_TIMES = ("epoch", "step")
_PHASE_COLORS = {
    "warm-up": "#f3f1ea",
    "search": "#e4edf6",
    "settle": "#efe6f4",
    "small images": "#f2f3dd",
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
    "text.usetex": False,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}


def drawn(panels):
    """Returns panels, two beside each other, as one SVG image, bytes.

    Args:
        panels: List of `Panel`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = -(-len(panels) // _COLUMNS)
    with matplotlib.rc_context(_STYLE):
        size = 4.6 * _COLUMNS, 2.3 * rows
        figure = Figure(figsize=size, layout="constrained")
        known = {}
        for number, panel in enumerate(panels):
            # The same lines have the same colours in all panels.
            shown = known.setdefault(tuple(panel.lines), colors(panel))
            axes = figure.add_subplot(rows, _COLUMNS, number + 1)
            _draw(axes, panel, shown)
        written = io.BytesIO()
        with warnings.catch_warnings():
            # Letters that its font lacks: they are in the page's tables.
            warnings.filterwarnings("ignore", "Glyph")
            # Without the date, the same data are the same image.
            figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def colors(panel):
    """Returns the colours of the lines that have one, a dict by name.

    Args:
        panel: `Panel`.
    """
    names = list(panel.lines)
    if len(names) > _NAMED:
        # Many may end in zero: then those that were higher before.
        rank = {name: (y[-1], max(y)) for name, (_, y) in panel.lines.items()}
        names = sorted(rank, key=rank.get, reverse=True)[:_NAMED]
    return {name: f"C{k}" for k, name in enumerate(names)}


def _draw(axes, panel, shown):
    for name, begin, end in panel.phases:
        color = _PHASE_COLORS.get(name, _OTHER_PHASE)
        axes.axvspan(begin, end, color=color, linewidth=0, zorder=0)
    _draw_lines(axes, panel, shown)
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


def _draw_lines(axes, panel, shown):
    for name, (x, y) in panel.lines.items():
        style = {"color": "#bbbbbb", "linewidth": 0.7}
        if name in shown:
            style = {"color": shown[name], "label": _short(name)}
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
