"""Absorbing: a candidate's weight goes into its own last layer.

    alpha * (gamma * x^ + beta) = (alpha gamma) * x^ + (alpha beta)

so a frozen weight needs no layer of its own where a candidate ends in a batch
normalisation with scale, or in a convolution or a dense layer without
activation, which it calls once and which is trained. Where it does not, as for
pooling, the identity, and what the user wrote, a `Rescaling` follows the
candidate in the derived model.
"""

import keras
from keras import ops

from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.variable_paths import variable_paths
from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.nested_layers import called_layers
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_graph
from keras_dha.nested_layers import is_stock
from keras_dha.nested_layers import output_layers

# Of these alone: what is derived from them may use its kernel otherwise.
_NORMALISATIONS = (keras.layers.BatchNormalization, FusedBatchNormalization)
_PRODUCTS = (keras.layers.Conv2D, keras.layers.Dense)


def absorb(network):
    """Takes the frozen weights of sparse codes into the candidates.

    Weights that are absorbed become 1; outputs stay as they are. A weight is
    absorbed in all the layers that share the decision, or in none; and in none
    that also runs elsewhere.

    Args:
        network: A `keras.Model`.

    Returns:
        List of (variable, factor) of the variables that were scaled.
    """
    scaled = []
    layers = find_layers(network, SearchableLayer)
    paths = variable_paths(network)
    for decision in find_decisions(network):
        if decision.code is None or not decision.is_frozen:
            continue
        scales = ops.convert_to_numpy(decision.code.scales).copy()
        for option in decision.kept():
            variables = _linear_variables(
                [x.options[option] for x in layers if x.decision is decision]
            )
            if not variables or any(
                _runs_elsewhere(paths[id(v)], decision, option)
                for v in variables
            ):
                continue
            factor = float(scales[option])
            for variable in variables:
                variable.assign(factor * ops.convert_to_numpy(variable))
                scaled.append((variable, factor))
            scales[option] = 1.0
        decision.code.scales.assign(scales)
    return scaled


def undoing(candidate):
    """Returns the variables that could undo a weight of a candidate, a list.

    Scale and offset of the normalisation that it ends in: alpha and gamma of
    (alpha / s) (s gamma x^) say nothing alone.

    Args:
        candidate: A built layer.
    """
    last = _last(candidate)
    if type(last) not in _NORMALISATIONS:
        return []
    return [v for v in (last.gamma, last.beta) if v is not None]


def _runs_elsewhere(paths, decision, option):
    """Whether a variable runs but in the candidates of an option itself."""
    return any(
        not path
        or path[-1][0].decision is not decision
        or path[-1][1] != option
        for path in paths
        if all(k in layer.decision.kept() for layer, k in path)
    )


def _linear_variables(candidates):
    """Returns the variables that the candidates' outputs are linear in.

    An empty list if there is a candidate that has none, or if a variable
    would be scaled twice.
    """
    found = []
    for candidate in candidates:
        last = _last(candidate)
        if last is None or _count_calls(candidate, last) != 1:
            return []
        variables = _tail(last)
        if not variables or not all(map(_is_trained, variables)):
            return []
        found += variables
    return found if len({id(v) for v in found}) == len(found) else []


def _is_trained(variable):
    return isinstance(variable, keras.Variable) and variable.trainable


def _last(layer):
    """Returns what gives a candidate's output; `None` if it does not show."""
    while isinstance(layer, keras.Model):
        if not _is_known(layer) or len(layer.outputs) != 1:
            return None
        (layer,) = output_layers(layer)
    return layer


def _is_known(layer):
    """Whether a layer is a model that calls what its graph shows."""
    return is_stock(layer) and is_graph(layer)


def _count_calls(layer, wanted):
    """Returns how often a layer calls another one, itself once.

    That of any layer that holds it, but is no graph, cannot be known, and
    counts as two.
    """
    if layer is wanted:
        return 1
    if _is_known(layer):
        return sum(_count_calls(x, wanted) for x in called_layers(layer))
    is_holder = isinstance(layer, keras.layers.Layer) and any(
        part is wanted for part in find_layers(layer, keras.layers.Layer)
    )
    return 2 if is_holder else 0


def _tail(layer):
    if type(layer) in _NORMALISATIONS:
        parts = [layer.gamma, layer.beta] if layer.scale else []
    elif type(layer) is keras.layers.SeparableConv2D:
        parts = [layer.pointwise_kernel, layer.bias]
    elif type(layer) in _PRODUCTS:
        parts = [layer.kernel, layer.bias]
    else:
        return []
    activation = getattr(layer, "activation", keras.activations.linear)
    if activation is not keras.activations.linear:
        return []
    parts = [part for part in parts if part is not None]
    # A step would take the factor out of weights that have a constraint.
    return [] if any(part.constraint for part in parts) else parts
