"""Latency: how long each candidate takes on this device, as a table.

The time of a network is modelled as a sum: of its fixed part and, for each
choice, of the candidate that it picks at the shape that arrives there.
Candidates are timed alone. The fixed part is what is left of the time of the
network of all first candidates (`freeze_first`) when theirs are taken off, so
the overhead of a call, which is in each time, does not add up.
"""

import contextlib
import hashlib
import json
import pathlib
import platform
import time

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dha import extras
from keras_dha.architecture import graph
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.cost import positions
from keras_dha.architecture.cost import summed
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.derive import freeze_first
from keras_dha.architecture.description import USED
from keras_dha.architecture.description import described
from keras_dha.atomic import written_beside
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import forgets_arguments

ENGINES = ("keras", "litert")
_FORMAT = "keras_dha.latency_table"
_UNTIMED = 3
# What a saved layer says beside what it computes.
_IRRELEVANT = (*USED, "shared_object_id")


class LatencyTable:
    """Measured times of a network's parts for one example.

    Measured on the machine that runs it: measure and `save` it where the
    network is to serve, and `load` it where it is trained.

    Args:
        engine: `"keras"`, a compiled call on this device, or `"litert"`, the
            LiteRT interpreter on one thread of it.
        entries: Dict from a part's key to `{"layer", "inputs",
            "milliseconds"}`.
        device: String, what it was measured on.

    Example:

    >>> supernet = keras_dha.spaces.mobile((32, 32, 3), 10, width=0.5)
    >>> table = keras_dha.LatencyTable.measure(supernet, engine="litert")
    >>> table.save("latency.json")
    >>> model = keras_dha.AutoModel(
    ...     supernet, target={"latency_ms": 2.0, "latency_table": table}
    ... )
    """

    def __init__(self, engine, entries, device):
        if engine not in ENGINES:
            raise ValueError(
                f"`engine` must be one of {ENGINES}. "
                f"Received: engine={engine!r}"
            )
        self.engine = engine
        self.entries = entries
        self.device = device

    @classmethod
    def measure(cls, model, engine="keras", repeats=30):
        """Times every part of a model on this device.

        The parts take turns, so that a busy moment hits all of them, and the
        median of each counts. Parts that are alike are timed once.

        Args:
            model: A built Sequential or functional `keras.Model`.
            engine: `"keras"` or `"litert"`, which needs the extra `litert`.
            repeats: Integer, how often each part is timed.

        Returns:
            A `LatencyTable`.

        Raises:
            ValueError: There is no such engine, or examples have no one size.
            ImportError: The package that runs LiteRT files is not installed.
        """
        table = cls(engine, {}, _device())
        if engine == "litert":
            extras.require(("ai_edge_litert",), "litert", 'engine="litert"')
        prepare = _keras_call if engine == "keras" else _litert_call
        timed = {}
        with _of_first(model):
            for part in _parts(model):
                layer = _plain(part.layer)
                key = _key(layer, part.inputs)
                if key not in timed:
                    timed[key] = prepare(layer, part.inputs)
                    table.entries[key] = {
                        "layer": layer.name,
                        "inputs": [list(x.shape[1:]) for x in part.inputs],
                    }
        seconds = {key: [] for key in timed}
        for turn in range(_UNTIMED + repeats):
            for key, call in timed.items():
                begun = time.perf_counter()
                call()
                if turn >= _UNTIMED:
                    seconds[key].append(time.perf_counter() - begun)
        for key, values in seconds.items():
            table.entries[key]["milliseconds"] = 1e3 * float(np.median(values))
        return table

    def terms(self, model):
        """Returns the terms of `NetworkCost` for the model's latency.

        Args:
            model: A model whose parts are in this table.

        Raises:
            ValueError: A part was not measured.
        """
        decisions = find_decisions(model)
        with _of_first(model):
            return summed(
                (self._fixed(part), positions(part.path, decisions))
                for part in _parts(model)
            )

    def _fixed(self, part):
        """The time of a part without what is chosen inside it."""
        return self._milliseconds(part.layer, part.inputs) - sum(
            self._milliseconds(call.layer, call.inputs)
            for call in _choices(part)
        )

    def _milliseconds(self, layer, inputs):
        plain = _plain(layer)
        key = _key(plain, inputs)
        if key not in self.entries:
            shapes = [tuple(x.shape[1:]) for x in inputs]
            raise ValueError(
                "The latency table does not hold this part of the network; "
                "measure it with `keras_dha.LatencyTable.measure(model)`. "
                f"Received: layer {plain.name} on inputs {shapes}"
            )
        return self.entries[key]["milliseconds"]

    def get_config(self):
        """Returns the table as a JSON-able dict."""
        return {
            "engine": self.engine,
            "entries": self.entries,
            "device": self.device,
        }

    def save(self, path):
        """Writes the table as JSON, whole or not at all.

        Args:
            path: Path of the file; what is there is replaced. Missing parents
                are made.
        """
        path = pathlib.Path(path)
        if path.is_dir():
            raise ValueError(
                "A latency table is one file; give its path, not that of a "
                f"folder. Received: path={str(path)!r}"
            )
        content = {"format": _FORMAT, **self.get_config()}
        with written_beside(path) as half:
            half.write_text(
                json.dumps(content, indent=2) + "\n", encoding="utf-8"
            )

    @classmethod
    def load(cls, path):
        """Returns the table that `save` wrote; runs no code from the file.

        Args:
            path: Path of the file.
        """
        try:
            content = json.loads(pathlib.Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(
                f"A latency table must be JSON. Received: {error}"
            ) from None
        expected = {"format", "engine", "entries", "device"}
        is_table = isinstance(content, dict) and set(content) == expected
        if not is_table or content.pop("format") != _FORMAT:
            raise ValueError(
                f"The file holds no latency table. Received: path={str(path)!r}"
            )
        return cls(**content)


def _device():
    return f"{platform.system()}, {platform.machine()}"


def _parts(model):
    """Returns calls of the model and of every candidate in it."""
    inputs = [
        keras.KerasTensor(t.shape, dtype=t.dtype)
        for t in keras.tree.flatten(model.inputs)
    ]
    found = []

    def add(part):
        found.append(part)
        for call in _choices(part):
            for k, candidate in enumerate(call.layer.candidates):
                within = (*part.path, (call.layer, k))
                add(graph.Call(candidate, call.inputs, call.outputs, within))

    add(graph.Call(model, inputs, [], ()))
    return found


def _choices(part):
    """Returns the calls of choices directly inside a part."""
    if not find_layers(part.layer, Choice):
        return []
    inputs = part.inputs[0] if len(part.inputs) == 1 else part.inputs
    return [
        call
        for call in graph.calls(part.layer, inputs, enter_choices=False)
        if isinstance(call.layer, Choice)
    ]


@contextlib.contextmanager
def _of_first(model):
    """The scope in which each decision is frozen for its first option."""
    moved = []
    for decision in find_decisions(model):
        moved += [decision.chosen, decision.sampled]
        if decision.code is not None:
            moved.append(decision.code.scales)
    before = [ops.convert_to_numpy(variable) for variable in moved]
    freeze_first(model)
    try:
        yield
    finally:
        for variable, value in zip(moved, before, strict=True):
            variable.assign(value)


def _plain(layer):
    """Returns a layer with what was chosen in place of each choice."""
    if isinstance(layer, Choice):
        return _plain(layer.chosen_candidate())
    return derive(layer)


def _key(layer, inputs):
    """Returns a digest of what a layer does, whatever its name.

    With the shapes of its weights, which what it says of itself may leave open.
    """
    shapes = [[list(x.shape[1:]), str(x.dtype)] for x in inputs]
    weights = [list(weight.shape) for weight in layer.weights]
    text = _said(layer) + json.dumps([shapes, weights])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _said(layer):
    """Returns what a layer says of itself.

    Candidates need a `call` and nothing else: where one does not say what it
    was made with, its name tells it apart.
    """
    unsaid = json.dumps([type(layer).__name__, layer.name])
    if any(map(forgets_arguments, find_layers(layer, keras.layers.Layer))):
        return unsaid
    try:
        return described(layer, _IRRELEVANT)
    except NotImplementedError:
        return unsaid


def _concrete(layer, inputs):
    """Returns a concrete function of one example."""
    shapes = [tuple(x.shape[1:]) for x in inputs]
    if any(None in shape for shape in shapes):
        raise ValueError(
            "Latency is measured for examples of one size: give `keras.Input` "
            "all sides, as in `keras.Input((32, 32, 3))`. "
            f"Received: layer {layer.name} on inputs {shapes}"
        )
    specs = [tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in inputs]

    def call(*tensors):
        x = tensors[0] if len(tensors) == 1 else list(tensors)
        if isinstance(layer, keras.Model) and len(tensors) > 1:
            # Its inputs may be a dict.
            x = keras.tree.pack_sequence_as(layer.input, list(tensors))
        # A copy: what changes nothing must be a graph of its own as well.
        return tf.nest.map_structure(tf.identity, layer(x, training=False))

    return tf.function(
        call, autograph=False, jit_compile=False
    ).get_concrete_function(*specs)


def _keras_call(layer, inputs):
    function = _concrete(layer, inputs)
    examples = [tf.zeros((1, *x.shape[1:]), x.dtype) for x in inputs]
    return lambda: function(*examples)


def _litert_call(layer, inputs):
    # Loaded when used: it is an extra.
    from ai_edge_litert.interpreter import Interpreter

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [_concrete(layer, inputs)], layer
    )
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(
            detail["index"], np.zeros(detail["shape"], detail["dtype"])
        )
    return interpreter.invoke
