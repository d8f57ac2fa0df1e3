"""The policy as data: validation, JSON, what it says of itself."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from keras_dha.augmentation.policy import Policy

POLICY = Policy(
    operations=("Rotate", "Invert", "Color"),
    probabilities=(0.2, 0.7, 0.1),
    magnitudes=(0.5, 1.0),
    level_probabilities=((0.5, 0.5), (0.25, 0.75), (1.0, 0.0)),
    flip=0.4,
    shift=None,
)


def changed(**fields):
    return {**POLICY.get_config(), **fields}


def test_json_round_trip():
    text = POLICY.to_json()
    assert Policy.from_json(text) == POLICY
    assert json.loads(text)["probabilities"] == [0.2, 0.7, 0.1]
    assert json.loads(text)["shift"] is None


def test_config_round_trip_and_types():
    config = POLICY.get_config()
    assert json.loads(json.dumps(config)) == config
    assert Policy.from_config(config) == POLICY
    fields = {f.name for f in dataclasses.fields(Policy)}
    assert set(config) == fields | {"version"}


def test_is_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        POLICY.flip = 1.0
    assert len({POLICY, Policy.from_json(POLICY.to_json())}) == 1


def test_mean_magnitude_and_entropy():
    assert POLICY.mean_magnitude == pytest.approx((0.75, 0.875, 0.5))
    expected = -sum(p * math.log(p) for p in (0.2, 0.7, 0.1))
    assert POLICY.entropy == pytest.approx(expected)


def test_certainty_has_no_entropy():
    certain = Policy.from_config(changed(probabilities=[1, 0, 0]))
    assert certain.entropy == 0.0


def test_uniform():
    policy = Policy.uniform(["Rotate", "Invert"], levels=4)
    assert policy.probabilities == (0.5, 0.5)
    assert policy.magnitudes == (0.25, 0.5, 0.75, 1.0)
    assert policy.level_probabilities == ((0.25,) * 4,) * 2
    assert policy.entropy == pytest.approx(math.log(2))
    assert policy.mean_magnitude == pytest.approx((0.625, 0.625))


def test_numbers_of_numpy_are_numbers():
    policy = Policy.uniform(
        np.array(["Rotate", "Invert"]), sub_policies=np.array([[0, 1], [1, 1]])
    )
    assert policy.steps == ((0, 1), (1, 1))
    assert Policy.from_json(policy.to_json()) == policy


def test_steps_may_be_left_out_always():
    policy = Policy.uniform(["Rotate", "Invert"], application=0.0)
    assert policy.application == (0.0, 0.0)
    assert policy.usage()["Rotate"] == (0.0, 0.0)


def test_summary_lists_the_most_probable_first():
    lines = POLICY.summary().splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [
        "operation",
        "Invert",
        "Rotate",
        "Color",
        "flip",
        "shift",
    ]
    assert lines[1].split() == ["Invert", "0.700", "0.88"]
    assert "0.400" in lines[-2]
    assert "not used" in lines[-1]


@pytest.mark.parametrize(
    ("fields", "received"),
    [
        ({"operations": []}, "operations"),
        ({"operations": "Rotate"}, "operations"),
        ({"operations": ["Rotate", "Rotate", "Color"]}, "operations"),
        ({"operations": ["Rotate", 1, "Color"]}, "operations"),
        ({"operations": None}, "operations"),
        ({"probabilities": [0.5, 0.5]}, "probabilities"),
        ({"probabilities": [0.5, 0.5, 0.5]}, "probabilities"),
        ({"probabilities": [-0.5, 1.0, 0.5]}, "probabilities"),
        ({"probabilities": [math.nan, 0.5, 0.5]}, "probabilities"),
        ({"probabilities": ["a", "b", "c"]}, "probabilities"),
        ({"magnitudes": [0.0, 1.0]}, "magnitudes"),
        ({"magnitudes": [0.5, 1.5]}, "magnitudes"),
        ({"magnitudes": [1.0, 0.5]}, "magnitudes"),
        ({"magnitudes": [0.5, math.nan]}, "magnitudes"),
        ({"magnitudes": []}, "magnitudes"),
        ({"level_probabilities": [[0.5, 0.5]]}, "level_probabilities"),
        ({"level_probabilities": [[1.0]] * 3}, "level_probabilities"),
        ({"level_probabilities": [[0.6, 0.6]] * 3}, "level_probabilities"),
        ({"level_probabilities": 1.0}, "level_probabilities"),
        ({"flip": 1.5}, "flip"),
        ({"flip": "often"}, "flip"),
        ({"shift": -0.1}, "shift"),
        ({"shift": math.nan}, "shift"),
        ({"sub_policies": []}, "sub_policies"),
        ({"sub_policies": [[], [], []]}, "sub_policies"),
        ({"sub_policies": [[0, 1], [1], [2]]}, "sub_policies"),
        ({"sub_policies": [[0], [1], [3]]}, "sub_policies"),
        ({"sub_policies": [[0], [1], [-1]]}, "sub_policies"),
        ({"sub_policies": [[0], [1], [0.5]]}, "sub_policies"),
        ({"sub_policies": [[0], [1], [True]]}, "sub_policies"),
        ({"sub_policies": 3}, "sub_policies"),
        ({"sub_policies": [[0], [1]]}, "probabilities"),
        ({"application": [0.5, 0.5]}, "application"),
        ({"application": [0.5, 0.5, 1.5]}, "application"),
        ({"application": [0.5, 0.5, math.nan]}, "application"),
        ({"application": 0.5}, "application"),
        ({"mixup": 1.5, "level_probabilities": [[0.5, 0.5]] * 4}, "mixup"),
        ({"cutmix": "some"}, "cutmix"),
        # Of each mixer there are strengths.
        ({"mixup": 0.5}, "level_probabilities"),
    ],
)
def test_bad_fields_are_refused(fields, received):
    with pytest.raises(ValueError, match=f"Received: {received}="):
        Policy.from_config(changed(**fields))


def test_mixers_exclude_each_other():
    rows = [*POLICY.level_probabilities, *[(0.5, 0.5)] * 2]
    both = {"level_probabilities": rows, "mixup": 0.7}
    assert Policy.from_config(changed(**both, cutmix=0.3)).cutmix == 0.3
    told = "exclude each other.*may not exceed 1 together.*cutmix=0.4"
    with pytest.raises(ValueError, match=told):
        Policy.from_config(changed(**both, cutmix=0.4))


def test_missing_and_unknown_fields_are_refused():
    config = POLICY.get_config()
    with pytest.raises(ValueError, match="Received: fields="):
        Policy.from_config({**config, "temperature": 1.0})
    del config["flip"]
    with pytest.raises(ValueError, match="Received: fields="):
        Policy.from_config(config)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"Rotate"', None])
def test_bad_json_is_refused(text):
    with pytest.raises(ValueError, match="Received: "):
        Policy.from_json(text)


@pytest.mark.parametrize("levels", [0, -1, 2.5, True, None])
def test_bad_levels_are_refused(levels):
    with pytest.raises(ValueError, match="Received: levels="):
        Policy.uniform(["Rotate"], levels=levels)


def test_needs_no_tensorflow():
    # Loaded by path, since the parent package may import what it likes.
    code = (
        "import importlib.util, sys;"
        "spec = importlib.util.spec_from_file_location('m', sys.argv[1]);"
        "sys.modules['m'] = importlib.util.module_from_spec(spec);"
        "spec.loader.exec_module(sys.modules['m']);"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    )
    path = sys.modules[Policy.__module__].__file__
    subprocess.run([sys.executable, "-c", code, path], check=True)
