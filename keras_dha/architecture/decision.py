"""A decision: the architecture variables of one choice among candidates.

A `Decision` owns the logits of a choice and knows which candidate runs now.
One or several `Choice` layers consult it; a strategy samples it, credits it
and finally freezes it. What belongs to a `Decision` is architecture, all
other trainable variables are weights: ownership decides, never a name.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_dha")
class Decision(keras.layers.Layer):
    """The architecture variables of one choice among `num_candidates`.

    A decision is *free* while it is searched and *frozen* once `freeze` was
    called. In training mode a free decision runs the candidate that was last
    put into `sampled`; in inference mode it runs the most probable one. A
    frozen decision always runs `chosen`.

    Args:
        num_candidates: Integer of at least 2, how many candidates there are.
        **kwargs: Base layer arguments, such as `name`.

    Attributes:
        logits: float32 variable of shape `(num_candidates,)`; the
            probabilities of the candidates are its softmax.
        sampled: int32 scalar variable, the candidate that runs in training mode
            while the decision is free.
        chosen: int32 scalar variable, the frozen candidate, -1 while free.
        strategy: The strategy of the running search, `None` outside of one.

    Example:

    >>> decision = keras_dha.Decision(3, name="kernel")
    >>> decision.probabilities()
    array([0.33333334, 0.33333334, 0.33333334], dtype=float32)
    """

    def __init__(self, num_candidates, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(num_candidates, int) or num_candidates < 2:
            raise ValueError(
                "A `Decision` needs at least 2 candidates to choose from. "
                f"Received: num_candidates={num_candidates}"
            )
        self.num_candidates = num_candidates
        self.strategy = None
        self.logits = self.add_weight(
            name="logits",
            shape=(num_candidates,),
            initializer="zeros",
            dtype="float32",
        )
        self.sampled = self._integer("sampled", 0)
        self.chosen = self._integer("chosen", -1)
        # There is no input to build for: a decision is consulted, not called.
        self.built = True

    def _integer(self, name, value):
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(value),
            dtype="int32",
            trainable=False,
        )

    def index(self, training):
        """Returns the int32 scalar index of the candidate that runs."""
        free = self.sampled if training else ops.argmax(self.logits)
        chosen = ops.convert_to_tensor(self.chosen)
        return ops.where(chosen < 0, ops.cast(free, "int32"), chosen)

    def gate(self):
        """Returns the factor of the running candidate's output in training.

        Its value is 1; its gradient carries the strategy's credit to the
        logits. `None` when no strategy searches this decision.
        """
        if self.strategy is None:
            return None
        free = ops.cast(ops.convert_to_tensor(self.chosen) < 0, "float32")
        return 1.0 + free * self.strategy.credit(
            ops.convert_to_tensor(self.logits),
            ops.convert_to_tensor(self.sampled),
        )

    def probabilities(self):
        """Returns the candidates' probabilities, float32 `(K,)` NumPy array.

        A frozen decision is certain.
        """
        if self.is_frozen:
            return ops.convert_to_numpy(
                ops.one_hot(self.chosen, self.num_candidates)
            )
        return ops.convert_to_numpy(ops.softmax(self.logits))

    def freeze(self, index=None):
        """Fixes the choice to `index`, by default the most probable one."""
        if index is None:
            index = int(ops.argmax(self.logits))
        if not 0 <= index < self.num_candidates:
            raise ValueError(
                f"`index` must be in 0..{self.num_candidates - 1}. "
                f"Received: index={index}"
            )
        self.chosen.assign(index)
        self.sampled.assign(index)

    @property
    def is_frozen(self):
        """Whether the choice is fixed."""
        return int(ops.convert_to_numpy(self.chosen)) >= 0

    def get_config(self):
        return {**super().get_config(), "num_candidates": self.num_candidates}


def find_layers(model, kind):
    """Returns every layer of class `kind` inside `model`, each one once.

    Uses Keras' private `_flatten_layers`: `Model.layers` does not show the
    layers that a layer holds, and there is no public way to reach them.
    """
    found = []
    for layer in model._flatten_layers(include_self=True, recursive=True):
        if isinstance(layer, kind) and all(layer is not f for f in found):
            found.append(layer)
    return found


def find_decisions(model):
    """Returns every `Decision` inside `model`, in a fixed order."""
    return find_layers(model, Decision)
