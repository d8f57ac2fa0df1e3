"""Which sub-policies there are to choose from."""

import itertools

import numpy as np

# Beyond it a distribution over all sequences is neither learned nor fast.
MOST = 10_000


def sub_policies(names, length, number, seed):
    """Returns the steps and the sub-policies made of them.

    All sequences share one step for each operation, so its magnitudes are
    learned from all images that it is done to. Drawn sub-policies have steps
    of their own, as in DADA and Faster AutoAugment.

    Args:
        names: K names of operations.
        length: N, steps of a sub-policy.
        number: How many sub-policies of distinct operations to draw, or None
            for all K ** N sequences (DHA's pairs).
        seed: Integer, what they are drawn by.

    Returns:
        (names of R steps, S tuples of N step indices, or None for single
        operations).

    Raises:
        ValueError: If there are too many or not enough.
    """
    count = len(names)
    if number is None:
        if count**length > MOST:
            raise ValueError(
                f"{count} operations in sequences of {length} make "
                f"{count**length} sub-policies; draw some with `sub_policies`, "
                f"or take fewer operations. Received: length={length}"
            )
        if length == 1:
            return tuple(names), None
        return tuple(names), tuple(
            itertools.product(range(count), repeat=length)
        )
    generator = np.random.default_rng(seed)
    if length > count:
        raise ValueError(
            "Sub-policies are drawn of distinct operations; `length` may not "
            f"exceed their number {count}. Received: length={length}"
        )
    drawn = [
        generator.permutation(count)[:length].tolist() for _ in range(number)
    ]
    steps = tuple(names[k] for picked in drawn for k in picked)
    table = np.arange(number * length).reshape(number, length)
    return steps, tuple(map(tuple, table.tolist()))
