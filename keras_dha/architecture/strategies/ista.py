"""ISTA: the architecture is a sparse code in a space of few dimensions.

What is learned of a decision with n options is a code b of m numbers. The
options' strengths z are recovered from it by an exact LASSO, the strongest on
distinct edges are kept, and only these run, with weights that are linear in b
(`keras_dha.architecture.sparse_code`). A decision is made when z has come to
rest (Yang et al., NeurIPS 2020; the architecture part of DHA, TMLR 2022).

Repaired against the published code: the LASSO has no intercept and meets its
conditions of optimality, every operation can be kept, kept ones are on
distinct edges and ranked by |z|, and a frozen code does not drift.
"""

import keras
import numpy as np
from keras import ops

from keras_dha.architecture.selection import select
from keras_dha.architecture.sparse_code import SparseCode
from keras_dha.architecture.strategies.strategy import Strategy
from keras_dha.arguments import checked_count

# At so many looks in a row a code is to be at rest.
_LOOKS = 3

_MEASUREMENTS = ("orthogonal", "uniform")


@keras.saving.register_keras_serializable("keras_dha")
class ISTA(Strategy):
    """Sparse coding: searches a compressed space; only what is kept runs.

    What is kept is what has the largest weights, so candidates must not be
    able to undo a weight by their own: let them end in a batch normalisation,
    as pooling does in `keras_dha.spaces.darts`, or at least behind one. While
    a decision is free, scale and offset of a normalisation that a candidate
    ends in rest, as in the papers.

    z is recovered at every look at the decisions, a hundredth of all steps
    apart. Once frozen, the weights of what is kept stay as they are; they
    are absorbed when the network is derived.

    Args:
        learning_rate: Float, step size of Adam on the codes.
        size: Integer, length m of a code; at most as many as there are
            options.
        measurement: `"orthogonal"`, random rows at right angles and columns
            of norm 1, so that what moves one option moves others as little
            as can be, and none has an advantage; or `"uniform"` in (0, 1) as
            in the papers, where all columns look alike.
        penalty: Float, the factor of the 1-norm.
        scale: Float. The search starts from the code of options that all
            have this weight, give or take a tenth.
        exploration: Float in [0, 1], share of the steps in which a random
            choice runs in place of what is kept, at the same weight; it
            falls to 0 over the search. 0 as in the papers, where what is
            not kept at the start is hardly ever tried, and a candidate
            without effect stays for ever.
        tolerance: Float. A decision freezes when z moves by no more between
            one recovery and the next, three times in a row: once alone may be
            where it turns round.
        warmup: Float in [0, 1), share of all steps before codes move;
            random choices run meanwhile, with weight 1.
        until: Float in (warmup, 1], share of all steps by which every
            decision is frozen.

    Example:

    >>> model = keras_dha.AutoModel(
    ...     strategy=keras_dha.strategies.ISTA(measurement="uniform")
    ... )

    Reference:
        Yang et al., "ISTA-NAS: Efficient and Consistent Neural Architecture
        Search by Sparse Coding", NeurIPS 2020.
    """

    rests_scales = True

    def __init__(
        self,
        learning_rate=0.05,
        size=7,
        measurement="orthogonal",
        penalty=1e-5,
        scale=0.5,
        exploration=1.0,
        tolerance=1e-3,
        warmup=0.1,
        until=0.5,
    ):
        super().__init__(learning_rate, None, warmup, until)
        if measurement not in _MEASUREMENTS:
            raise ValueError(
                f"`measurement` must be one of {_MEASUREMENTS}. "
                f"Received: measurement={measurement!r}"
            )
        for name, value in (
            ("penalty", penalty),
            ("scale", scale),
            ("tolerance", tolerance),
        ):
            if not value > 0:
                raise ValueError(
                    f"`{name}` must be positive. Received: {name}={value}"
                )
        if not 0 <= exploration <= 1:
            raise ValueError(
                "`exploration` must be in [0, 1]. "
                f"Received: exploration={exploration}"
            )
        self.size = checked_count("size", size)
        self.measurement = measurement
        self.penalty = penalty
        self.scale = scale
        self.exploration = exploration
        self.tolerance = tolerance

    def prepare(self, decision, seed):
        if decision.code is not None:
            return
        size = min(self.size, decision.num_candidates)
        shape = (size, decision.num_candidates)
        generator = np.random.default_rng(seed)
        if self.measurement == "orthogonal":
            matrix = _tight_frame(generator.normal(size=shape))
        else:
            matrix = generator.uniform(size=shape)
        code = SparseCode(
            decision.edges,
            decision.num_candidates,
            size,
            self.penalty,
            name=f"{decision.name}_code",
        )
        code.measurement.assign(matrix)
        even = 1.0 + 0.1 * generator.normal(size=decision.num_candidates)
        code.code.assign(self.scale * matrix @ even)
        code.recover()
        decision.code = code

    def sample(self, decision, uniform):
        # A random valid choice: random strengths, selected from as usual.
        table = decision.table(uniform)
        anything = select(table, decision.keep)
        return ops.where(
            self._explores(uniform), anything, decision.indices(False)
        )

    def _explores(self, uniform):
        # The smallest of n draws is below x with probability 1-(1-x)^n; it
        # says nothing about which of them is the largest on its edge.
        count = uniform.shape[0]
        share = self.exploration * (1.0 - self._progress())
        below = 1.0 - ops.power(1.0 - share, 1.0 / count)
        return ops.logical_or(self._is_warmup(), ops.min(uniform) < below)

    def _is_warmup(self):
        return self._progress() <= 0

    def _progress(self):
        return ops.convert_to_tensor(self.progress, "float32")

    def factors(self, decision):
        indices = ops.reshape(decision.sampled, (decision.edges,))
        kept = decision.indices(False)
        own = decision.code.weights_at(indices)
        # What is tried has next to no weight of its own. It runs at that of
        # what is kept, and the gradient says whether it deserves more.
        usual = ops.max(ops.abs(decision.code.weights_at(kept)))
        usual = ops.where(
            self._is_warmup(), 1.0, ops.where(own < 0, -usual, usual)
        )
        tried = ops.stop_gradient(usual - own) + own
        is_kept = ops.logical_and(
            indices == kept, ops.logical_not(self._is_warmup())
        )
        return ops.where(is_kept, own, tried)

    def harden(self, decisions):
        """Recovers z of the free decisions; freezes those that came to rest.

        Args:
            decisions: List of `keras_dha.Decision`.
        """
        free = [decision for decision in decisions if not decision.is_frozen]
        for decision in free:
            decision.code.count_rest(decision.code.recover() <= self.tolerance)
        made = [d for d in free if int(d.code.rested.numpy()) >= _LOOKS]
        for decision in made:
            decision.freeze()
        return made

    def get_config(self):
        config = super().get_config()
        del config["margin"]
        return {
            **config,
            "size": self.size,
            "measurement": self.measurement,
            "penalty": self.penalty,
            "scale": self.scale,
            "exploration": self.exploration,
            "tolerance": self.tolerance,
        }


def _tight_frame(matrix, rounds=200):
    """Returns a matrix with orthogonal rows and columns of norm 1.

    By turns the nearest one with either property, which tends to both
    (Tropp et al., "Designing structured tight frames via an alternating
    projection method", IEEE Transactions on Information Theory, 2005).
    """
    rows, _ = np.linalg.qr(matrix.T)
    for _ in range(rounds):
        matrix = rows.T / np.linalg.norm(rows.T, axis=0)
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        rows = (left @ right).T
    return matrix
