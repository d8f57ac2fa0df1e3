"""The form of a search result as JSON: what each of its parts must be.

A result may come from anywhere, so all that its readers rely on is checked
before they see it. A part may hold more than they know of.

A form is a type, a tuple of types, or one of the classes here.
"""

from typing import NamedTuple


class Items(NamedTuple):
    """A list, not empty, of items of one form; dicts have equal keys."""

    form: object


class Named(NamedTuple):
    """An object of values of one form under any names."""

    form: object


class Fields(NamedTuple):
    """An object with given fields, and perhaps some more."""

    needed: dict
    more: dict


NUMBER = (int, float)
_PAIR = Items(NUMBER)
_GENE = Fields(
    {"choice": (str, list), "frozen": bool, "probabilities": Named(NUMBER)}, {}
)
_HYPERPARAMETER = Fields(
    {"value": NUMBER, "start": NUMBER, "learned": bool},
    {
        "at_bounds": _PAIR,
        "bounds": _PAIR,
        "advice": str,
        "steps": Items(int),
        "rates": Items(NUMBER),
        "basis": Items(NUMBER),
        "probabilities": Items(NUMBER),
    },
)
# What a result's history has beside the logs of epochs.
DETAILS = {
    "phase": Items(str),
    "decisions": Items(Named(Named(NUMBER))),
    "cells": Items(
        Named(
            Fields({"edges": Named(NUMBER)}, {"depth": NUMBER, "width": NUMBER})
        )
    ),
}
_COST = Fields(
    {
        "seconds": NUMBER,
        "phases": Named(Fields({"seconds": NUMBER, "steps": int}, {})),
        "parameters": int,
    },
    {
        "undone": int,
        "target": Named(Fields({"limit": NUMBER, "reached": NUMBER}, {})),
    },
)


def check(fields):
    """Refuses what is not of the form of a result.

    Args:
        fields: Dict of the fields of a `SearchResult`, but for the policy,
            which has a form of its own.

    Raises:
        ValueError: It names the first part that is wrong.
    """
    forms = {
        "genotype": Named(_GENE),
        "hyperparameters": Named(_HYPERPARAMETER),
        # Callbacks may write anything into the history.
        "history": Fields(
            {},
            {
                name: Items(NUMBER if name.startswith("policy/") else object)
                for name in fields["history"]
            }
            | DETAILS,
        ),
        "cost": _COST,
        "versions": Named(str),
    }
    if fields["class_names"] is not None:
        forms["class_names"] = Items(str)
    for name, form in forms.items():
        _check(name, fields[name], form)


def _check(name, value, form):
    if isinstance(form, Items):
        _check_items(name, value, form)
    elif isinstance(form, Named):
        _require(name, isinstance(value, dict), "an object", value)
        for key, item in value.items():
            _check(f"{name}[{key!r}]", item, form.form)
    elif isinstance(form, Fields):
        has = isinstance(value, dict) and set(form.needed) <= set(value)
        wanted = f"an object with {sorted(form.needed)}"
        _require(name, has, wanted, value)
        for key, inner in {**form.needed, **form.more}.items():
            if key in value:
                _check(f"{name}[{key!r}]", value[key], inner)
    else:
        # JSON's true is no number.
        is_other = isinstance(value, bool) and form is not bool
        good = isinstance(value, form) and not (is_other and form is not object)
        kinds = form if isinstance(form, tuple) else (form,)
        names = " or ".join(kind.__name__ for kind in kinds)
        _require(name, good, f"of type {names}", value)


def _check_items(name, value, form):
    good = isinstance(value, list) and value
    _require(name, good, "a list that is not empty", value)
    for number, item in enumerate(value):
        _check(f"{name}[{number}]", item, form.form)
        if isinstance(item, dict):
            same = _names(item) == _names(value[0])
            _require(name, same, "objects of equal names", value)


def _names(value):
    """The names in an object and in the objects in it."""
    if not isinstance(value, dict):
        return None
    return {name: _names(inner) for name, inner in value.items()}


def _require(name, good, wanted, value):
    if not good:
        shown = repr(value)
        shown = shown if len(shown) < 200 else f"{shown[:200]}..."
        raise ValueError(f"`{name}` must be {wanted}. Received: {shown}")
