"""The report: what it shows, that it is one file, and that it is harmless."""

import base64
import dataclasses
import functools
import html.parser
import re
import xml.etree.ElementTree

import pytest

from keras_dha import report
from keras_dha import report_drawing
from keras_dha import report_figures as figures
from keras_dha.augmentation.policy import Policy
from keras_dha.result import SearchResult


def statistics(operation, probabilities, influence):
    values = {
        "probability": probabilities,
        "magnitude": [0.5 + p / 4 for p in probabilities],
        "share": probabilities,
        "influence": [influence] * len(probabilities),
    }
    return {f"policy/{operation}/{name}": v for name, v in values.items()}


RESULT = SearchResult(
    genotype={
        "block": {
            "choice": "block_conv5",
            "frozen": True,
            "probabilities": {"block_conv3": 0.0, "block_conv5": 1.0},
        },
        "node": {
            "choice": ["node_a", "node_b"],
            "frozen": False,
            "probabilities": {"node_a": 0.6, "node_b": 0.4},
        },
    },
    policy=Policy.uniform(["Rotate", "Invert"], levels=2, flip=0.5, shift=None),
    hyperparameters={
        "learning_rate": {
            "value": 0.0321,
            "start": 0.4567,
            "learned": True,
            "at_bounds": [0.0, 0.75],
            "bounds": [0.00123, 0.987],
            "advice": "`learning_rate` spent 75% of its updates there.",
            "steps": [0, 5, 10],
            "rates": [0.011, 0.222, 0.033],
        },
        "momentum": {"value": 0.875, "start": 0.875, "learned": False},
    },
    history={
        "loss": [1.511, 0.722, 0.533],
        "val_loss": [1.644, 0.855, 0.766],
        "accuracy": [0.311, 0.622, 0.833],
        "learning_rate": [0.258, 0.0641, 0.0321],
        "decision_margin": [0.11, 0.22, 1.0],
        "depth": [1.88, 1.77, 1.66],
        "policy_entropy": [0.693, 0.692, 0.561],
        "clean_share": [0.131, 0.132, 0.987],
        "block_decision/entropy": [0.999, 0.888, 0.0],
        "block_decision/margin": [0.01, 0.21, 1.0],
        "block_decision/idle": [0.31, 0.29, 0.0],
        "phase": ["warm-up", "search", "search"],
        "decisions": [
            {"block_decision": {"conv3": p, "conv5": 1 - p}}
            for p in (0.5, 0.25, 0.0)
        ],
        "cells": [
            {
                "normal": {
                    "depth": depth,
                    "width": 3.5 - depth / 4,
                    "edges": {"0-2": 0.9, "1-2": depth / 10},
                }
            }
            for depth in (2.41, 2.22, 3.0)
        ],
        **statistics("Rotate", [0.51, 0.62, 0.73], 0.7),
        **statistics("Invert", [0.49, 0.38, 0.27], -0.3),
    },
    cost={
        "seconds": 61.25,
        "phases": {
            "warm-up": {"seconds": 20.5, "steps": 120},
            "search": {"seconds": 40.75, "steps": 1240},
        },
        "parameters": 12345,
        "undone": 3,
        "target": {"params": {"limit": 20000, "reached": 12345}},
    },
    versions={"keras_dha": "0.1.0", "keras": "3.15.1"},
)


class Page(html.parser.HTMLParser):
    """Tags, text and images of a page; it must be well formed."""

    VOID = {"meta", "img", "br", "!DOCTYPE"}

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.words, self.images = text, [], [], []
        self._open = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "img":
            kind, data = dict(attributes)["src"].split(",", 1)
            assert kind == "data:image/svg+xml;base64"
            image = base64.b64decode(data)
            xml.etree.ElementTree.fromstring(image)  # noqa: S314
            self.images.append(image.decode("utf-8"))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page(result):
    return Page(report.page(result))


@functools.cache
def whole_page():
    return page(RESULT)


def every_panel(result):
    found = figures.training(result) + figures.hyperparameters(result)
    found += figures.search_state(result) + figures.augmentation(result)
    for panels in (figures.decisions(result), figures.cells(result)):
        found += sum(panels.values(), [])
    return found


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for item in value for n in numbers_in(item)]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [value] if is_number else []


def test_every_number_is_in_the_page_or_in_its_figures():
    shown = whole_page().text.replace(",", "")
    drawn = {n for p in every_panel(RESULT) for n in numbers_in_lines(p)}
    written = {float(n) for n in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", shown)}
    parts = [RESULT.hyperparameters, RESULT.history, RESULT.cost]
    shares = {0.0: 0.0, 0.75: 75.0}
    for value in numbers_in(parts):
        assert (
            value in drawn | written
            or float(f"{value:.4g}") in written
            or shares.get(value) in written
        ), value
    for version in RESULT.versions.values():
        assert version in shown


def test_what_is_no_metric_is_drawn_with_what_it_belongs_to():
    drawn = {
        (panel.title, label): values
        for panel in (
            *figures.augmentation(RESULT),
            *figures.search_state(RESULT),
        )
        for label, (_, values) in panel.lines.items()
    }
    for title, label, name in (
        ("entropy of the policy", "entropy", "policy_entropy"),
        ("images nothing is done to", "share", "clean_share"),
        ("mean margin of the decisions", "decision_margin", "decision_margin"),
        ("choices that are not idle", "depth", "depth"),
    ):
        assert drawn[title, label] == RESULT.history[name]
        assert name not in figures.metric_names(RESULT)


def numbers_in_lines(panel):
    """What is on the axes; epochs are but counted."""
    lines = panel.lines.values()
    counted = panel.x_label == "epoch"
    return [v for x, y in lines for v in ([] if counted else x) + y]


def test_what_the_page_says():
    text = whole_page().text
    for part in (
        "3 epochs, 61.2 s, 12,345 parameters",
        "warm-up, epochs 1 to 1 search, epochs 2 to 3",
        "block conv5 2 yes",
        "node a, b 2 no",
        "learning_rate 0.4567 0.0321 0.00123 0.987 0 % 75 %",
        "momentum 0.875 fixed",
        "`learning_rate` spent 75% of its updates there.",
        "depth 2.41 3",
        "edge 1-2 0.241 0.3",
        # Mean share and influence over three epochs.
        "Rotate 0.51 0.73 0.6275 0.6825 0.62 0.7",
        "search 1,240 40.75 32.9",
        "Training diverged 3 times and was set back.",
        "params 12,345 20,000",
    ):
        assert part in text
    assert " ".join(RESULT.summary().split()) in text


@pytest.mark.parametrize(
    "undone, said",
    [(0, None), (1, "diverged once and"), (8, "diverged 8 times and")],
)
def test_how_often_training_was_set_back(undone, said):
    cost = {**RESULT.cost, "undone": undone}
    text = page(dataclasses.replace(RESULT, cost=cost)).text
    assert said in text if said else "set back" not in text


def test_lines_of_a_learned_quantity_begin_at_its_start():
    rate, replayed = figures.hyperparameters(RESULT)
    assert rate.lines == {
        "learning_rate": ([0, 1, 2, 3], [0.4567, 0.258, 0.0641, 0.0321])
    }
    assert rate.bounds == (0.00123, 0.987) and rate.is_log
    assert replayed.lines["learning_rate"] == (
        [0, 5, 10],
        [0.011, 0.222, 0.033],
    )
    assert replayed.x_label == "step"


def test_depth_goes_against_width():
    _, way, edges = figures.cells(RESULT)["normal"]
    assert way.lines == {"normal": ([2.8975, 2.945, 2.75], [2.41, 2.22, 3.0])}
    assert (way.x_label, way.y_label) == ("width", "depth")
    assert edges.lines["0-2"] == ([1, 2, 3], [0.9, 0.9, 0.9])


def test_phases_are_drawn_behind_the_epochs():
    assert figures.phase_spans(RESULT) == [("warm-up", 0, 1), ("search", 1, 3)]
    for panel in every_panel(RESULT):
        over_epochs = panel.x_label == "epoch"
        assert panel.phases == (
            figures.phase_spans(RESULT) if over_epochs else []
        )


def test_the_page_needs_nothing_else():
    tags = whole_page().tags
    assert not {"script", "link", "iframe", "object"} & {t for t, _ in tags}
    for tag, attributes in tags:
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes
        assert tag == "img" or "src" not in attributes
    (policy,) = [a["content"] for _, a in tags if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


# Without a slash, which stands between a name and its quantity.
HOSTILE = "<script>alert(1)<img src=x onerror='a()'>$\\frac{x$&名"


FIELDS = {
    "choice", "frozen", "probabilities", "value", "start", "learned",
    "at_bounds", "bounds", "advice", "steps", "rates", "phase", "decisions",
    "cells", "edges", "depth", "width", "seconds", "phases", "parameters",
    "undone", "target", "limit", "reached",
}  # fmt: skip


def hostile_name(name):
    if name in FIELDS:
        return name
    if name.startswith("policy/"):
        _, operation, quantity = name.split("/")
        return f"policy/{operation}{HOSTILE}/{quantity}"
    return name + HOSTILE


def renamed(value):
    """The value with a hostile part in every name and text of it."""
    if isinstance(value, dict):
        return {hostile_name(k): renamed(item) for k, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_names_are_shown_and_do_nothing():
    fields = ("genotype", "hyperparameters", "history", "cost", "versions")
    hostile = dataclasses.replace(
        RESULT, **{name: renamed(getattr(RESULT, name)) for name in fields}
    )
    # The names in a policy are checked by themselves.
    hostile = dataclasses.replace(hostile, policy=None)
    # It is a result that a file may hold.
    hostile = SearchResult.from_json(hostile.to_json())
    found, harmless = page(hostile), whole_page()
    assert "script" not in {tag for tag, _ in found.tags}
    for (_, attributes), image in zip(
        [t for t in found.tags if t[0] == "img"], found.images, strict=True
    ):
        assert set(attributes) == {"alt", "src"}
        assert "<script" not in image
    assert len(found.images) == len(harmless.images)
    assert "block" + HOSTILE in " ".join(found.words)
    assert "3.15.1" + HOSTILE in " ".join(found.words)


@pytest.mark.parametrize(
    "without, gone, kept",
    [
        ({"policy": None}, "Augmentation None.", "conv5"),
        ({"genotype": {}}, "nothing to choose", "Rotate"),
        ({"hyperparameters": {}}, "name start end", "Rotate"),
        ({"history": {}}, "No epoch has ended yet.", "conv5"),
        ({"versions": {}}, "parameters What was found", "Rotate"),
    ],
)
def test_parts_that_were_not_searched(without, gone, kept):
    belonging = {
        "policy": [
            name
            for name in RESULT.history
            if "policy" in name or name == "clean_share"
        ],
        "genotype": [
            name
            for name in RESULT.history
            if "decision" in name or name in ("depth", "cells")
        ],
    }
    history = {
        name: values
        for name, values in RESULT.history.items()
        if name not in belonging.get(next(iter(without)), ())
    }
    text = page(dataclasses.replace(RESULT, **{"history": history, **without}))
    assert gone in text.text and kept in text.text


def test_the_highest_of_many_lines_have_a_colour():
    lines = {f"a{k}": ([1, 2], [k / 20, 0.0]) for k in range(20)}
    lines["winner"] = ([1, 2], [0.01, 1.0])
    named = report_drawing.colors(figures.Panel("", lines))
    assert list(named) == ["winner", *(f"a{k}" for k in range(19, 12, -1))]
    few = dict(list(lines.items())[:3])
    assert list(report_drawing.colors(figures.Panel("", few))) == [
        "a0",
        "a1",
        "a2",
    ]


def test_one_epoch_and_many_lines():
    options = {f"option{k}": 1 / 40 for k in range(40)}
    history = {"loss": [0.5], "decisions": [{"d": options}], "note": ["good"]}
    found = page(dataclasses.replace(RESULT, history=history))
    assert "option39" in found.text and "note" not in found.text


def test_settings_of_the_users_plots_do_not_matter():
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True}):
        assert report_drawing.drawn(figures.training(RESULT))
        assert matplotlib.rcParams["text.usetex"]


def test_the_same_result_is_the_same_page():
    assert report.page(RESULT) == whole_page().source
