"""Losses: what an example costs, the weighted sum over a network's outputs.

    L_i = sum_k weight_k L_k(labels_k, predictions_k)

A network with one output has one term of weight 1, and nothing is multiplied
or added, but for class weights: with these the loss of an example counts as
much as its class does, in training and where anything is learned from the
search split. Whatever asks for the loss of examples asks here. A loss that has
further axes, as one number for each pixel, is its mean over them, so that the
mean over examples is what `evaluate` says. For the same reason a loss is given
labels and predictions in its own dtype, as Keras gives them.
"""

import math

import keras
from keras import ops

from keras_dha import data
from keras_dha.hyperparameters import training_loss

# The reductions that are the mean of the losses: training takes it of examples.
_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


@keras.saving.register_keras_serializable("keras_dha")
class OutputLosses:
    """The losses of all outputs of a network.

    Args:
        losses: List of `keras.losses.Loss`, one for each output, in the order
            of `network.outputs`.
        weights: List of floats, theirs; `None` for 1 each.
        class_weight: List of floats, the weight of each class of the one
            output; `None` for 1 each. `evaluate` has none, as Keras'.

    Raises:
        ValueError: A loss with another reduction than the mean, or the mean
            of some examples only.

    Example:

    >>> losses = OutputLosses([coarse_loss, fine_loss], [0.3, 1.0])
    >>> losses.call([coarse, fine], network(images))  # shape (n,)
    """

    def __init__(self, losses, weights=None, class_weight=None):
        self.losses = list(losses)
        self.class_weight = class_weight
        self.weights = [1.0] * len(self.losses)
        if weights is not None:
            self.weights = [float(weight) for weight in weights]
        if len(self.weights) != len(self.losses):
            raise ValueError(
                "`weights` must have one for each loss. Received: "
                f"{len(self.losses)} losses, weights={weights}"
            )
        for loss in self.losses:
            _check_mean(loss)

    @classmethod
    def of(cls, loss):
        """Returns the losses of a network with one output and this loss."""
        return loss if isinstance(loss, cls) else cls([loss])

    def call(self, labels, predictions):
        """Returns the loss of each example, shape `(n,)`.

        Args:
            labels, predictions: Those of one output, or a structure of those
                of all outputs.
        """
        return self._summed(labels, predictions, lambda loss, *a: loss.call(*a))

    def smoothed(self, labels, predictions, strength):
        """Returns the same with label smoothing of each output.

        Args:
            labels, predictions: As for `call`.
            strength: Scalar in [0, 1), or `None` for the plain loss.
        """
        return self._summed(
            labels,
            predictions,
            lambda *a: training_loss.smoothed(*a, strength),
        )

    def _summed(self, labels, predictions, each):
        labels = keras.tree.flatten(labels)
        predictions = keras.tree.flatten(predictions)
        total = None
        for loss, weight, truth, given in zip(
            self.losses, self.weights, labels, predictions, strict=True
        ):
            cast = _in_dtype_of(loss, truth, given)
            found = _of_examples(each(loss, *cast), given, loss)
            found = self.by_class(found, truth)
            if weight != 1.0:
                found = ops.cast(weight, found.dtype) * found
            total = found if total is None else total + found
        return total

    def by_class(self, found, labels):
        """Returns numbers of examples times the weights of their classes.

        Args:
            found: Tensor `(n,)`, floats.
            labels: Those of the one output; several have no such weights.
        """
        if self.class_weight is None:
            return found
        weights = ops.convert_to_tensor(self.class_weight, found.dtype)
        classes = data.class_ids(ops.convert_to_tensor(labels))
        return found * ops.take(weights, classes)

    @property
    def are_cross_entropies(self):
        """Whether all outputs have a cross-entropy."""
        return all(
            isinstance(loss, training_loss.CROSS_ENTROPIES)
            for loss in self.losses
        )

    def check_smoothing(self):
        """Refuses label smoothing if a loss has no label distribution."""
        for loss in self.losses:
            training_loss.check_smoothing(loss)

    def of_guessing(self, num_classes):
        """Returns the loss of equal probabilities; infinite if not known.

        With class weights the most that it may be.

        Args:
            num_classes: List of integers, those of each output.
        """
        if not self.are_cross_entropies:
            return math.inf
        guessing = sum(
            weight * math.log(number)
            for weight, number in zip(self.weights, num_classes, strict=True)
        )
        # How many there are of each class is not known here.
        return guessing * max(self.class_weight or [1.0])

    def compile_arguments(self, outputs):
        """Returns the same as `keras.Model.compile` takes it, a dict.

        Args:
            outputs: `form.Ports` of the network's outputs.
        """
        if len(self.losses) == 1 and self.weights == [1.0]:
            return {"loss": outputs.packed(self.losses, list)}
        return {
            "loss": outputs.packed(self.losses, list),
            "loss_weights": outputs.packed(self.weights, list),
        }

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
        serialize = keras.saving.serialize_keras_object
        return {
            "losses": [serialize(loss) for loss in self.losses],
            "weights": self.weights,
            "class_weight": self.class_weight,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the losses that `get_config` described."""
        read = keras.saving.deserialize_keras_object
        losses = [read(loss) for loss in config["losses"]]
        return cls(losses, config["weights"], config["class_weight"])


def _check_mean(loss):
    """Refuses a loss that `evaluate` would not take the mean of."""
    if loss.reduction not in _MEANS:
        raise ValueError(
            "Training takes the mean of the losses of examples, so the "
            f"`reduction` of a loss must be one of {_MEANS}; for another scale "
            "use `loss_weights`. "
            f"Received: {type(loss).__name__} with reduction={loss.reduction!r}"
        )
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        raise ValueError(
            "`ignore_class` of a loss is not honoured: the mean would be of "
            "other examples in each batch. Leave these examples out. "
            f"Received: {type(loss).__name__} with ignore_class={ignored}"
        )


def _in_dtype_of(loss, labels, predictions):
    """Returns labels and predictions as `loss.__call__` hands them to `call`.

    But predictions in float64 stay, and labels follow them; and class numbers
    stay integers where that is what the loss makes of them.
    """
    predictions = ops.convert_to_tensor(predictions)
    dtype = keras.backend.standardize_dtype(predictions.dtype)
    if dtype != "float64":
        dtype = loss.dtype
    predictions = ops.cast(predictions, dtype)
    labels = ops.convert_to_tensor(labels)
    if not (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        and "int" in keras.backend.standardize_dtype(labels.dtype)
    ):
        labels = ops.cast(labels, dtype)
    return labels, predictions


def _of_examples(losses, predictions, loss):
    """Returns losses as one for each example, `(n,)`.

    Args:
        losses: Tensor that `loss.call` returned.
        predictions: Tensor that it was given, `(n, ...)`.
        loss: `keras.losses.Loss`.
    """
    shape, count = tuple(losses.shape), predictions.shape[0]
    if not shape or (None not in (shape[0], count) and shape[0] != count):
        raise ValueError(
            "The `call` of a loss must return one number for each example, "
            "`(n,)` or `(n, ...)`, which training takes the mean of: take no "
            "sum or mean over the first axis. Received: shape "
            f"{shape} from {type(loss).__name__} for predictions of shape "
            f"{tuple(predictions.shape)}"
        )
    if len(shape) == 1:
        return losses
    return ops.mean(losses, axis=tuple(range(1, len(shape))))
