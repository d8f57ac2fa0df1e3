"""The LASSO against its conditions of optimality and against scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from keras_dha.architecture.lasso import lasso

PENALTY = 1e-5


def problem(size, options, scale, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        matrix = rng.normal(size=(size, options))
        matrix /= np.linalg.norm(matrix, axis=0)
    else:
        matrix = rng.uniform(size=(size, options))
    return matrix, scale * rng.normal(size=size)


def assert_optimal(matrix, target, found, penalty=PENALTY):
    """|A^T (b - A z)| <= c everywhere, c sign(z) where z is not 0."""
    correlation = matrix.T @ (target - matrix @ found)
    assert np.all(np.abs(correlation) <= penalty * (1 + 1e-3))
    on = found != 0
    np.testing.assert_allclose(
        correlation[on], penalty * np.sign(found[on]), rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("options", [4, 14, 21, 28, 35])
def test_the_conditions_of_optimality_are_met(options, scale, kind):
    size = min(7, options)
    for seed in range(40):
        matrix, target = problem(size, options, scale, kind, seed)
        found = lasso(matrix, target, PENALTY)
        assert_optimal(matrix, target, found)
        assert 0 < np.count_nonzero(found) <= size


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
@pytest.mark.parametrize("scale", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("options", [4, 14, 21, 28, 35])
def test_it_equals_scikit_learn_where_that_converges(options, scale, kind):
    """Its objective is divided by m, and its intercept switched off."""
    size = min(7, options)
    matrix, target = problem(size, options, scale, kind, 1)
    # At a larger penalty coordinate descent converges in time.
    for penalty in (PENALTY, scale / 10):
        model = Lasso(
            alpha=penalty / size,
            fit_intercept=False,
            tol=1e-13,
            max_iter=20_000,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                model.fit(matrix, target)
            except ConvergenceWarning:
                assert penalty == PENALTY
                continue
        found = lasso(matrix, target, penalty)
        np.testing.assert_allclose(
            found, model.coef_, atol=1e-3 * np.abs(found).max() + 1e-9
        )


def test_orthogonal_columns_give_soft_thresholding():
    target = np.array([3.0, -0.5, 1.5, 0.2])
    np.testing.assert_allclose(
        lasso(np.eye(4), target, 1.0), [2.0, 0.0, 0.5, 0.0]
    )


def test_nothing_is_recovered_below_the_penalty():
    matrix, target = problem(7, 14, 1e-7, "gaussian", 0)
    np.testing.assert_array_equal(lasso(matrix, target, 1.0), np.zeros(14))


def test_a_code_of_zeros():
    matrix, _ = problem(7, 14, 1.0, "gaussian", 0)
    np.testing.assert_array_equal(
        lasso(matrix, np.zeros(7), PENALTY), np.zeros(14)
    )


def test_entries_that_enter_and_leave_again():
    """Along the path the support shrinks now and then."""
    shrunk = 0
    for seed in range(30):
        matrix, target = problem(7, 21, 1.0, "uniform", seed)
        sizes = []
        for penalty in np.geomspace(1.0, 1e-4, 40):
            found = lasso(matrix, target, penalty)
            assert_optimal(matrix, target, found, penalty)
            sizes.append(np.count_nonzero(found))
        shrunk += bool(np.any(np.diff(sizes) < 0))
    assert shrunk > 5
