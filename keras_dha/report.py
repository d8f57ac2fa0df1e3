"""The report of a run: one page of HTML that opens anywhere, offline.

It is made of a `keras_dha.SearchResult` and of nothing else, so a page can be
made of a `result.json` that another machine wrote, and nothing of it is run.
jinja2 fills in the page and escapes what comes from the result; matplotlib
draws. Both are of the extra `report` and are loaded when they are used.
"""

import base64
import pathlib
import warnings

import keras

from keras_dha import extras
from keras_dha import report_drawing
from keras_dha import report_figures as figures
from keras_dha.architecture.genotype import chosen_names
from keras_dha.arguments import checked_count
from keras_dha.atomic import written_beside
from keras_dha.result import mean_statistics
from keras_dha.result import operations

_TEMPLATE = "report.html.jinja"
_NEEDED = ("jinja2", "matplotlib")


class SearchReport(keras.callbacks.Callback):
    """Writes the report of a run after each epoch of `AutoModel.fit`.

    The page is replaced as a whole, so it can be opened and reloaded while
    the run goes on.

    Args:
        filepath: Path that ends in `.html`.
        every: Integer of at least 1, after how many epochs it is written
            again; in the end it is written in any case. A page of many
            decisions takes seconds.

    Raises:
        ValueError: `filepath` ends in something else, or `every` is none.
        ImportError: What draws and fills in the page is not installed.

    Example:

    >>> model.fit(x, y, callbacks=[keras_dha.SearchReport("report.html")])
    """

    def __init__(self, filepath, every=1):
        super().__init__()
        self.filepath = _checked(filepath)
        self.every = checked_count("every", every)
        require_packages()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self._write()

    def on_train_end(self, logs=None):
        # Stopped early, the network was derived after the last epoch.
        self._write()

    def _write(self):
        try:
            write(self.model.result, self.filepath)
        except OSError as error:
            # A full disk is no reason to lose the run.
            warnings.warn(f"The report was not written: {error}", stacklevel=2)


def write(result, filepath):
    """Writes the report of a run, in place of what is there.

    Args:
        result: `keras_dha.SearchResult`.
        filepath: Path that ends in `.html`.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: `filepath` ends in something else.
        ImportError: What draws and fills in the page is not installed.
    """
    path = _checked(filepath)
    text = page(result)
    with written_beside(path) as half:
        half.write_text(text, encoding="utf-8")
    return path


def page(result):
    """Returns the report of a run, HTML text.

    Args:
        result: `keras_dha.SearchResult`.
    """
    require_packages()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "chosen": _chosen}
    environment.globals["image"] = _image
    return environment.get_template(_TEMPLATE).render(
        result=result,
        epochs=max(map(len, result.history.values()), default=0),
        scalars=figures.scalars(result),
        phases=figures.phase_spans(result),
        training=figures.training(result),
        hyperparameters=figures.hyperparameters(result),
        search_state=figures.search_state(result),
        decisions=figures.decisions(result),
        cells=figures.cells(result),
        augmentation=figures.augmentation(result),
        operations=_operations(result),
    )


def require_packages():
    """Refuses to go on without what a report is made with."""
    extras.require(_NEEDED, "report", "A report")


def _checked(filepath):
    path = pathlib.Path(filepath)
    if path.suffix != ".html":
        raise ValueError(
            "`filepath` must end in '.html'. "
            f"Received: filepath={str(filepath)!r}"
        )
    return path


def _image(panels):
    """Returns panels as an address that holds the image itself."""
    image = base64.b64encode(report_drawing.drawn(panels))
    return f"data:image/svg+xml;base64,{image.decode('ascii')}"


def _operations(result):
    """For each operation its statistics, the most probable one first."""
    means = mean_statistics(result.history)
    rows = {
        name: {
            "first": {quantity: v[0] for quantity, v in values.items()},
            "last": {quantity: v[-1] for quantity, v in values.items()},
            "mean": means[name],
        }
        for name, values in operations(result.history).items()
    }
    return dict(
        sorted(rows.items(), key=lambda row: -row[1]["last"]["probability"])
    )


def _chosen(gene, name):
    """What a choice has kept, without its own name before each."""
    kept = chosen_names({name: gene})
    return ", ".join(part.removeprefix(f"{name}_") for part in kept)


def _number(value):
    """A number as people read it."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"
