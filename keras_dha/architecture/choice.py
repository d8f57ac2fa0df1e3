"""A choice: a layer that is one of several candidate layers."""

import keras

from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.searchable import check_candidates


@keras.saving.register_keras_serializable("keras_dha")
class Choice(SearchableLayer):
    """A layer that holds candidate layers and runs one of them.

    It drops into any Sequential or functional model. While a
    `keras_dha.AutoModel` searches by single paths, the sampled candidate runs
    and no other; the others take memory, and time to compile, and do not
    move. `strategies.DARTS` runs all, weighted. Deriving the model puts the
    chosen candidate in place of the `Choice`, with its weights.

    Args:
        candidates: List of at least two Keras layers (a model is a layer too)
            that accept the same input and give outputs of the same shape.
            Layers of your own need a `call` and no more; to be saved, they
            are registered and have a `get_config`, as ever in Keras.
        decision: Optional `keras_dha.Decision` to share with other choices,
            so that all of them pick the same candidate. By default the
            choice has its own. Saving keeps it shared;
            `keras.models.clone_model`, which copies one layer at a time,
            gives each choice a copy.
        **kwargs: Base layer arguments, such as `name`.

    Call arguments:
        inputs: A tensor.
        training: Boolean. In training mode what the strategy says runs: the
            sampled candidate, or all of them, weighted; else the most
            probable one.

    Raises:
        ValueError: Fewer than two candidates, a candidate that is no layer,
            two of one name, a decision of another size, outputs of
            different shapes or data types, several inputs, an input with a
            mask, or a candidate that hands one on.

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
        if len(candidates) < 2:
            raise ValueError(
                "A `Choice` needs at least two candidates; with one there is "
                "nothing to choose, use the layer itself. "
                f"Received: candidates={candidates}"
            )
        check_candidates("Choice", candidates)
        self.candidates = candidates
        self.decision = self._checked_decision(decision, self.edges, 1, None)

    @property
    def edges(self):
        return [self.candidates]

    def build(self, input_shape):
        is_shape = isinstance(input_shape, (list, tuple)) and not any(
            map(keras.tree.is_nested, input_shape)
        )
        if not is_shape:
            raise ValueError(
                "A `Choice` takes one tensor: join several before it, as with "
                "`keras.layers.Concatenate`, or use a `keras_dha.NodeChoice`, "
                "which has candidates for each of them and adds them up. "
                f"Received: inputs of shape {input_shape}, layer={self.name}"
            )
        self._build_edge(0, input_shape)
        self.built = True

    def call(self, inputs, training=None):
        # Keras hands `training` on to layers that are called in a call.
        return self._outputs([inputs], bool(training))[0]

    def compute_output_shape(self, input_shape):
        return self._output_shape(input_shape)

    def chosen_candidate(self):
        """Returns the candidate layer that runs in inference mode."""
        return self.candidates[self.decision.kept()[0]]

    def get_config(self):
        (candidates,) = self._serialized_candidates()
        return {**super().get_config(), "candidates": candidates}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        config["candidates"] = [deserialize(c) for c in config["candidates"]]
        config["decision"] = deserialize(config["decision"])
        return cls(**config)
