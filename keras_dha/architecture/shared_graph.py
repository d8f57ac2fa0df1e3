"""Shared graphs: edges that are built alike are traced once.

A supernet of cells holds the same few operations a hundred times over, and
tracing them, with their gradients, takes minutes. Within one traced step,
edges of stock Keras layers with equal configurations and shapes become calls
of one TensorFlow function, to which each gives the values of its variables,
and which returns what the layers would have assigned to them. Handing these in
and out costs as much as tracing an edge, so edges that are one of a kind are
left as they are.
"""

import collections
import weakref

import keras
import tensorflow as tf
from keras import ops

from keras_dha import second_derivatives
from keras_dha.architecture.branches import nothing
from keras_dha.architecture.description import described
from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_stock

# For each graph that is traced as a whole, its functions by what they do.
_FUNCTIONS = weakref.WeakKeyDictionary()
_DESCRIPTIONS = weakref.WeakKeyDictionary()

# What these do is not all in their configuration and their variables: after
# `adapt` a normalisation has constants.
_UNSAID = (keras.layers.Lambda, keras.layers.Normalization)

# So many edges must be alike for a function of their own.
_LEAST = 3


def mark(searchables):
    """Lets edges share a function of which there are several alike.

    Args:
        searchables: List of `SearchableLayer`, all those of a network. Sets
            their `shared_edges`.
    """
    # Layers may have been frozen since another network was made of them.
    _DESCRIPTIONS.clear()
    described = {
        (layer, edge): tuple(_description(c) for c in candidates)
        for layer in searchables
        for edge, candidates in enumerate(layer.edges)
    }
    counts = collections.Counter(described.values())
    for layer in searchables:
        layer.shared_edges = frozenset(
            edge
            for edge in range(len(layer.edges))
            if counts[described[layer, edge]] >= _LEAST
            and None not in described[layer, edge]
            and not _share_states(layer.edges[edge])
        )


def _share_states(candidates):
    """Whether candidates have a state in common.

    Each would return what became of it, of which only one can be kept.
    """
    states = [id(v) for candidate in candidates for v in _states(candidate)]
    return len(set(states)) < len(states)


def run_edge(candidates, inputs, selector, mixes, training):
    """Runs an edge by a function that edges built alike have in common.

    Args:
        candidates: The edge's operations.
        inputs: Tensor.
        selector: int32 scalar, the operation that runs, where one past the
            last runs none; or, if the edge `mixes`, a list of weights.
        mixes: Whether all operations run, weighted.
        training: Boolean.

    Returns:
        The output, or `None` if the edge cannot be shared: outside of a
        graph, and where a layer is not Keras' own or exchanges statistics
        with other replicas.
    """
    if tf.executing_eagerly():
        return None
    described = [_description(c) for c in candidates]
    if None in described:
        return None
    functions = _FUNCTIONS.setdefault(_outermost_graph(), {})
    key = (
        *(tuple(described), tuple(inputs.shape), inputs.dtype),
        *(mixes, training, second_derivatives.rules()),
    )
    if key not in functions:
        # Not inlined: the runtime then prepares each function once as well.
        functions[key] = tf.function(
            _stateless_edge(candidates, mixes),
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
    states = [_states(c) for c in candidates]
    output, moved = functions[key](
        selector,
        inputs,
        [_values(_weights(c)) for c in candidates],
        [_values(variables) for variables in states],
    )
    if training:
        for variables, values in zip(states, moved, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
    return output


def _stateless_edge(candidates, mixes):
    """Returns the function of an edge on values in place of variables."""

    def one(number, inputs, weights, states):
        layer = candidates[number]
        variables = [*_weights(layer), *_states(layer)]
        values = [*weights[number], *states[number]]
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            output = layer(inputs)
        moved = [
            _value(scope, v, old)
            for v, old in zip(_states(layer), states[number], strict=True)
        ]
        return output, moved

    def branch(number):
        def run(inputs, weights, states):
            output, moved = one(number, inputs, weights, states)
            return output, [
                [tf.identity(v) for v in (moved if k == number else old)]
                for k, old in enumerate(states)
            ]

        return run

    def none(inputs, weights, states):
        del weights
        return nothing(candidates[0])(inputs), [
            [tf.identity(v) for v in old] for old in states
        ]

    def single(index, inputs, weights, states):
        branches = [branch(k) for k in range(len(candidates))]
        return ops.switch(index, [*branches, none], inputs, weights, states)

    def mixture(shares, inputs, weights, states):
        ran = [one(k, inputs, weights, states) for k in range(len(candidates))]
        outputs = [
            y * ops.cast(share, y.dtype)
            for share, (y, _) in zip(shares, ran, strict=True)
        ]
        total = sum(outputs[1:], start=outputs[0])
        return total, [moved for _, moved in ran]

    return mixture if mixes else single


def _weights(layer):
    """Returns the variables that are trained.

    As the whole network knows them: a frozen model has none of its own, also
    where a layer in it is not frozen.
    """
    return [v for v in layer.variables if v.trainable]


def _states(layer):
    return [v for v in layer.variables if not v.trainable]


def _values(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


def _value(scope, variable, before):
    value = scope.get_current_value(variable)
    return before if value is None else ops.convert_to_tensor(value)


def _outermost_graph():
    graph = tf.compat.v1.get_default_graph()
    while getattr(graph, "outer_graph", None) is not None and hasattr(
        graph.outer_graph, "outer_graph"
    ):
        graph = graph.outer_graph
    return graph


def _description(layer):
    """Returns what the layer is, as text without names, or `None`.

    Layers of equal text do the same with the same values. `None` is for
    layers of which this cannot be known.
    """
    synchronised = [
        part
        for part in find_layers(layer, keras.layers.Layer)
        if getattr(part, "synchronized", False)
    ]
    if synchronised:
        return None
    if layer not in _DESCRIPTIONS:
        _DESCRIPTIONS[layer] = _described(layer)
    return _DESCRIPTIONS[layer]


def _described(layer):
    for part in find_layers(layer, keras.layers.Layer):
        is_known = is_stock(part) or type(part) is FusedBatchNormalization
        if not is_known or isinstance(part, _UNSAID):
            return None
        if any(map(_is_function, vars(part).values())):
            return None
    return described(layer)


def _is_function(value):
    """Whether a layer's attribute is a function that is not Keras' own.

    As an activation: what it does is more than its name, by which it is
    written.
    """
    module = getattr(value, "__module__", None) or ""
    return callable(value) and not module.startswith("keras.")
