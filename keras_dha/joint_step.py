"""The joint step: weights, architecture, policy and hyperparameters at once.

With w weights, a architecture, p policy, h hyperparameters, T a training
batch and S a batch of the search split:

    1  x~, choices = augment(x_T; p)               sampled for each image
    2  g, g_a      = grad_{w,a} mean_i L_i(w, a; x~_i)         one backward
    3  w', u       = update(w, g; h)
    every `outer_every` steps:
    4  v           = grad_w L_S(wbar, a)           clean images
    5  h           moved along <v, Zbar_h>         hypergradient
    6  r_i         = <vbar, grad_w L_i(w)>         influence of each image
    7  p           moved along mean_i r_i grad_p log p(choice_i)

One search gradient v serves every outer quantity; the policy takes an average
of it over outer steps, vbar. Where the images x~ have a derivative by p, 7 may
follow that of sum_i r_i instead (`keras_dha.augmentation.estimators`).

The influences of a whole batch are one derivative of the backward pass of
step 2: with unit factors m_i on the losses, g(m) = sum_i m_i grad L_i is
linear in m, and d<g(m), vbar>/dm_i = r_i, without a second forward pass.
"""

import contextlib

import keras
import tensorflow as tf

from keras_dha.inner_update import sgd

# What the seed of a step is for; each use has draws of its own.
_PATHS, _CHOICES, _TRANSFORMS = range(3)


def joint_step(model, batch, schedule, search_batch=None):
    """One inner step and, given a search batch, one outer step.

    Runs in replica context, inside a `tf.function`.

    Args:
        model: `keras_dha.joint_model.JointModel`, whose variables move.
        batch: Pair (images, labels), this replica's share.
        schedule: float32 scalar, the base schedule's factor of the learning
            rate.
        search_batch: Pair (images, labels) of the search split, or `None`
            for a plain step.

    Returns:
        The mean training loss over all replicas, a scalar.
    """
    images, labels = batch
    seed = tf.stack([tf.constant(model.seed, "int32"), model.step.value])
    model.architecture.sample(
        lambda k, size: tf.random.stateless_uniform(
            [size], _fold(seed, _PATHS, k), minval=1e-6
        )
    )
    schedule = tf.cast(schedule, model.weight_vector.dtype)
    factors = tf.ones(tf.shape(images)[:1], model.weight_vector.dtype)
    # What g is differentiated by: the factors, and what else is in its way.
    sources = [factors, *model.policy.path()]
    outer_tape = contextlib.nullcontext()
    if search_batch is not None and model.policy.is_learned:
        outer_tape = tf.GradientTape(watch_accessed_variables=False)
    with outer_tape as tape:
        if tape is not None:
            tape.watch(sources)
        choices, inputs, share = _augment(model, images, seed)
        losses, loss, gradient, credit = _gradients(
            model, inputs, labels, factors, share
        )
    credit = tf.cast(credit, gradient.dtype)
    total = _sum_over_replicas(tf.concat([gradient, credit, [loss]], axis=0))
    size = model.weight_vector.size
    _update_weights(model, total[:size], schedule)
    model.architecture.update(total[size:-1])
    if search_batch is not None:
        direction = search_gradient(model, search_batch)
        model.hyperparameters.update(direction)
        if tape is not None:
            influence, *path = tape.gradient(
                gradient,
                sources,
                output_gradients=model.policy.smoothed(direction),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            model.policy.update(
                *(choices, influence, losses, path),
                *(_fold(seed, _CHOICES, 0), _sum_over_replicas),
            )
    model.step.assign_add(1)
    return total[-1]


def _gradients(model, inputs, labels, factors, share):
    """Returns L_i, and this replica's part of loss, g and g_a (flat vectors).

    `share` is how much of each label is its partner's, `None` for nothing.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    logits = [d.logits.value for d in model.architecture.decisions]
    weights = model.weight_vector.tensors()
    with tf.GradientTape() as tape:
        predictions = model.network(inputs, training=True)
        losses = model.policy.losses(
            lambda truth: model.loss_object.call(truth, predictions),
            labels,
            share,
        )
        losses = tf.cast(losses, factors.dtype)
        loss = tf.reduce_sum(factors * losses)
        loss = loss / tf.cast(tf.size(losses) * replicas, loss.dtype)
        if model.network.losses:
            penalty = tf.add_n(model.network.losses) / replicas
            loss += tf.cast(penalty, loss.dtype)
    gradients = tape.gradient(
        loss,
        weights + logits,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    model.network.compute_metrics(inputs, labels, predictions)
    credit = gradients[len(weights) :] or [tf.zeros([0])]
    return (
        losses,
        loss,
        model.weight_vector.join(gradients[: len(weights)]),
        tf.concat(credit, axis=0),
    )


def _augment(model, images, seed):
    context = tf.distribute.get_replica_context()
    return model.policy.augment(
        images,
        (_fold(seed, _CHOICES, 0), _fold(seed, _TRANSFORMS, 0)),
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
    )


def _update_weights(model, gradient, schedule):
    learned, vector = model.hyperparameters, model.weight_vector
    weights, velocity = vector.read(), model.velocity.value
    decayed = tf.constant(vector.decayed)
    active = vector.active()
    step = sgd(
        weights,
        velocity,
        gradient,
        schedule * learned.value("learning_rate"),
        learned.value("weight_decay"),
        learned.value("momentum"),
        decayed,
        active,
    )
    if model.needs_search_data:
        learned.advance(weights, velocity, step, schedule, decayed, active)
    vector.write(step.weights)
    model.velocity.assign(step.velocity)


def search_gradient(model, batch):
    """Returns v, the search loss' gradient at the averaged weights."""
    images, labels = batch
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    values = model.weight_vector.split(model.hyperparameters.averaged.value)
    mapping = list(zip(model.weight_vector.variables, values, strict=True))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        with _ReadOnly(state_mapping=mapping):
            predictions = model.network(images, training=True)
        losses = model.loss_object.call(labels, predictions)
        loss = tf.reduce_mean(losses) / replicas
    gradients = tape.gradient(
        loss,
        values,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return _sum_over_replicas(model.weight_vector.join(gradients))


class _ReadOnly(keras.StatelessScope):
    """Runs a model at given weights and lets nothing of it move.

    Normalisation statistics and seeds keep their values: what the search
    loss needs of them it computes from its own batch. Keras' own scope would
    hand an update on to the next call of the layer; one made in the branch of
    a choice cannot be read outside of it.
    """

    def add_update(self, update):
        del update


def _fold(seed, use, index):
    """Returns the seed of one use of a step's seed."""
    return tf.random.experimental.stateless_fold_in(
        tf.random.experimental.stateless_fold_in(seed, use), index
    )


def _sum_over_replicas(tensor):
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)
