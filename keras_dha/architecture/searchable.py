"""What searchable layers share: candidates on edges, and a decision.

On one edge the decision names an operation, whose candidate runs and no other
(`keras_dha.architecture.branches`); or all run and are summed, weighted.
"""

import keras
from keras import ops

from keras_dha import given_weights
from keras_dha import sharing
from keras_dha.architecture import tracing
from keras_dha.architecture.branches import nothing
from keras_dha.architecture.branches import run_one
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.shared_graph import run_edge
from keras_dha.nested_layers import find_layers


class SearchableLayer(keras.layers.Layer):
    """Base class of the layers that hold candidates to choose from.

    Subclasses hold the candidates and combine the `_outputs` of the edges.

    Attributes:
        decision: The `Decision` that says what runs.
        shared_edges: Set of the edges that may share their graph with others
            like them (`keras_dha.architecture.shared_graph`).
    """

    shared_edges = frozenset()
    # Of the inputs, as `build` is told of shapes alone.
    _dtypes = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.activity_regularizer is not None:
            kind = type(self).__name__
            raise ValueError(
                f"A `{kind}` takes no `activity_regularizer`: the network that "
                "is derived would be without it. Put one behind the "
                f"`{kind}`, as `keras.layers.ActivityRegularization`. "
                f"Received: layer={self.name}"
            )

    def __call__(self, inputs, *args, **kwargs):
        if not self.built:
            self._dtypes = tuple(map(self._dtype, keras.tree.flatten(inputs)))
        return super().__call__(inputs, *args, **kwargs)

    def _dtype(self, given):
        """Returns as what candidates get an input: Keras casts floats."""
        dtype = getattr(given, "dtype", self.compute_dtype)
        if keras.backend.is_float_dtype(dtype):
            return self.compute_dtype
        return keras.backend.standardize_dtype(dtype)

    @property
    def edges(self):
        """The candidates, a list of lists: of each edge its operations."""
        raise NotImplementedError(
            f"`{type(self).__name__}` must implement `edges`."
        )

    @property
    def options(self):
        """All candidates in the order of the decision's options."""
        return [candidate for edge in self.edges for candidate in edge]

    def kept(self):
        """Returns what deriving keeps: a list of (edge, layer, scale).

        The scale is the factor of the layer's output, 1 but for sparse
        codes.
        """
        decision = self.decision
        factors = decision.factors(training=False)
        if factors is not None:
            factors = ops.convert_to_numpy(factors)
        found = []
        for option in decision.kept():
            edge = option // decision.operations
            scale = 1.0 if factors is None else float(factors[edge])
            found.append((edge, self.options[option], scale))
        return found

    def _outputs(self, inputs, training):
        """Returns the outputs of all edges, a list.

        Args:
            inputs: List of tensors, one for each edge.
            training: Boolean.
        """
        decision = self.decision
        if decision.mixes(training):
            tables = ops.unstack(decision.coefficients())
            return [
                self._mixture(edge, x, ops.unstack(weights))
                for edge, (x, weights) in enumerate(
                    zip(inputs, tables, strict=True)
                )
            ]
        indices = ops.unstack(decision.indices(training), len(inputs))
        outputs = [
            self._single(edge, x, index, training)
            for edge, (x, index) in enumerate(zip(inputs, indices, strict=True))
        ]
        given = given_weights.active()
        factors = decision.factors(training, given is None or given.credits)
        if factors is None:
            return outputs
        return [
            y * ops.cast(factor, y.dtype)
            for y, factor in zip(
                outputs, ops.unstack(factors, len(inputs)), strict=True
            )
        ]

    def _mixture(self, edge, inputs, weights):
        candidates = self.edges[edge]
        if edge in self.shared_edges:
            shared = run_edge(candidates, inputs, weights, True, True)
            if shared is not None:
                return shared
        runs = _runs(candidates, given_weights.active())
        outputs = [
            y * ops.cast(weight, y.dtype)
            for weight, y in zip(
                weights, (run(inputs) for run in runs), strict=True
            )
        ]
        return sum(outputs[1:], start=outputs[0])

    def _single(self, edge, inputs, index, training):
        candidates = self.edges[edge]
        if edge in self.shared_edges:
            shared = run_edge(candidates, inputs, index, False, training)
            if shared is not None:
                return shared
        given = given_weights.active()
        branches, weights, along = _runs(candidates, given), None, False
        if given is not None:
            # A choice within a candidate may have derivatives of its own.
            is_plain = not any(
                find_layers(c, SearchableLayer) for c in candidates
            )
            weights = given.values() if given.once and is_plain else None
            along = given.along
        if self.decision.keep < self.decision.edges:
            branches = [*branches, nothing(candidates[0])]
        return run_one(index, branches, inputs, weights, along)

    def _build_edge(self, edge, input_shape):
        """Builds an edge's candidates; returns their shape of output."""
        candidates = self.edges[edge]
        given = self._input_like(edge, input_shape)
        for candidate in candidates:
            if isinstance(candidate, SearchableLayer) and not candidate.built:
                candidate._dtypes = (given.dtype,)
            tracing.build(candidate, given)
        found = [tracing.output_spec(c, given) for c in candidates]
        shapes = [spec.shape for spec in found]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"The candidates of a `{type(self).__name__}` must give "
                "outputs of one shape, for instance by padding='same' and "
                "equal strides. "
                f"Received: input shape {tuple(input_shape)}, outputs "
                f"{_named(candidates, shapes)}"
            )
        if len({spec.dtype for spec in found}) > 1:
            self._check_dtypes(candidates, given)
        masking = [c.name for c in candidates if tracing.gives_mask(c, given)]
        if masking:
            raise ValueError(
                f"A candidate of a `{type(self).__name__}` must hand on no "
                "mask: the layers behind would see it where the network is "
                "derived, and not where it is searched. Leave out `mask_zero`, "
                "or the `Masking`, or let each candidate end in a layer that "
                "uses it up, as a `keras.layers.LSTM`. "
                f"Received: candidates={masking}, layer={self.name}"
            )
        return shapes[0]

    def _check_dtypes(self, candidates, given):
        """Refuses outputs of several data types, as they are when it runs."""
        dtypes = [tracing.traced(c, given).dtype for c in candidates]
        if len(set(dtypes)) > 1:
            raise ValueError(
                f"The candidates of a `{type(self).__name__}` must give "
                "outputs of one data type: give their layers one `dtype`. "
                f"Received: input of {given.dtype}, outputs "
                f"{_named(candidates, dtypes)}"
            )

    def _input_like(self, edge, shape):
        """Returns a tensor without values, like an edge's input."""
        dtypes = self._dtypes
        return keras.KerasTensor(
            shape, dtypes[edge] if dtypes else self.compute_dtype
        )

    def _output_shape(self, input_shape):
        """Returns the shape of the output, from that of the first edge."""
        given = self._input_like(0, input_shape)
        return tracing.output_spec(self.options[0], given).shape

    def get_build_config(self):
        config = super().get_build_config()
        return config and {**config, "dtypes": self._dtypes}

    def build_from_config(self, config):
        self._dtypes = config.get("dtypes")
        super().build_from_config(config)

    def compute_mask(self, inputs, previous_mask):
        """Refuses inputs with a mask; Keras asks where inputs come in."""
        masks = keras.tree.flatten(previous_mask)
        if any(mask is not None for mask in masks):
            kind = type(self).__name__
            raise ValueError(
                f"A `{kind}` takes no masked input: a candidate that runs "
                "alone would not see the mask. Let each candidate make its "
                "own, as in `keras.Sequential([keras.layers.Embedding(..., "
                "mask_zero=True), keras.layers.LSTM(...)])`, or leave out "
                "`mask_zero`, or the `Masking`. "
                f"Received: a mask, layer={self.name}"
            )
        return None

    def _checked_decision(self, decision, edges, keep, none):
        """Returns the decision given, or one of its own."""
        size = sum(len(edge) for edge in edges)
        if decision is None:
            return Decision(
                size,
                edges=len(edges),
                keep=keep,
                none=none,
                name=f"{self.name}_decision",
            )
        if not isinstance(decision, Decision):
            raise ValueError(
                "`decision` must be a `keras_dha.Decision`. "
                f"Received: decision={decision!r}"
            )
        if decision.num_candidates != size:
            raise ValueError(
                "`decision` must have as many options as there are "
                f"candidates. Received: {decision.num_candidates} options, "
                f"{size} candidates"
            )
        if (decision.edges, decision.keep) != (len(edges), keep):
            raise ValueError(
                f"`decision` must have {len(edges)} edges and keep {keep}. "
                f"Received: edges={decision.edges}, keep={decision.keep}"
            )
        return decision

    def get_config(self):
        decision = keras.saving.serialize_keras_object(self.decision)
        # Keras marks only what is shared at the top level of a model by this
        # key, and honours it everywhere.
        decision["shared_object_id"] = id(self.decision)
        return {**super().get_config(), "decision": decision}

    def _serialized_candidates(self):
        """Returns the configurations of all candidates, of each edge a list.

        Keras meets all of them twice (`keras_dha.sharing`).
        """
        for candidate in self.options:
            keras.saving.serialize_keras_object(candidate)
        marks = sharing.with_state(self)
        return [[self._serialized(c, marks) for c in e] for e in self.edges]

    def _serialized(self, candidate, marks):
        config = keras.saving.serialize_keras_object(candidate)
        if self.built and not tracing.has_own_build(candidate):
            # What has no `build` is built by this layer, at the same shape;
            # Keras would take it for built.
            config.pop("build_config", None)
        return sharing.marked(config, marks)


def _named(candidates, found):
    return ", ".join(
        f"{c.name}: {x}" for c, x in zip(candidates, found, strict=True)
    )


def _runs(candidates, given):
    """Returns functions that run candidates, at given weights or `None`."""
    if given is None:
        return candidates
    return [_at(given, candidate) for candidate in candidates]


def _at(given, candidate):
    """Returns the function that runs a candidate at given weights."""

    def run(inputs):
        with given.within(candidate):
            return candidate(inputs)

    return run


def check_candidates(kind, candidates):
    """Refuses lists of what are no distinct, distinctly named layers.

    And layers with losses of what they give, which are made inside of a
    branch and cannot get out of it.

    Args:
        kind: Name of the class that holds them.
        candidates: List of candidates.
    """
    for candidate in candidates:
        if not isinstance(candidate, keras.layers.Layer):
            raise ValueError(
                f"Each candidate of a `{kind}` must be a Keras layer. "
                f"Received: candidate={candidate!r}"
            )
        regularized = [
            layer.name
            for layer in find_layers(candidate, keras.layers.Layer)
            if layer.activity_regularizer is not None
        ]
        if regularized:
            raise ValueError(
                f"A candidate of a `{kind}` must have no "
                "`activity_regularizer`: its loss is lost where not every "
                f"candidate runs. Put one behind the `{kind}`, as "
                "`keras.layers.ActivityRegularization`, or use a "
                "`kernel_regularizer`. "
                f"Received: candidate={candidate.name}, where it is in "
                f"{regularized}"
            )
    if len({id(c) for c in candidates}) < len(candidates):
        raise ValueError(
            f"The candidates of a `{kind}` must be distinct layers. "
            f"Received: candidates={[c.name for c in candidates]}"
        )
    names = [c.name for c in candidates]
    if len(set(names)) < len(names):
        raise ValueError(
            f"The candidates of a `{kind}` must have distinct names, by "
            f"which the result tells them apart. Received: names={names}"
        )


def check_names(network):
    """Refuses choices, or decisions, of one name, by which results know them.

    Keras sees to it within a model, but not across nested ones.

    Args:
        network: A `keras.Model`.
    """
    for kind in (SearchableLayer, Decision):
        names = [layer.name for layer in find_layers(network, kind)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                "The choices of a network, and its decisions, must have "
                "distinct names, by which the result tells them apart: give "
                "each `Choice` a `name` of its own. "
                f"Received: repeated names={repeated}"
            )
