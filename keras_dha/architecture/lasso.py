"""The LASSO without an intercept, solved exactly by following its path.

    z(c) = argmin_z 1/2 ||A z - b||^2 + c ||z||_1

is piecewise linear in the penalty c. The path starts at c = max |A^T b|,
where z = 0, and is followed down to the wanted penalty: an option joins when
its correlation with the residual reaches c and leaves when its entry becomes
0 (Efron et al., "Least Angle Regression", Annals of Statistics 2004, the
LASSO modification; Osborne et al., 2000). Dimensions here are a few dozen, so
this takes milliseconds; a fixed number of iterations of a first-order method
would stop far from the solution at the penalties in use.
"""

import numpy as np


def lasso(matrix, target, penalty):
    """Returns the solution z, float64 `(n,)`.

    Args:
        matrix: A, array of shape `(m, n)`.
        target: b, array of shape `(m,)`.
        penalty: Positive float, the factor of the 1-norm.

    Raises:
        ArithmeticError: The result does not meet the conditions of
            optimality; the columns of A are as good as dependent.
    """
    matrix = np.asarray(matrix, np.float64)
    target = np.asarray(target, np.float64)
    correlation = matrix.T @ target
    level = np.max(np.abs(correlation))
    active = [int(np.argmax(np.abs(correlation)))]
    left = None
    signs = np.sign(correlation)
    solution = np.zeros(matrix.shape[1])
    # Each step adds or drops one option; far more than there ever are.
    for _ in range(100 * matrix.shape[1]):
        if level <= penalty:
            break
        direction = np.zeros_like(solution)
        direction[active] = _gram_solve(matrix[:, active], signs[active])
        speed = matrix.T @ (matrix @ direction)
        length, joins, sign = _next_to_join(
            correlation, speed, level, active, left
        )
        drop, leaves = _next_to_leave(solution, direction, active)
        step = min(length, drop, level - penalty)
        solution = solution + step * direction
        level = level - step
        left = None
        if step == drop < level - penalty + step:
            solution[leaves] = 0.0
            active.remove(leaves)
            left = leaves
        elif step == length:
            active.append(joins)
            signs[joins] = sign
        correlation = matrix.T @ (target - matrix @ solution)
    solution = _polished(matrix, target, penalty, solution)
    worst = violation(matrix, target, penalty, solution)
    if worst > 1e-3:
        raise ArithmeticError(
            "The sparse code was not found to the accuracy it needs. "
            f"Received: a violation of {worst:.1e} times the penalty"
        )
    return solution


def violation(matrix, target, penalty, solution):
    """Returns how far z is from optimal, in units of the penalty.

    The Karush-Kuhn-Tucker conditions: the correlation A^T (b - A z) is c
    times the sign of z where z is not 0, and of size at most c elsewhere.
    """
    correlation = matrix.T @ (target - matrix @ solution)
    on = solution != 0
    off_support = np.abs(correlation[~on]) - penalty
    on_support = np.abs(correlation[on] - penalty * np.sign(solution[on]))
    return max(0.0, *off_support, *on_support) / penalty


def _gram_solve(columns, right):
    return np.linalg.solve(columns.T @ columns, right)


def _next_to_join(correlation, speed, level, active, left):
    """Returns when which option reaches the level, and with which sign."""
    nearest = (np.inf, -1, 0.0)
    for sign in (1.0, -1.0):
        with np.errstate(divide="ignore", invalid="ignore"):
            times = (level - sign * correlation) / (1.0 - sign * speed)
        times[active] = np.inf
        if left is not None and sign * correlation[left] > 0:
            # It has just left from this very boundary.
            times[left] = np.inf
        times[~(times > 0)] = np.inf
        option = int(np.argmin(times))
        if times[option] < nearest[0]:
            nearest = (times[option], option, sign)
    return nearest


def _next_to_leave(solution, direction, active):
    """Returns when which active entry becomes 0."""
    nearest = (np.inf, -1)
    for option in active:
        if solution[option] * direction[option] < 0:
            time = -solution[option] / direction[option]
            if time < nearest[0]:
                nearest = (time, option)
    return nearest


def _polished(matrix, target, penalty, solution):
    """Solves once more on the support, without what the path summed up."""
    support = np.flatnonzero(solution)
    if not len(support):
        return solution
    columns, signs = matrix[:, support], np.sign(solution[support])
    exact = _gram_solve(columns, columns.T @ target - penalty * signs)
    if np.any(np.sign(exact) != signs):
        return solution
    polished = np.zeros_like(solution)
    polished[support] = exact
    return polished
