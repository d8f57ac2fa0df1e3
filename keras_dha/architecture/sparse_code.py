"""A sparse code: a decision's options, compressed to a few numbers.

    z = argmin_z 1/2 ||A z - b||^2 + c ||z||_1        recovered now and then
    z = A^T b - E z,   E = A^T A - I                  what such a z obeys, to c
    alpha_S(b) = A_S^T b - (E z)_S                    the weights in between

b is what the search moves, A a fixed matrix, and S the options that are kept,
those with the largest |z| on distinct edges. As z is constant in between,
dL/db = A_S dL/dalpha_S (Yang et al., "ISTA-NAS", NeurIPS 2020, section 3).
"""

import keras
import numpy as np
from keras import ops

from keras_dha.architecture.lasso import lasso


@keras.saving.register_keras_serializable("keras_dha")
class SparseCode(keras.layers.Layer):
    """The compressed options of one decision.

    Args:
        edges: Integer, the number of edges.
        options: Integer n, the number of options, a multiple of `edges`.
        size: Integer m, the length of the code.
        penalty: Float, the factor c of the 1-norm.
        **kwargs: Base layer arguments.

    Attributes:
        code: float32 variable b of shape `(m,)`, the one that is trained.
        measurement: float32 variable A of shape `(m, n)`.
        sparse: float32 variable z of shape `(n,)`, as last recovered.
        scales: float32 variable of shape `(n,)`, the weights of what is kept
            once the decision is frozen.
        rested: int32 variable, at how many recoveries in a row z was at rest.
    """

    def __init__(self, edges, options, size, penalty, **kwargs):
        super().__init__(**kwargs)
        self.edges = edges
        self.options = options
        self.size = size
        self.penalty = penalty
        self.code = self.add_weight(
            name="code",
            shape=(size,),
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )
        self.measurement = self._constant("measurement", (size, options))
        self.sparse = self._constant("sparse", (options,))
        self.scales = self._constant("scales", (options,), "ones")
        self.rested = self._constant("rested", (), dtype="int32")
        # As a decision, it is consulted and not called.
        self.built = True

    def _constant(self, name, shape, initializer="zeros", dtype="float32"):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
        )

    def weights_of_all(self):
        """Returns A^T b - E z, the weights that options would have, `(n,)`."""
        matrix, sparse = self.measurement.value, self.sparse.value
        rest = ops.convert_to_tensor(self.code) - ops.matmul(matrix, sparse)
        # A^T b - (A^T A - I) z, in the order that loses no digits.
        return sparse + ops.matmul(ops.transpose(matrix), rest)

    def weights_at(self, indices):
        """Returns the weight of the operation on each edge, `(edges,)`.

        Args:
            indices: int32 tensor `(edges,)`; past the last one it is 0.
        """
        return self._at(self.weights_of_all(), indices)

    def scales_at(self, indices):
        """Returns the frozen weight of the operation on each edge."""
        return self._at(ops.convert_to_tensor(self.scales), indices)

    def _at(self, values, indices):
        table = ops.reshape(values, (self.edges, -1))
        at = ops.one_hot(indices, self.options // self.edges)
        return ops.sum(at * table, axis=-1)

    def recover(self):
        """Recovers z from b; returns how far it went, ||z_new - z_old||.

        Of a code that is not finite, as that of a run that has diverged and
        is still to be gone back from, z stays: infinitely far from rest.
        """
        code = ops.convert_to_numpy(self.code)
        if not np.all(np.isfinite(code)):
            return np.inf
        before = ops.convert_to_numpy(self.sparse)
        found = lasso(
            ops.convert_to_numpy(self.measurement), code, self.penalty
        )
        self.sparse.assign(found)
        return float(np.linalg.norm(found - before))

    def count_rest(self, is_at_rest):
        """Counts a recovery at which z was at rest, or begins anew."""
        self.rested.assign(self.rested + 1 if is_at_rest else 0)

    def freeze(self, indices=None):
        """Fixes the weights as they are now.

        Args:
            indices: What is kept on each edge, `(edges,)`; `None` for a
                choice from elsewhere, whose weights are 1.
        """
        scales = np.ones(self.options, "float32")
        if indices is not None:
            per_edge = self.options // self.edges
            weights = ops.convert_to_numpy(self.weights_of_all())
            for edge, index in enumerate(ops.convert_to_numpy(indices)):
                if index < per_edge:
                    option = edge * per_edge + int(index)
                    scales[option] = weights[option]
        self.scales.assign(scales)

    def get_config(self):
        return {
            **super().get_config(),
            "edges": self.edges,
            "options": self.options,
            "size": self.size,
            "penalty": self.penalty,
        }
