"""Walking a model: every layer that it runs, at which shapes, if chosen how.

Keras shows the layers of a model, but not on what inputs a graph calls them,
and a `Choice` runs only one of the layers that it holds. The walk visits each
call of each layer that is no container, with the choices around it.
"""

from typing import NamedTuple

import keras

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.nested_layers import is_graph


class Call(NamedTuple):
    """One call of a layer in a model.

    Attributes:
        layer: The Keras layer; or another Keras operation of a graph.
        inputs: List of its inputs, `keras.KerasTensor` each.
        outputs: List of its outputs, `keras.KerasTensor` each.
        path: Tuple of (`Choice`, number of a candidate) from the outermost
            choice to the innermost: the call takes place if all of them pick
            these candidates.
    """

    layer: object
    inputs: list
    outputs: list
    path: tuple


def calls(layer, inputs, enter_choices=True):
    """Returns every `Call` of a layer, in the order of the graph.

    Args:
        layer: A built Keras layer; of Sequential and functional models, and
            of the candidates of choices, the layers inside are visited.
        inputs: A `keras.KerasTensor`, or the structure of them that `layer`
            is called with.
        enter_choices: Whether the candidates are visited, or the `Choice`
            itself as one layer.

    Raises:
        ValueError: A decision sits inside a custom layer or a subclassed
            model, where it cannot be seen.
    """
    found = []
    _walk(layer, (inputs,), {}, (), enter_choices, found)
    return found


def model_calls(model, enter_choices=True):
    """Returns every `Call` of a Sequential or functional model."""
    inputs = [
        keras.KerasTensor(t.shape, dtype=t.dtype)
        for t in keras.tree.flatten(model.inputs)
    ]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    return calls(model, inputs, enter_choices)


def _walk(layer, args, kwargs, path, enter_choices, found):
    """Adds the calls of `layer` to `found`; returns its outputs."""
    if isinstance(layer, keras.Sequential):
        (x,) = args
        for inner in layer.layers:
            x = _walk(inner, (x,), {}, path, enter_choices, found)
        return x
    if is_graph(layer):
        # Keras' own way to run a graph, here on shapes; it has no public one
        # that leaves the layers without further nodes.
        return layer._run_through_graph(
            args[0],
            operation_fn=lambda inner: (
                lambda *a, **k: _walk(inner, a, k, path, enter_choices, found)
            ),
        )
    if isinstance(layer, Choice) and enter_choices:
        for k, candidate in enumerate(layer.candidates):
            within = (*path, (layer, k))
            outputs = _walk(candidate, args, {}, within, True, found)
        return outputs
    if isinstance(layer, keras.layers.Layer) and not isinstance(layer, Choice):
        hidden = find_decisions(layer)
        if hidden:
            raise ValueError(
                "What a layer decides inside itself has no cost that is "
                "known: only `keras_dha.Choice` layers that sit in Sequential "
                f"or functional models have. Received: layer {layer.name}, "
                f"which holds {[decision.name for decision in hidden]}"
            )
    outputs = layer.compute_output_spec(*args, **kwargs)
    found.append(
        Call(
            layer,
            _tensors((args, kwargs)),
            _tensors(outputs),
            path,
        )
    )
    return outputs


def _tensors(structure):
    return [
        x
        for x in keras.tree.flatten(structure)
        if isinstance(x, keras.KerasTensor)
    ]
