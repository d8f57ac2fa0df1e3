"""The inner pass: what one training batch says of the weights.

    x~         = augment(x_T; p), mixed              sampled for each image
    g, g_a     = grad_{w,a} mean_i L_i(w, a, h; x~_i)         one backward

and what an inner step is made from. The step that is taken and a temporary
one, which is not, have it in common.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from keras_dha import form
from keras_dha import pairing
from keras_dha.hyperparameters import own
from keras_dha.hyperparameters import training_loss
from keras_dha.hyperparameters.quantities import LABEL_SMOOTHING
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs

# What the seed of a step is for; each use has draws of its own.
PATHS, CHOICES, TRANSFORMS, MIXING, VALUES, TEMPORARY = range(6)


class Pass(NamedTuple):
    """The result of an inner pass on this replica's share of a batch.

    Attributes:
        choices: What was drawn for the images, or `None` without a policy.
        inputs: The images as the network saw them.
        share: How much of each label is its partner's, or `None`.
        predictions: Of the network.
        losses: L_i, shape `(n,)`.
        loss: Scalar, this replica's part of the mean loss.
        gradient: This replica's part of g, shape `(P,)`.
        credit: This replica's part of g_a, shape `(A,)`.
    """

    choices: object
    inputs: object
    share: object
    predictions: object
    losses: object
    loss: object
    gradient: object
    credit: object


def sample(model, seed, explores):
    """Draws a path, and values of the hyperparameters that are sampled.

    Args:
        model: `keras_dha.joint_model.JointModel`.
        seed: int32 tensor of shape `(2,)`.
        explores: Boolean scalar, whether values are sampled; else they are
            what is expected of them.
    """

    def uniform(use, index, shape):
        return tf.random.stateless_uniform(
            shape, fold(seed, use, index), minval=1e-6
        )

    model.architecture.sample(lambda k, size: uniform(PATHS, k, [size]))
    model.hyperparameters.sample(
        lambda shape: uniform(VALUES, 0, shape), explores
    )


def run(
    model,
    weights,
    batch,
    seed,
    values,
    factors=None,
    moves=True,
    once=False,
    along=False,
):
    """Returns the `Pass` of a batch, along the path that was sampled.

    Args:
        model: `keras_dha.joint_model.JointModel`.
        weights: w, shape `(P,)`, where the gradient is taken.
        batch: Pair (images, labels), this replica's share; of several inputs
            or outputs each in the form of the network.
        seed: int32 tensor of shape `(2,)`.
        values: Dict of what acts through the training loss.
        factors: `(n,)`, unit factors of the losses, or `None`.
        moves: Whether normalisation statistics and seeds move.
        once: Whether nothing differentiates this pass again,
        along: but by what comes in from above, as the factors do.
    """
    images, labels = batch
    if factors is None:
        factors = unit_factors(model, batch)
    choices, inputs, share = _augment(model, images, seed)
    if MIXUP in values:
        inputs, share = _mix_up(values[MIXUP], inputs, seed)
        inputs = model.fitted(inputs)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    parameters = model.architecture.parameters()
    pieces = model.weight_vector.pieces(weights)
    with tf.GradientTape() as tape:
        tape.watch(pieces)
        with (
            own.given(values) as used,
            model.weight_vector.given(pieces, moves, once, along),
        ):
            predictions = model.network(inputs, training=True)
            losses = pairing.mixed_losses(
                lambda truth: model.loss_object.smoothed(
                    truth,
                    predictions,
                    values.get(LABEL_SMOOTHING),
                ),
                labels,
                share,
            )
            penalties = model.network.losses
        losses = tf.cast(losses, factors.dtype)
        loss = tf.reduce_sum(factors * losses)
        loss = loss / tf.cast(tf.size(losses) * replicas, loss.dtype)
        if penalties:
            loss += _total(penalties, loss.dtype) / replicas
    model.hyperparameters.check_used(used)
    gradients = tape.gradient(
        loss,
        pieces + parameters,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    credit = gradients[len(pieces) :] or [tf.zeros([0])]
    gradient = model.weight_vector.join(gradients[: len(pieces)])
    return Pass(
        *(choices, inputs, share, predictions, losses, loss),
        gradient=gradient,
        credit=tf.cast(tf.concat(credit, axis=0), gradient.dtype),
    )


def _total(penalties, dtype):
    """Returns the sum of penalties, as Keras takes it: all they hold."""
    return tf.add_n(
        [
            tf.cast(p if p.shape.rank == 0 else tf.reduce_sum(p), dtype)
            for p in map(tf.convert_to_tensor, penalties)
        ]
    )


def unit_factors(model, batch):
    """Returns factors of 1 for the losses of a batch, `(n,)`."""
    first = keras.tree.flatten(batch[0])[0]
    return tf.ones(tf.shape(first)[:1], model.weight_vector.dtype)


def _augment(model, images, seed):
    context = tf.distribute.get_replica_context()
    return model.augment(
        images,
        (fold(seed, CHOICES, 0), fold(seed, TRANSFORMS, 0)),
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
    )


def _mix_up(strength, images, seed):
    """Returns mixed images and the share of each one's partner."""
    context = tf.distribute.get_replica_context()
    share = training_loss.draw_shares(
        strength,
        form.count(images),
        fold(seed, MIXING, 0),
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
    )
    return pairing.blended(images, share), share


def step_from(model, weights, gradient, schedule, count):
    """Returns the rule's `Inputs` and `Extent` of a step from here.

    Args:
        model: `keras_dha.joint_model.JointModel`.
        weights: w, shape `(P,)`.
        gradient: g of all replicas, shape `(P,)`.
        schedule: Scalar, the base schedule's factor of the rate.
        count: Scalar, number of the step, from 1.
    """
    hyperparameters, vector = model.hyperparameters, model.weight_vector
    at = Inputs(
        weights,
        # Tensors: a variable would be read after the step has changed it.
        tuple(tf.convert_to_tensor(slot) for slot in model.slots),
        gradient,
        schedule * hyperparameters.value("learning_rate"),
        hyperparameters.value("weight_decay"),
        hyperparameters.value("momentum"),
    )
    active = vector.active()
    extent = Extent(
        tf.ones_like(at.weights) if model.rule.decays_all else vector.decayed(),
        active,
        vector.sizes,
        tf.convert_to_tensor(count),
        _counts(model, active),
    )
    return at, extent


def _counts(model, active):
    """Returns the number of each weight's steps with this one, or `None`."""
    if not model.counts.shape[0]:
        return None
    before = tf.convert_to_tensor(model.counts)
    return before + (1.0 if active is None else tf.cast(active, before.dtype))


def taken(model, at, extent):
    """Returns the rule's `Step`, its weights within their constraints.

    Derivatives of a step are those of the rule alone: what a constraint does
    to weights is not followed by tangents, nor by what is learned through the
    loss.

    Args:
        model: `keras_dha.joint_model.JointModel`.
        at, extent: As `step_from` returns them.
    """
    step = model.rule.step(at, extent)
    weights = model.weight_vector.constrained(step.weights, extent.active)
    return step._replace(weights=weights)


def predictions_at(model, images, pieces, once=False, credits=False):
    """Returns the predictions to judge by, at weights other than its own.

    Layers act as in training, for the statistics of the batch. So do stock
    layers that act in training only, as Dropout; `keras_dha.Dropout` does not.

    Args:
        model: `keras_dha.joint_model.JointModel`; nothing of it moves:
            what a loss needs of statistics it computes from its own batch.
        images: Tensor.
        pieces: List of tensors, `WeightVector.pieces` of the weights.
        once: Whether they will be differentiated by the pieces, once,
        credits: and by the architecture.
    """
    with (
        own.judging(),
        model.weight_vector.given(pieces, once=once, credits=credits),
    ):
        return model.network(images, training=True)


def fold(seed, use, index):
    """Returns the seed of one use of a step's seed."""
    return tf.random.experimental.stateless_fold_in(
        tf.random.experimental.stateless_fold_in(seed, use), index
    )


def sum_over_replicas(tensors):
    """Returns the sum of a tensor, or of each of a list, over all replicas."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        # TensorFlow never forgets the gradient of an `all_reduce`, nor its
        # graph (`keras_dha.architecture.custom_gradient`).
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
