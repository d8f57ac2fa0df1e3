"""A choice: a layer that is one of several candidate layers."""

import keras
from keras import ops

from keras_dha.architecture.decision import Decision


@keras.saving.register_keras_serializable("keras_dha")
class Choice(keras.layers.Layer):
    """A layer that holds candidate layers and runs one of them.

    It drops into any Sequential or functional model. While an
    `keras_dha.AutoModel` searches, the candidate that the decision sampled
    runs, and only that one: the others cost nothing and do not move.
    Deriving the model puts the chosen candidate in place of the `Choice`,
    with its weights.

    Args:
        candidates: List of at least two Keras layers (a Sequential or a
            functional model is a layer too) that accept the same input and
            give outputs of the same shape.
        decision: Optional `keras_dha.Decision` to share with other choices,
            so that all of them pick the same candidate. By default the
            choice has its own. Saving keeps it shared;
            `keras.models.clone_model`, which copies one layer at a time,
            gives each choice a copy.
        **kwargs: Base layer arguments, such as `name`.

    Call arguments:
        inputs: A tensor.
        training: Boolean. In training mode the sampled candidate runs, else
            the most probable one.

    Raises:
        ValueError: Fewer than two candidates, a candidate that is no layer,
            two of one name, a decision of another size, or outputs of
            different shapes.

    Example:

    >>> x = keras.Input((32, 32, 3))
    >>> y = keras_dha.Choice([
    ...     keras.layers.Conv2D(16, 3, padding="same", name="conv3"),
    ...     keras.layers.SeparableConv2D(16, 5, padding="same", name="sep5"),
    ... ])(x)

    Reference:
        Single-path search: Hu et al., "DSNAS: Direct Neural Architecture
        Search without Parameter Retraining", CVPR 2020.
    """

    def __init__(self, candidates, decision=None, **kwargs):
        super().__init__(**kwargs)
        candidates = list(candidates)
        _check_candidates(candidates)
        if decision is None:
            decision = Decision(len(candidates), name=f"{self.name}_decision")
        if not isinstance(decision, Decision):
            raise ValueError(
                "`decision` must be a `keras_dha.Decision`. "
                f"Received: decision={decision!r}"
            )
        if decision.num_candidates != len(candidates):
            raise ValueError(
                "`decision` must have as many options as there are "
                f"candidates. Received: {decision.num_candidates} options, "
                f"{len(candidates)} candidates"
            )
        self.candidates = candidates
        self.decision = decision

    def build(self, input_shape):
        for candidate in self.candidates:
            if not candidate.built:
                candidate.build(input_shape)
        shapes = [
            tuple(c.compute_output_shape(input_shape)) for c in self.candidates
        ]
        if len(set(shapes)) > 1:
            named = ", ".join(
                f"{c.name}: {s}"
                for c, s in zip(self.candidates, shapes, strict=True)
            )
            raise ValueError(
                "The candidates of a `Choice` must give outputs of one "
                f"shape, for instance by padding='same' and equal strides. "
                f"Received: input shape {tuple(input_shape)}, outputs {named}"
            )
        self.built = True

    def call(self, inputs, training=None):
        # Keras hands `training` on to layers that are called in a call.
        outputs = ops.switch(
            self.decision.index(bool(training)), self.candidates, inputs
        )
        gate = self.decision.gate() if training else None
        if gate is None:
            return outputs
        return outputs * ops.cast(gate, outputs.dtype)

    def compute_output_shape(self, input_shape):
        return self.candidates[0].compute_output_shape(input_shape)

    def chosen_candidate(self):
        """Returns the candidate layer that runs in inference mode."""
        index = int(ops.convert_to_numpy(self.decision.index(False)))
        return self.candidates[index]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        decision = serialize(self.decision)
        # Keras marks only what is shared at the top level of a model by this
        # key, and honours it everywhere.
        decision["shared_object_id"] = id(self.decision)
        return {
            **super().get_config(),
            "candidates": [serialize(c) for c in self.candidates],
            "decision": decision,
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        config["candidates"] = [deserialize(c) for c in config["candidates"]]
        config["decision"] = deserialize(config["decision"])
        return cls(**config)


def _check_candidates(candidates):
    if len(candidates) < 2:
        raise ValueError(
            "A `Choice` needs at least two candidates; with one there is "
            "nothing to choose, use the layer itself. "
            f"Received: candidates={candidates}"
        )
    for candidate in candidates:
        if not isinstance(candidate, keras.layers.Layer):
            raise ValueError(
                "Each candidate of a `Choice` must be a Keras layer. "
                f"Received: candidate={candidate!r}"
            )
    if len({id(c) for c in candidates}) < len(candidates):
        raise ValueError(
            "The candidates of a `Choice` must be distinct layers. "
            f"Received: candidates={[c.name for c in candidates]}"
        )
    names = [c.name for c in candidates]
    if len(set(names)) < len(names):
        raise ValueError(
            "The candidates of a `Choice` must have distinct names, by "
            f"which the result tells them apart. Received: names={names}"
        )
