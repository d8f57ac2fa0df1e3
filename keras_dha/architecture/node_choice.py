"""A choice at a node: which of its inputs it uses, and what runs on them."""

import keras

from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.searchable import check_candidates


@keras.saving.register_keras_serializable("keras_dha")
class NodeChoice(SearchableLayer):
    """A layer of several inputs that keeps some, with one operation each.

    It is the node of a searched cell: its output is the sum over its edges,
    one for each input. How an edge runs while a network is searched depends
    on the strategy: `strategies.DARTS` mixes all operations by a softmax on
    each edge, `strategies.DSNAS` and `strategies.GDAS` run one sampled
    operation on every edge, `strategies.ISTA` runs what its code keeps, one
    operation on each of `keep` edges. In inference mode, and in the derived
    model, the operations that are kept run, on distinct edges: of each edge
    the strongest operation, of the edges the `keep` strongest.

    Args:
        candidates: List of E lists of O Keras layers, for each edge its
            operations. All give outputs of one shape. Layers of an edge
            must have distinct names.
        keep: Integer in 1..E, how many edges are kept.
        decision: Optional `keras_dha.Decision` with E * O options, E edges
            and the same `keep`, to share with other nodes: the nodes of all
            normal cells, say.
        none: Optional integer, the number of an operation that gives zeros.
            It takes part in the search and is never kept.
        **kwargs: Base layer arguments, such as `name`.

    Call arguments:
        inputs: List of E tensors.
        training: Boolean.

    Raises:
        ValueError: Candidates that are no table of layers, a decision of
            another form, outputs of different shapes, or an input with a
            mask.

    Example:

    >>> x = [keras.Input((8, 8, 4)), keras.Input((8, 8, 4))]
    >>> y = keras_dha.NodeChoice([
    ...     [
    ...         keras.layers.Conv2D(4, 3, padding="same", name=f"conv{e}"),
    ...         keras.layers.Identity(name=f"skip{e}"),
    ...     ]
    ...     for e in range(2)
    ... ], keep=1)(x)

    Reference:
        Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019.
    """

    def __init__(self, candidates, keep=2, decision=None, none=None, **kwargs):
        super().__init__(**kwargs)
        candidates = [list(edge) for edge in candidates]
        if not candidates or len({len(edge) for edge in candidates}) != 1:
            raise ValueError(
                "`candidates` of a `NodeChoice` must be lists of equally many "
                "operations, one list for each input. "
                f"Received: lists of {[len(edge) for edge in candidates]}"
            )
        for edge in candidates:
            check_candidates("NodeChoice", edge)
        self.candidates = candidates
        self.keep = keep
        self.none = none
        self.decision = self._checked_decision(decision, candidates, keep, none)
        if self.decision.none != none:
            raise ValueError(
                f"`decision` must have none={none}, as this node has. "
                f"Received: none={self.decision.none}"
            )

    @property
    def edges(self):
        return self.candidates

    def build(self, input_shape):
        is_list = isinstance(input_shape, (list, tuple)) and all(
            isinstance(shape, (list, tuple)) for shape in input_shape
        )
        if not is_list or len(input_shape) != len(self.candidates):
            raise ValueError(
                "A `NodeChoice` must be called on a list of as many tensors "
                f"as it has edges, {len(self.candidates)}. "
                f"Received: shapes {input_shape}, layer={self.name}"
            )
        is_open = any(None in shape[1:] for shape in input_shape)
        if is_open and self.keep < len(self.candidates):
            raise ValueError(
                "A `NodeChoice` that leaves out edges must know the size of "
                "its inputs, to put zeros there: give the `Input` its whole "
                "shape, or keep all edges. "
                f"Received: shapes {input_shape}, layer={self.name}"
            )
        shapes = {
            self._build_edge(edge, shape)
            for edge, shape in enumerate(input_shape)
        }
        if len(shapes) > 1:
            raise ValueError(
                "All edges of a `NodeChoice` must give outputs of one shape. "
                f"Received: {sorted(shapes)}"
            )
        self.built = True

    def call(self, inputs, training=None):
        outputs = self._outputs(inputs, bool(training))
        return sum(outputs[1:], start=outputs[0])

    def compute_output_shape(self, input_shape):
        return self._output_shape(input_shape[0])

    def get_config(self):
        return {
            **super().get_config(),
            "candidates": self._serialized_candidates(),
            "keep": self.keep,
            "none": self.none,
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        config["candidates"] = [
            [deserialize(c) for c in edge] for edge in config["candidates"]
        ]
        config["decision"] = deserialize(config["decision"])
        return cls(**config)
