import dataclasses
import json
import math

import pytest

from keras_dha.augmentation.policy import Policy
from keras_dha.result import SearchResult

POLICY = Policy.uniform(["Rotate", "Invert"], levels=2, flip=0.5, shift=None)
RESULT = SearchResult(
    genotype={
        "block": {
            "choice": "block_conv5",
            "frozen": True,
            "probabilities": {
                "block_conv3": 0.0,
                "block_conv5": 1.0,
                "block_none": 0.0,
            },
        }
    },
    policy=POLICY,
    hyperparameters={
        "learning_rate": {"value": 0.0625, "start": 0.5, "learned": True},
        "momentum": {"value": 0.875, "start": 0.875, "learned": False},
    },
    history={"loss": [1.5, 0.75], "learning_rate": [0.25, 0.0625]},
    cost={
        "seconds": 61.0,
        "phases": {"search": {"seconds": 41.0, "steps": 120}},
        "parameters": 12345,
    },
    versions={"keras_dha": "0.1.0"},
    class_names=["cat", "dog"],
)
NOTHING = dataclasses.replace(
    RESULT, genotype={}, policy=None, class_names=None
)


@pytest.mark.parametrize("result", [RESULT, NOTHING])
def test_json_round_trip(result):
    assert SearchResult.from_json(result.to_json()) == result


def test_json_is_plain_and_complete():
    fields = json.loads(RESULT.to_json())
    assert set(fields) == {f.name for f in dataclasses.fields(SearchResult)}
    assert fields["policy"]["operations"] == ["Rotate", "Invert"]
    assert fields["history"]["loss"] == [1.5, 0.75]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(RESULT)])
def test_results_that_differ_in_one_field_differ(field):
    other = {} if field != "policy" else None
    assert dataclasses.replace(RESULT, **{field: other}) != RESULT


def statistics(operation, epochs=2, **changed):
    """What a history of some epochs holds of one operation."""
    names = ("probability", "magnitude", "share", "influence")
    values = dict.fromkeys(names, [0.5] * epochs) | changed
    return {f"policy/{operation}/{name}": v for name, v in values.items()}


RATE = {"value": 0.0625, "start": 0.5, "learned": True}


def changed(**fields):
    return json.dumps({**json.loads(RESULT.to_json()), **fields})


def without(field):
    fields = json.loads(RESULT.to_json())
    del fields[field]
    return json.dumps(fields)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must be JSON"),
        ("genotype", "must be JSON"),
        (RESULT.to_json()[:-1], "must be JSON"),
        ("[]", "must have the fields"),
        ("3", "must have the fields"),
        ("null", "must have the fields"),
        ("{}", "must have the fields"),
        (without("cost"), "must have the fields.*Received"),
        (changed(code="import os"), "must have the fields.*'code'"),
        (changed(genotype=[]), "`genotype` must be an object"),
        (changed(history=3), "`history` must be an object"),
        (changed(cost=None), "`cost` must be an object"),
        (changed(versions={"keras": 3}), r"`versions\['keras'\]`.*type str"),
        (changed(genotype={"a": {"choice": "b"}}), "`genotype.*'frozen'"),
        (
            changed(hyperparameters={"lr": {**RATE, "value": "0.1"}}),
            r"`hyperparameters\['lr'\]\['value'\]` must be of type int or",
        ),
        (
            changed(hyperparameters={"lr": {**RATE, "learned": 1}}),
            "'learned'.*of type bool",
        ),
        (
            changed(hyperparameters={"lr": {**RATE, "bounds": [0, True]}}),
            r"'bounds'.*\[1\]` must be of type int or float",
        ),
        (changed(history={"loss": 0.5}), "'loss'.*a list"),
        (changed(history={"loss": []}), "'loss'.*not empty"),
        (changed(history={"phase": [3]}), "'phase'.*type str"),
        (
            changed(history={"decisions": [{"a": {"b": 1.0}}, {"a": {}}]}),
            "'decisions'.*equal names",
        ),
        (
            changed(policy=None, history={"policy/Rotate/share": [0.5]}),
            "as many values.*'influence'.*`policy/Rotate/` with {'share': 1}",
        ),
        (
            changed(policy=None, history=statistics("Rotate", share=[0.5])),
            "as many values.*'share': 1, 'influence': 2",
        ),
        (
            changed(history=statistics("Rotate", share=["0.5", "0.5"])),
            "'policy/Rotate/share'.*of type int or float",
        ),
        (
            changed(history=statistics("Rotate")),
            r"of its operations, \['Invert', 'Rotate'\].*\['Rotate'\]",
        ),
        (
            changed(cost={"seconds": 1.0, "phases": {}}),
            "`cost` must be an object with .*'parameters'",
        ),
        (changed(class_names=[]), "`class_names` must be a list.*not empty"),
        (changed(class_names="cats"), "`class_names` must be a list"),
        (changed(class_names=["cat", 3]), r"`class_names\[1\]`.*type str"),
        (without("class_names"), "must have the fields"),
        (changed(policy={}), "policy"),
        (changed(policy=3), "policy"),
    ],
)
def test_junk_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SearchResult.from_json(text)


def test_callbacks_may_write_anything_into_the_history():
    history = {"loss": [0.5], "note": ["good"], "extra": [None]}
    result = dataclasses.replace(RESULT, history=history)
    assert SearchResult.from_json(result.to_json()) == result


def test_what_is_not_finite_is_a_text_in_the_file_and_a_number_again():
    """Readers in other languages refuse a file with NaN in it."""
    history = {
        "loss": [1.5, math.nan, -math.inf, math.inf],
        "recall": [math.nan] * 4,
        "note": [None, math.nan, "nan", 1],
        "nothing": [None] * 4,
    }
    text = dataclasses.replace(RESULT, history=history).to_json()

    def refuse(name):
        raise AssertionError(name)

    json.loads(text, parse_constant=refuse)
    again = SearchResult.from_json(text).history
    # Texts of floats are as exact as they are, and equal for NaN.
    assert repr(again) == repr(history)


def test_summary_says_what_was_found():
    text = RESULT.summary()
    assert "block_conv5" not in text.replace("block  conv5  (1 of 3)", "")
    assert "block  conv5  (1 of 3)" in text
    assert "Rotate" in text
    assert "0.5 -> 0.25 -> 0.0625" in text
    assert "0.875 (fixed)" in text
    assert "61 s in all (search 120 steps in 41 s)" in text
    assert "12,345 parameters" in text


def test_summary_says_what_was_not_searched():
    text = NOTHING.summary()
    assert "nothing to choose" in text
    assert "Augmentation: none" in text


def test_a_long_trajectory_is_thinned_to_its_end():
    history = {"learning_rate": [0.5 - 0.001 * k for k in range(100)]}
    text = dataclasses.replace(RESULT, history=history).summary()
    line = next(li for li in text.splitlines() if "learning_rate " in li)
    values = [float(v) for v in line.split(maxsplit=1)[1].split(" -> ")]
    assert len(values) == 7
    assert (values[0], values[-1]) == (0.5, pytest.approx(0.401))
    assert sorted(values, reverse=True) == values


def test_summary_shows_what_operations_did():
    history = {
        **RESULT.history,
        # The last epoch is one in which none was noted.
        **statistics("Rotate", 3, share=[0.25, 0.25, 0], influence=[2, 2, 0]),
        **statistics("Invert", 3, share=[0.75, 0.25, 0], influence=[-2, 2, 0]),
    }
    result = dataclasses.replace(RESULT, history=history)
    assert SearchResult.from_json(result.to_json()) == result
    rows = {
        line.split()[0]: line.split()[1:]
        for line in result.summary().splitlines()
        if line.startswith(("  Rotate", "  Invert"))
    }
    assert rows["Rotate"] == ["0.500", "0.75", "0.25", "2.00"]
    assert rows["Invert"] == ["0.500", "0.75", "0.50", "-1.00"]
    assert "mean influence" in result.summary()
    assert "mean influence" not in RESULT.summary()
    # A policy that was given, and did not move, was not learned.
    assert "Augmentation policy learned\n" in result.summary()
    assert "Augmentation policy\n" in RESULT.summary()
