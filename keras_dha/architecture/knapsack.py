"""The best architecture within limits: most probable, and not too dear.

Choose a candidate for each decision such that the sum of the log-probabilities
is largest and no cost exceeds its limit: a knapsack with several limits, one
item of each group. The Lagrangian relaxation

    bound(lambda) = sum_d max_k (log p_dk - lambda . c_dk) + lambda . limit

is never below the best, for every lambda >= 0. So partial architectures are
tried in the order of their bound (A*): the first whole one within the limits
is the best. Decisions that occur in one term of a cost, as choices in
candidates do, are enumerated together and count as one.
"""

import heapq
import itertools
import math

import numpy as np

# Partial architectures to look at before one is completed as it comes.
_MOST_VISITS = 200_000
# Joint candidates of decisions that depend on each other.
_MOST_JOINT = 100_000
_ROUNDS = 200
# Costs are sums of floats; a limit that is met exactly is met.
_SLACK = 1e-9


class Groups:
    """Independent groups of decisions, with the cost of each joint choice.

    Args:
        terms: Dict from a measure to a list of (value, frozenset of (number
            of a decision, candidate)).
        sizes: List of integers, the candidates of each decision.
        measures: List of measures, M in all.
        fixed: Dict from a decision's number to the candidate it must take.
        never: Dict from a decision's number to one that it must not take.

    Attributes:
        members: List of tuples, the decisions of each group.
        options: For each group its list of joint choices, tuples of ints.
        costs: For each group an array `(joint choices, M)`.
        base: Array `(M,)`, what every architecture costs.
    """

    def __init__(self, terms, sizes, measures, fixed=None, never=None):
        fixed, never = fixed or {}, never or {}
        self.members = _connected(terms, len(sizes))
        self.base = np.zeros(len(measures))
        self.options, self.costs = [], []
        group_of = {d: g for g, m in enumerate(self.members) for d in m}
        for members in self.members:
            ranges = [
                [fixed[d]]
                if d in fixed
                else [k for k in range(sizes[d]) if k != never.get(d)]
                for d in members
            ]
            number = math.prod(len(r) for r in ranges)
            if number > _MOST_JOINT:
                raise ValueError(
                    "Choices within candidates depend on each other, and "
                    f"more than {_MOST_JOINT} of their combinations cannot "
                    "be compared under a target. "
                    f"Received: {number} combinations"
                )
            self.options.append(list(itertools.product(*ranges)))
            self.costs.append(np.zeros((number, len(measures))))
        for m, measure in enumerate(measures):
            for value, path in terms[measure]:
                if not path:
                    self.base[m] += value
                    continue
                g = group_of[min(path)[0]]
                at = {d: k for k, d in enumerate(self.members[g])}
                for row, option in enumerate(self.options[g]):
                    if all(option[at[d]] == k for d, k in path):
                        self.costs[g][row, m] += value

    def least(self):
        """Returns the smallest attainable value of each measure alone."""
        return self.base + sum(c.min(axis=0) for c in self.costs)

    def scores(self, log_probabilities):
        """Returns the log-probability of each joint choice of each group."""
        return [
            np.array(
                [
                    sum(
                        log_probabilities[d][k]
                        for d, k in zip(members, option, strict=True)
                    )
                    for option in options
                ]
            )
            for members, options in zip(self.members, self.options, strict=True)
        ]


def best(groups, log_probabilities, limits):
    """Returns the most probable architecture within the limits.

    Args:
        groups: `Groups`.
        log_probabilities: List of arrays `(K,)`, one for each decision.
        limits: Array `(M,)`, the highest cost of each measure.

    Returns:
        List with the candidate of each decision, or `None` if there is no
        architecture within the limits. It is the best one, unless the search
        had to stop after 200,000 partial architectures: then the first of
        these, by their bounds, that can be completed greedily; under several
        limits there may be none, though an architecture exists.
    """
    limits = np.asarray(limits, float)
    room = limits * (1 + _SLACK) - groups.base
    if np.any(groups.least() - groups.base > room):
        return None
    scale = np.where(limits > 0, limits, 1.0)
    costs = [c / scale for c in groups.costs]
    picked = _search(groups.scores(log_probabilities), costs, room / scale)
    if picked is None:
        return None
    indices = {}
    for g, row in enumerate(picked):
        indices |= dict(
            zip(groups.members[g], groups.options[g][row], strict=True)
        )
    return [indices[d] for d in sorted(indices)]


def _search(scores, costs, room):
    """A* over the groups, the most telling first; returns rows, or None."""
    price = _price(scores, costs, room)
    relaxed = [s - c @ price for s, c in zip(scores, costs, strict=True)]
    order = sorted(
        range(len(scores)),
        key=lambda g: float(np.ptp(relaxed[g])),
        reverse=True,
    )
    # What the groups not yet decided add at most, and cost at least.
    gain = np.cumsum([relaxed[g].max() for g in reversed(order)])
    gain = [*gain[::-1], 0.0]
    need = np.cumsum([costs[g].min(axis=0) for g in reversed(order)], axis=0)
    need = [*need[::-1], np.zeros_like(room)]
    number = itertools.count()
    # Among equal bounds the deepest first: where all are equal, a dive.
    start = (-(gain[0] + price @ room), 0, next(number), (), room)
    queue, visits = [start], 0
    while queue and visits < _MOST_VISITS:
        bound, _, _, rows, left = heapq.heappop(queue)
        depth, visits = len(rows), visits + 1
        if depth == len(order):
            return [row for _, row in sorted(zip(order, rows, strict=True))]
        g = order[depth]
        for row in range(len(scores[g])):
            rest = left - costs[g][row]
            if np.any(need[depth + 1] > rest + _SLACK):
                continue
            after = bound + relaxed[g].max() - relaxed[g][row]
            if depth + 1 == len(order):
                # Nothing is open any more: the score itself.
                after += price @ rest
            entry = (after, -depth - 1, next(number), (*rows, row), rest)
            heapq.heappush(queue, entry)
    return _dive(queue, order, scores, costs, need)


def _dive(queue, order, scores, costs, need):
    """Completes the partial architectures of best bound, greedily."""
    while queue:
        *_, rows, left = heapq.heappop(queue)
        for depth in range(len(rows), len(order)):
            g = order[depth]
            rest = left - costs[g]
            fits = np.all(need[depth + 1] <= rest + _SLACK, axis=1)
            if not fits.any():
                break
            row = int(np.argmax(np.where(fits, scores[g], -np.inf)))
            rows, left = (*rows, row), rest[row]
        else:
            return [row for _, row in sorted(zip(order, rows, strict=True))]
    return None


def _price(scores, costs, room):
    """Returns lambda >= 0 of a low bound, by subgradient steps."""
    price = best_price = np.zeros(len(room))
    lowest = np.inf
    spread = max(float(np.ptp(s)) for s in scores) if scores else 1.0
    for k in range(_ROUNDS):
        rows = [
            int(np.argmax(s - c @ price))
            for s, c in zip(scores, costs, strict=True)
        ]
        used = sum(c[r] for c, r in zip(costs, rows, strict=True))
        bound = price @ (room - used) + sum(
            s[r] for s, r in zip(scores, rows, strict=True)
        )
        if bound < lowest:
            lowest, best_price = bound, price
        slope = used - room
        norm = float(np.linalg.norm(slope))
        if norm == 0:
            break
        step = (1.0 + spread) * len(scores) / (1.0 + k)
        price = np.maximum(0.0, price + step * slope / norm)
    return best_price


def _connected(terms, count):
    """Groups decisions that meet in a term; returns sorted tuples."""
    group = {d: {d} for d in range(count)}
    for values in terms.values():
        for _, path in values:
            joined = set().union(*(group[d] for d, _ in path))
            for d in joined:
                group[d] = joined
    unique = {id(g): tuple(sorted(g)) for g in group.values()}
    return sorted(unique.values())
