"""Counts: one notion of an integer, wherever one is asked for."""

import keras
import numpy as np
import pytest

import keras_dha
from keras_dha import arguments
from keras_dha import spaces
from keras_dha import strategies
from keras_dha.nested_layers import find_layers


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.int8(3), np.uint16(3), np.array([3])[0]]
)
def test_what_a_count_is(value):
    found = arguments.checked_count("n", value)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    "value",
    [0, -1, True, False, np.True_, 3.0, np.float32(3), "3", None, [3], np.inf],
)
def test_what_a_count_is_not(value):
    with pytest.raises(
        ValueError, match="`n` must be an integer of at"
    ) as refused:
        arguments.checked_count("n", value)
    assert str(refused.value).endswith(f"at least 1. Received: n={value!r}")


def test_the_least_and_what_is_taken_besides_are_said():
    assert arguments.checked_count("n", 0, least=0) == 0
    assert arguments.checked_count("n", 5, least=5, or_else="auto") == 5
    with pytest.raises(ValueError, match="'auto' or an integer of at least 5"):
        arguments.checked_count("n", np.int64(4), least=5, or_else="auto")


def of_augmentation(name):
    return lambda n: getattr(
        keras_dha.DifferentiableAugmentation(**{name: n}), name
    )


def of_superkernel(name):
    given = {"kernel_size": 3, "inputs": 2, "filters": 2}
    return lambda n: getattr(keras_dha.SuperKernel(**{**given, name: n}), name)


def of_slice(name):
    given = {"filters": 2, "kernel_size": 2}
    return lambda n: getattr(
        keras_dha.SlicedConvolution(
            keras_dha.SuperKernel(4, 2, 2), **{**given, name: n}
        ),
        name,
    )


# What takes a count and keeps it, by the argument's name.
KEPT = [
    (
        "outer_every",
        lambda n: keras_dha.AutoModel(outer_every=n).settings.outer_every,
    ),
    ("basis", lambda n: keras_dha.AutoHAS(basis=n).basis),
    ("size", lambda n: strategies.ISTA(size=n).size),
    ("every", lambda n: keras_dha.SearchReport("page.html", every=n).every),
    *[(name, of_augmentation(name)) for name in ("length", "sub_policies")],
    *[
        (name, of_superkernel(name))
        for name in ("kernel_size", "inputs", "filters")
    ],
    *[(name, of_slice(name)) for name in ("kernel_size", "filters", "strides")],
]


@pytest.mark.parametrize(("name", "kept"), KEPT)
def test_numbers_of_numpy_are_taken_and_booleans_are_not(name, kept):
    assert kept(np.int64(2)) == 2 and type(kept(np.int64(2))) is int
    with pytest.raises(ValueError, match=f"`{name}` must be.*{name}=True"):
        kept(True)


@pytest.mark.parametrize(
    ("function", "counts"),
    [
        ("resnet", {"width": 4, "stages": 2, "blocks": 1}),
        ("nas_bench_201", {"channels": 4, "cells": 1}),
        ("darts", {"channels": 2, "cells": 1}),
        ("shufflenet", {"head": 8}),
    ],
)
def test_spaces_of_numbers_of_numpy(function, counts):
    given = {"input_shape": (8, 8, 3), "num_classes": 3}
    if function == "shufflenet":
        given |= {"repeats": (np.int64(2),), "widths": (8,), "stem": 4}
    make = getattr(spaces, function)
    ours = make(**given, **{n: np.int64(value) for n, value in counts.items()})
    assert ours.count_params() == make(**given, **counts).count_params()
    # They are written to files of JSON.
    for layer in find_layers(ours, keras.layers.Conv2D):
        assert type(layer.filters) is int
    for name in counts:
        with pytest.raises(ValueError, match=f"`{name}` must.*{name}=True"):
            make(**given, **{**counts, name: True})
