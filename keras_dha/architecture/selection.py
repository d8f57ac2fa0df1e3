"""Selection: which edges and operations of a table of strengths are kept.

The rule of DARTS: on each edge the strongest operation stands for it, and
the edges whose operation is strongest are kept. The kept ones are therefore
always on distinct edges.
"""

import numpy as np
from keras import ops


def select(strength, keep):
    """Returns the operation that is kept on each edge, int32 `(E,)`.

    Args:
        strength: Tensor of shape `(E, O)`, edges and operations.
        keep: Integer, how many edges to keep. On the others the result is
            O, one past the last operation.
    """
    edges, operations = strength.shape
    best = ops.cast(ops.argmax(strength, axis=-1), "int32")
    if keep == edges:
        return best
    _, top = ops.top_k(ops.max(strength, axis=-1), keep)
    kept = ops.sum(ops.one_hot(top, edges), axis=0) > 0
    return ops.where(kept, best, operations)


def margin(strength, keep):
    """Returns by how much the selection is ahead of its nearest rival.

    Args:
        strength: NumPy array of shape `(E, O)`.
        keep: Integer, how many edges are kept.

    Returns:
        Float: the smallest lead of a kept operation over the next one on
        its edge, and of the weakest kept edge over the strongest other.
    """
    leads = np.sort(np.maximum(strength, 0.0), axis=-1)[:, ::-1]
    order = np.argsort(-leads[:, 0], kind="stable")
    gaps = []
    if strength.shape[1] > 1:
        gaps += list(leads[order[:keep], 0] - leads[order[:keep], 1])
    if keep < len(order):
        gaps.append(leads[order[keep - 1], 0] - leads[order[keep], 0])
    return float(min(gaps)) if gaps else 1.0
