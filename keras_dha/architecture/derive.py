"""Deriving: the plain model that a searched model has become.

The graph is cloned; every `Choice` is replaced by the candidate it chose, every
`NodeChoice` by the sum of those it keeps, and every other layer by itself.
They are the *same layer objects*, so weights, normalisation statistics and
optimizer state are inherited, not copied; but for slices of superkernels, in
whose place there are convolutions with weights of their own.
"""

import keras

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.health import gives_zeros
from keras_dha.architecture.health import options_that
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.superkernel import SlicedConvolution
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import is_graph
from keras_dha.nested_layers import loses_its_call
from keras_dha.nested_layers import output_layers
from keras_dha.nested_layers import rebuilt


def derive(model):
    """Returns the plain model that `model` is with its choices made.

    Args:
        model: A functional or Sequential `keras.Model` with or without
            `keras_dha.Choice` and `keras_dha.NodeChoice` layers, also nested
            in models or candidates.

    Returns:
        A `keras.Model` of plain layers that shares them, and so its weights,
        with `model`. A free decision counts as decided for its most probable
        candidate. Where a sparse code gives a candidate a weight, a
        `Rescaling` layer by that weight follows it. What was a slice of a
        superkernel has a copy of its weights.

    Raises:
        ValueError: A `Choice` sits where it cannot be replaced: inside a
            subclassed model or a custom layer.

    Example:

    >>> plain = derive(supernet)
    >>> plain.save("plain.keras")
    """
    plain, _ = derive_with_copies(model)
    return plain


def derive_with_copies(model):
    """Returns the plain model, and what in it has weights of its own.

    Args:
        model: As for `derive`.

    Returns:
        (`keras.Model`, list of (`SlicedConvolution`, the `Conv2D` in its
        place)).
    """
    derived = {}
    plain = _derive(model, derived)
    slices = find_layers(model, SlicedConvolution)
    return plain, [(s, derived[id(s)]) for s in slices if id(s) in derived]


def _derive(model, derived):
    """Returns the plain model of one that may stand in another.

    Args:
        model: As for `derive`, or a layer without choices.
        derived: Dict from the id of a nested model, or of a slice, to what
            takes its place: what stands in two places is one layer in both.
    """
    if isinstance(model, SlicedConvolution):
        return model.convolution()
    if not find_layers(model, SearchableLayer):
        # Slices in a custom layer stay what they are.
        if not is_graph(model) or not find_layers(model, SlicedConvolution):
            return model
    elif not is_graph(model):
        raise ValueError(
            "Only Sequential and functional models can be derived; build the "
            "part that holds the `Choice` layers as one of these. "
            f"Received: model={model.name} of class {type(model).__name__}"
        )
    check_places(model)
    # What a graph calls beside layers, as `keras.ops.relu`, has names as well.
    names = _Names(
        derived,
        (
            part
            for part in getattr(model, "operations", model.layers)
            if not isinstance(part, SearchableLayer)
        ),
    )
    if isinstance(model, keras.Sequential):
        # Its input, which is none of its `layers`, keeps its name.
        names.free(model.inputs[0].name)
        return rebuilt(model, lambda layer: _plain(layer, names))
    return _derived_graph(model, names)


def check_places(layer):
    """Refuses choices that could not be replaced by what they chose.

    To be said before a search, and not when it has ended.

    Args:
        layer: A model as `derive` takes it, or a layer in one.

    Raises:
        ValueError: A `Choice` sits inside a subclassed model or a custom
            layer, or in a model with a `call` of its own.
    """
    if isinstance(layer, SearchableLayer):
        parts = layer.options
    elif is_graph(layer):
        parts = layer.layers
        if loses_its_call(layer) and find_layers(layer, SearchableLayer):
            raise ValueError(
                "A model that holds choices is derived from its graph, and "
                "what its class does in a `call` of its own is lost: do that "
                "in layers of the graph. "
                f"Received: {layer.name}, of class {type(layer).__name__}"
            )
    else:
        parts = []
        hidden = find_layers(layer, SearchableLayer)
        if hidden:
            raise ValueError(
                "A `Choice` inside a custom layer cannot be replaced. Put it "
                "into a Sequential or functional model instead. "
                f"Received: {[choice.name for choice in hidden]} inside of "
                f"{layer.name}, of class {type(layer).__name__}"
            )
    for part in parts:
        check_places(part)


def derive_first(model):
    """Returns the plain model in which each choice took its first candidate.

    Args:
        model: As for `derive`; its free decisions are frozen by
            `freeze_first`.
    """
    freeze_first(model, [d for d in find_decisions(model) if not d.is_frozen])
    return derive(model)


def freeze_first(model, decisions=None):
    """Freezes decisions for the first of their options.

    On each edge that is the first operation that may be kept and does not
    give zeros, if there is one: of zeros alone no network is made. Of several
    edges the first ones are kept.

    Args:
        model: As for `derive`.
        decisions: List of decisions of the model, by default all.
    """
    found = options_that(gives_zeros, model)
    if decisions is None:
        decisions = find_decisions(model)
    for decision in decisions:
        zeros = found.get(id(decision), ())
        first = []
        for edge in range(decision.keep):
            start = edge * decision.operations
            options = [
                start + k
                for k in range(decision.operations)
                if k != decision.none
            ]
            # Those that give zeros come last.
            first.append(min(options, key=lambda k: k in zeros))
        decision.freeze(first)


def _derived_graph(model, names):
    replaced, nodes = {}, {}
    named = set()
    if len(model.outputs) > 1:
        # Labels, losses and metrics go by the names of the outputs' layers.
        named = {id(layer) for layer in output_layers(model)}

    def replace(layer):
        if id(layer) not in replaced:
            name = layer.name if id(layer) in named else None
            replaced[id(layer)] = _plain(layer, names, name)
        return replaced[id(layer)]

    def call(layer, *args, **kwargs):
        if not isinstance(layer, NodeChoice):
            return layer(*args, **kwargs)
        if id(layer) not in nodes:
            name = layer.name if id(layer) in named else None
            nodes[id(layer)] = _plain_node(layer, names, name)
        kept, add = nodes[id(layer)]
        outputs = [part(args[0][edge]) for edge, part in kept]
        return add(outputs) if len(outputs) > 1 else outputs[0]

    return rebuilt(model, replace, call)


def _plain_node(node, names, name):
    """Returns [(edge, layer)] that a node keeps, and the layer that adds.

    Args:
        node: `NodeChoice`.
        names: `_Names`.
        name: The name that its output is to have, by default that of the
            layer that is kept alone, or the node's.
    """
    alone = name if node.keep == 1 else None
    kept = [
        (edge, _scaled(layer, scale, node.dtype_policy, names, alone))
        for edge, layer, scale in node.kept()
    ]
    # What is added here is made at the end, and computes as the node did.
    name = names.free(node.name)
    return kept, keras.layers.Add(dtype=node.dtype_policy, name=name)


def _plain(layer, names, name=None):
    """Returns what takes a layer's place, under a name that is not taken.

    Args:
        layer: Keras layer.
        names: `_Names`.
        name: The name that it is to have, by default its own.
    """
    if isinstance(layer, (keras.Model, SlicedConvolution)):
        if id(layer) not in names.derived:
            names.derived[id(layer)] = _derive(layer, names.derived)
        return names.derived[id(layer)]
    if not isinstance(layer, Choice):
        return layer
    ((_, chosen, scale),) = layer.kept()
    return _scaled(chosen, scale, layer.dtype_policy, names, name)


def _scaled(chosen, scale, dtype, names, name=None):
    """Returns a chosen candidate, and its factor behind it, if it has one."""
    chosen = _plain(chosen, _Names(names.derived))
    parts = [chosen]
    if scale != 1.0:
        parts.append(keras.layers.Rescaling(scale, dtype=dtype))
    if len(parts) == 1 and names.is_of(chosen) and not name:
        return chosen
    name = names.free(name or chosen.name, chosen)
    if name == chosen.name and len(parts) == 1:
        return chosen
    # Candidates of different choices may bear one name; a functional model
    # wants them distinct, and a layer cannot be renamed.
    return keras.Sequential(parts, name=name)


class _Names:
    """The names of what a model calls, which must be distinct.

    And what was derived already, which goes wherever names are given.

    Args:
        derived: As `_derive` takes it.
        parts: Iterable of layers, and of other Keras operations.
    """

    def __init__(self, derived, parts=()):
        self.derived = derived
        self._taken = {part.name: part for part in parts}

    def is_of(self, layer):
        """Whether a layer is one of the model's, under its own name."""
        return self._taken.get(layer.name) is layer

    def free(self, wanted, layer=None):
        """Returns the wanted name, numbered if it is taken, and takes it.

        Args:
            wanted: Name.
            layer: The layer that will have it, if it is its own.
        """
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken[name] = layer
        return name
