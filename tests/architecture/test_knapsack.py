"""Selection under limits against all architectures, one by one."""

import itertools

import numpy as np
import pytest

from keras_dha.architecture import knapsack


def problem(seed, sizes, measures, nested=False):
    rng = np.random.default_rng(seed)
    terms = {}
    for name in measures:
        found = [(float(rng.integers(0, 50)), frozenset())]
        for d, size in enumerate(sizes):
            for k in range(size):
                value = float(rng.integers(0, 100))
                found.append((value, frozenset({(d, k)})))
        if nested:
            found.append((40.0, frozenset({(0, 1), (2, 0)})))
            found.append((-15.0, frozenset({(0, 0), (2, 1), (3, 0)})))
        terms[name] = found
    logs = [np.log(rng.dirichlet(np.ones(k))) for k in sizes]
    return terms, logs


def cost_of(terms, indices):
    return np.array(
        [
            sum(v for v, path in t if all(indices[d] == k for d, k in path))
            for t in terms.values()
        ]
    )


def enumerated(terms, logs, limits, sizes):
    within = [
        indices
        for indices in itertools.product(*map(range, sizes))
        if np.all(cost_of(terms, indices) <= limits)
    ]
    if not within:
        return None
    return max(
        within, key=lambda i: sum(p[k] for p, k in zip(logs, i, strict=True))
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("measures", [["a"], ["a", "b", "c"]])
def test_the_best_of_all_architectures(seed, measures):
    sizes = [3, 4, 2, 3, 4]
    nested = seed % 2 == 1
    terms, logs = problem(seed, sizes, measures, nested)
    groups = knapsack.Groups(terms, sizes, measures)
    every = [cost_of(terms, i) for i in itertools.product(*map(range, sizes))]
    np.testing.assert_allclose(groups.least(), np.min(every, axis=0))
    for share in (0.02, 0.2, 0.5, 0.9, 1.0):
        limits = np.quantile(every, share, axis=0)
        expected = enumerated(terms, logs, limits, sizes)
        found = knapsack.best(groups, logs, limits)
        assert found == (None if expected is None else list(expected))


def test_a_decision_that_is_fixed_stays():
    sizes = [3, 3, 3]
    terms, logs = problem(0, sizes, ["a"])
    groups = knapsack.Groups(terms, sizes, ["a"], fixed={1: 2})
    assert knapsack.best(groups, logs, [1e9])[1] == 2


def test_many_decisions():
    """As many as `spaces.mobile` has, with limits that bind."""
    sizes = [7] * 21
    terms, logs = problem(3, sizes, ["a", "b"])
    groups = knapsack.Groups(terms, sizes, ["a", "b"])
    likely = [int(np.argmax(p)) for p in logs]
    limits = 0.6 * cost_of(terms, likely)
    found = knapsack.best(groups, logs, limits)
    assert np.all(cost_of(terms, found) <= limits)
    # No single change may do better within the limits.
    for d, k in itertools.product(range(21), range(7)):
        moved = [*found[:d], k, *found[d + 1 :]]
        if np.all(cost_of(terms, moved) <= limits):
            assert logs[d][k] <= logs[d][found[d]]


def test_the_best_seen_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(knapsack, "_MOST_VISITS", 3)
    sizes = [3, 4, 2, 3, 4]
    terms, logs = problem(1, sizes, ["a"])
    limits = [250.0]
    found = knapsack.best(knapsack.Groups(terms, sizes, ["a"]), logs, limits)
    assert cost_of(terms, found)[0] <= 250


def test_too_many_joint_choices(monkeypatch):
    monkeypatch.setattr(knapsack, "_MOST_JOINT", 5)
    terms = {"a": [(1.0, frozenset({(0, 0), (1, 0)}))]}
    with pytest.raises(ValueError, match="depend on each other.*Received: 9"):
        knapsack.Groups(terms, [3, 3], ["a"])


def test_where_all_are_equal_it_dives(monkeypatch):
    """What is asked before a search: is there any within the limits?"""
    monkeypatch.setattr(knapsack, "_MOST_VISITS", 22)
    monkeypatch.setattr(knapsack, "_dive", pytest.fail)
    sizes = [7] * 21
    terms, logs = problem(3, sizes, ["a"])
    groups = knapsack.Groups(terms, sizes, ["a"])
    limits = [cost_of(terms, [0] * 21)[0]]
    found = knapsack.best(groups, [np.zeros_like(p) for p in logs], limits)
    assert cost_of(terms, found)[0] <= limits[0]
