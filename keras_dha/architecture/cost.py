"""What a network costs, and what a search expects it to cost.

A cost is a sum over the calls of a graph, and a call takes place if the
choices around it pick its candidate. With p_d the probabilities of decision d,

    cost(architecture) = sum_c value_c * [every choice around c picks it]
    E[cost](p)         = sum_c value_c * prod_{(d, k) around c} p_d[k]

which is exact, as decisions are drawn independently, and differentiable.

`params` are all weights, as `keras.Model.count_params` counts them: those that
several calls use, of one layer or of layers that share them, count once. Of a
superkernel each slice counts, as it has weights of its own in what is derived.
`flops` are the floating point operations of convolutions and matrix products
for one example: a multiply-add is two, a bias is one for each output. Papers
that count multiply-adds give half of it. Normalisation, activations, pooling
and sums are left out, as they are there.
"""

import itertools
import math

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_dha.architecture import graph
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.superkernel import SlicedConvolution

PARAMS, FLOPS = "params", "flops"
# More ways to reach one layer than this are not told apart.
_MOST_PATHS = 10

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
# Products without a kernel, and weights that look like one and are none.
_UNKNOWN = (layers.Dot, layers.Attention, layers.AdditiveAttention)
_NO_PRODUCTS = (
    layers.Embedding,
    layers.LayerNormalization,
    layers.PReLU,
    layers.RMSNormalization,
)
# An embedding that may be a product with its table, where Keras has it.
_REVERSIBLE = getattr(layers, "ReversibleEmbedding", ())
_PRODUCTS = {
    *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv"),
    *("Dot", "DotProductAttention", "Einsum", "Inner", "Kron", "Matmul"),
    *("Outer", "Tensordot", "Vdot"),
}


def count(model):
    """Returns `{"params": int, "flops": int}` of a plain model.

    Args:
        model: A Sequential or functional `keras.Model` without choices.

    Raises:
        ValueError: It has choices, or a layer whose operations are unknown.

    Example:

    >>> count(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    {'params': 8, 'flops': 14}
    """
    if find_decisions(model):
        raise ValueError(
            "A model with choices has no one cost; use `NetworkCost`. "
            f"Received: model={model.name}"
        )
    return {k: int(v) for k, v in NetworkCost(model).of([]).items()}


class NetworkCost:
    """The cost of a network as a function of its decisions.

    Args:
        model: A Sequential or functional `keras.Model`, with or without
            `keras_dha.Choice` layers.
        measures: Names of what to count, of `"params"` and `"flops"`.
        **terms: For each further measure its list of terms, as
            `latency.terms` returns them.

    Attributes:
        decisions: The model's decisions, in the order of all arguments.
        terms: Dict from a measure to its list of (value, frozenset of
            (number of a decision, candidate)).

    Raises:
        ValueError: A layer's operations are unknown.

    Example:

    >>> cost = NetworkCost(supernet)
    >>> cost.of([0, 2, 1])
    {'params': 20250.0, 'flops': 1843210.0}
    """

    def __init__(self, model, measures=(PARAMS, FLOPS), **terms):
        self.decisions = find_decisions(model)
        found = graph.model_calls(model)
        self.terms = dict(terms)
        if PARAMS in measures:
            self.terms[PARAMS] = _params_terms(found, self.decisions)
        if FLOPS in measures:
            self.terms[FLOPS] = summed(
                (flops(call), positions(call.path, self.decisions))
                for call in found
            )

    def of(self, indices):
        """Returns what an architecture costs, a dict of floats.

        Args:
            indices: List of integers, the candidate of each decision.
        """
        return {
            measure: float(
                sum(
                    value
                    for value, path in terms
                    if all(indices[d] == k for d, k in path)
                )
            )
            for measure, terms in self.terms.items()
        }

    def expected(self, probabilities):
        """Returns the expected cost, a dict of scalar tensors.

        Args:
            probabilities: List of tensors `(K,)`, one for each decision.
        """
        return {
            measure: self._expected(terms, probabilities)
            for measure, terms in self.terms.items()
        }

    def _expected(self, terms, probabilities):
        fixed = sum(value for value, path in terms if not path)
        # One vector for what depends on one decision, which is nearly all.
        linear = [np.zeros(d.num_candidates) for d in self.decisions]
        products = []
        for value, path in terms:
            if len(path) == 1:
                ((d, k),) = path
                linear[d][k] += value
            elif path:
                products.append((value, path))
        total = fixed
        for p, values in zip(probabilities, linear, strict=True):
            total = total + ops.sum(p * ops.convert_to_tensor(values, p.dtype))
        for value, path in products:
            total = total + value * math.prod(
                probabilities[d][k] for d, k in sorted(path)
            )
        return total


def positions(path, decisions):
    """Returns a call's path by the decisions' numbers; `None` if impossible.

    Args:
        path: Tuple of (`Choice`, candidate).
        decisions: List of all decisions.
    """
    number = {id(d): k for k, d in enumerate(decisions)}
    found = frozenset((number[id(c.decision)], k) for c, k in path)
    # Choices that share a decision cannot differ.
    return found if len({d for d, _ in found}) == len(found) else None


def summed(terms):
    """Returns terms with those of one path added up, without zeros."""
    totals = {}
    for value, path in terms:
        if path is not None:
            totals[path] = totals.get(path, 0) + value
    return [(value, path) for path, value in totals.items() if value]


def _sizes(layer):
    """Returns a dict from what identifies each weight to its size."""
    if isinstance(layer, SlicedConvolution):
        return {id(layer): math.prod(layer.kernel_shape)}
    # Other operations of a graph have no weights.
    is_layer = isinstance(layer, keras.layers.Layer)
    weights = layer.weights if is_layer else []
    return {id(weight): math.prod(weight.shape) for weight in weights}


def _params_terms(found, decisions):
    """A weight is there if any call of a layer that has it takes place."""
    by_weight, uses = {}, {}
    for call in found:
        path = positions(call.path, decisions)
        for weight, size in _sizes(call.layer).items():
            used = by_weight.setdefault(weight, (size, call.layer, set()))
            if path is not None:
                used[2].add(path)
    # Those that are there together are one term.
    for size, layer, paths in by_weight.values():
        paths = frozenset({frozenset()} if frozenset() in paths else paths)
        others, _ = uses.get(paths, (0, layer))
        uses[paths] = others + size, layer
    terms = []
    for paths, (size, layer) in uses.items():
        if len(paths) > _MOST_PATHS:
            raise ValueError(
                f"At most {_MOST_PATHS} ways to reach one layer can be told "
                "apart. "
                f"Received: layer {layer.name}, reached in {len(paths)} ways"
            )
        terms += _any_of(paths, size)
    return summed(terms)


def _any_of(paths, value):
    """Inclusion and exclusion: P(A or B) = P(A) + P(B) - P(A and B)."""
    for size in range(1, len(paths) + 1):
        for together in itertools.combinations(paths, size):
            joined = frozenset().union(*together)
            if len({d for d, _ in joined}) == len(joined):
                yield value * (-1) ** (size + 1), joined


def flops(call):
    """Returns the floating point operations of one call for one example.

    Args:
        call: A `graph.Call`.

    Raises:
        ValueError: The layer multiplies in a way that is not known here, or
            at places of which nobody knows how many there are.
    """
    layer = call.layer
    outputs = call.outputs[0].shape[1:]
    if isinstance(layer, layers.Dense):
        _check_size(layer, outputs)
        done = 2 * math.prod(layer.kernel.shape) * math.prod(outputs[:-1])
    elif isinstance(layer, _TRANSPOSED):
        _check_size(layer, outputs)
        done = _convolved(layer, call.inputs[0].shape[1:])
    elif isinstance(layer, SlicedConvolution):
        _check_size(layer, outputs)
        places = math.prod(outputs[:-1])
        return 2 * places * math.prod(layer.kernel_shape)
    elif isinstance(layer, _CONVOLUTIONS):
        _check_size(layer, outputs)
        done = _convolved(layer, outputs)
    elif _is_unknown(layer):
        raise ValueError(
            "Of this layer the floating point operations are not known; "
            'leave "flops" out, and use "params" or "latency_ms". '
            f"Received: layer {layer.name} of class {type(layer).__name__}"
        )
    else:
        return 0
    if layer.bias is not None:
        done += math.prod(outputs)
    return done


def _check_size(layer, shape):
    """Refuses outputs of a size that the network leaves open."""
    if None in shape:
        raise ValueError(
            "Floating point operations are counted for examples of one size: "
            "give `keras.Input` all sides, as in `keras.Input((32, 32, 3))`, "
            'or leave "flops" out. '
            f"Received: layer {layer.name} with outputs of shape {shape}"
        )


def _convolved(layer, shape):
    """Every weight of every kernel is used at every place."""
    is_first = layer.data_format == "channels_first"
    places = math.prod(shape[1:] if is_first else shape[:-1])
    kernels = [w for w in layer.weights if len(w.shape) > 1]
    return 2 * places * sum(math.prod(w.shape) for w in kernels)


def _is_unknown(layer):
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).__name__ in _PRODUCTS
    if isinstance(layer, _NO_PRODUCTS) and not isinstance(layer, _REVERSIBLE):
        return False
    has_kernel = any(len(w.shape) > 1 for w in layer.weights)
    return has_kernel or isinstance(layer, _UNKNOWN)
