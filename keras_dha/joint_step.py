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
       h_loss      moved along <v, d(grad_w L)/dh> exact mixed derivative
    8  a           moved along d/da L_S(w'(a), a), for two-level strategies,
                   which do not use g_a     `keras_dha.architecture.bilevel`

One search gradient v serves every outer quantity; the policy takes an average
of it over outer steps, vbar. Where the images x~ have a derivative by p, 7 may
follow that of sum_i r_i instead (`keras_dha.augmentation.estimators`).

The influences of a whole batch are one derivative of the backward pass of
step 2: with unit factors m_i on the losses, g(m) = sum_i m_i grad L_i is
linear in m, and d<g(m), vbar>/dm_i = r_i, without a second forward pass. The
same derivative by what acts through the training loss is that of h_loss, and
by w a product with the Hessian, for horizons that need it
(`keras_dha.outer_tape`).
"""

import keras
import tensorflow as tf

from keras_dha import outer_tape
from keras_dha import pairing
from keras_dha.hyperparameters import own
from keras_dha.hyperparameters import training_loss
from keras_dha.hyperparameters.hypergradient import implicit_vector
from keras_dha.hyperparameters.quantities import LABEL_SMOOTHING
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs

# What the seed of a step is for; each use has draws of its own.
_PATHS, _CHOICES, _TRANSFORMS, _MIXUP = range(4)


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
    values = model.hyperparameters.in_loss()
    factors = tf.ones(tf.shape(images)[:1], model.weight_vector.dtype)
    outer = _outer_tape(model, factors, values, search_batch is not None)
    with outer.recording():
        choices, inputs, share = _augment(model, images, seed)
        if MIXUP in values:
            inputs, share = _mix_up(values[MIXUP], inputs, seed)
        losses, loss, gradient, credit = _gradients(
            model, inputs, labels, factors, values, share
        )
    outer.gradient = gradient
    credit = tf.cast(credit, gradient.dtype)
    total = _sum_over_replicas(tf.concat([gradient, credit, [loss]], axis=0))
    size = model.weight_vector.size
    at, extent = _update_weights(model, total[:size], schedule, outer)
    if not model.architecture.is_bilevel:
        model.architecture.update(total[size:-1])
    elif search_batch is not None:
        model.architecture.update(
            _architecture_gradient(model, search_batch, outer, at, extent)
        )
    if search_batch is not None and model.learns_through_average:
        direction = search_gradient(model, search_batch)
        _update_hyperparameters(
            model, direction, outer, at, extent, values, share
        )
        if model.policy.is_learned:
            vector = model.rule.pullback(at, direction, extent)
            influence, path = outer.along(
                model.policy.smoothed(vector),
                outer_tape.FACTORS,
                outer_tape.PATH,
            )
            model.policy.update(
                *(choices, influence, labels, losses, path),
                *(_fold(seed, _CHOICES, 0), _sum_over_replicas),
            )
    model.step.assign_add(1)
    return total[-1]


def _outer_tape(model, factors, values, is_outer):
    """Returns the tape of what this step's gradient is differentiated by."""
    learned, architecture = model.hyperparameters, model.architecture
    sources, times = {}, 0
    if is_outer and learned.learned_in_loss:
        sources |= {name: values[name] for name in learned.learned_in_loss}
        times += 1
    if is_outer and MIXUP in learned.learned:
        sources[outer_tape.FACTORS] = factors
        times += 1
    if is_outer and model.policy.is_learned:
        sources[outer_tape.FACTORS] = factors
        sources[outer_tape.PATH] = model.policy.path()
        times += 1
    if is_outer and architecture.is_second_order:
        sources[outer_tape.ARCHITECTURE] = architecture.parameters()
        times += 1
    horizon = learned.horizon
    if learned.learned and (horizon.restart or (horizon.terms and is_outer)):
        sources[outer_tape.WEIGHTS] = model.weight_vector.tensors()
        times += 2  # or more
    return outer_tape.OuterTape(sources, model.network, times)


def _gradients(model, inputs, labels, factors, values, share):
    """Returns L_i, and this replica's part of loss, g and g_a (flat vectors).

    `share` is how much of each label is its partner's, `None` for nothing.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    parameters = model.architecture.parameters()
    weights = model.weight_vector.tensors()
    with tf.GradientTape() as tape:
        with own.given(values) as used:
            predictions = model.network(inputs, training=True)
            losses = pairing.mixed_losses(
                lambda truth: training_loss.smoothed(
                    model.loss_object,
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
            penalty = tf.add_n(penalties) / replicas
            loss += tf.cast(penalty, loss.dtype)
    model.hyperparameters.check_used(used)
    gradients = tape.gradient(
        loss,
        weights + parameters,
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


def _mix_up(strength, images, seed):
    """Returns mixed images and the share of each one's partner."""
    context = tf.distribute.get_replica_context()
    share = training_loss.draw_shares(
        strength,
        images.shape[0] or tf.shape(images)[0],
        _fold(seed, _MIXUP, 0),
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
    )
    return pairing.blended(images, share), share


def _update_weights(model, gradient, schedule, outer):
    """Takes the step; returns its `Inputs` and `Extent`."""
    learned, vector, rule = (
        model.hyperparameters,
        model.weight_vector,
        model.rule,
    )
    count = model.count.assign_add(1.0)
    at = Inputs(
        vector.read(),
        # Tensors: a variable would be read after the step has changed it.
        tuple(tf.convert_to_tensor(slot) for slot in model.slots),
        gradient,
        schedule * learned.value("learning_rate"),
        learned.value("weight_decay"),
        learned.value("momentum"),
    )
    decayed = tf.constant(vector.decayed)
    extent = Extent(
        tf.ones_like(decayed) if rule.decays_all else decayed,
        vector.active(),
        vector.sizes,
        tf.convert_to_tensor(count),
    )
    step = rule.step(at, extent)
    if model.learns_through_average:
        learned.advance(
            at, extent, step, schedule, lambda u: _curvature(model, outer, u)
        )
    vector.write(step.weights)
    for slot, value in zip(model.slots, step.slots, strict=True):
        slot.assign(value)
    return at, extent


def _curvature(model, outer, vector):
    """Returns the training loss' Hessian times a vector, `(P,)`."""
    (parts,) = outer.along(vector, outer_tape.WEIGHTS)
    return _sum_over_replicas(model.weight_vector.join(parts))


def _update_hyperparameters(model, direction, outer, at, extent, values, share):
    """Moves the hyperparameters along the search gradient `direction`."""
    learned = model.hyperparameters
    if not learned.learned:
        return
    # What v is to g: through the update rule, or as the optimum moves.
    vector = model.rule.pullback(at, direction, extent)
    if learned.horizon.terms:
        direction = vector = implicit_vector(
            direction,
            lambda u: (
                _curvature(model, outer, u)
                + at.weight_decay * extent.decayed * u
            ),
            tf.reduce_mean(at.learning_rate),
            learned.horizon,
        )
    names = learned.learned_in_loss
    through_loss = {
        name: -_sum_over_replicas(derivative)
        for name, derivative in zip(
            names, outer.along(vector, *names), strict=True
        )
    }
    if MIXUP in learned.learned:
        (influence,) = outer.along(vector, outer_tape.FACTORS)
        through_loss[MIXUP] = training_loss.mixup_hypergradient(
            influence, share, values[MIXUP], _sum_over_replicas
        )
    learned.update(direction, through_loss)


def search_gradient(model, batch):
    """Returns v, the search loss' gradient at the averaged weights."""
    weights = model.hyperparameters.averaged.value
    gradients = _search_gradients(model, batch, weights, [])
    return _sum_over_replicas(model.weight_vector.join(gradients))


def _architecture_gradient(model, batch, outer, at, extent):
    """Returns d/da L_S(w'(a), a), at the weights w' after the inner step."""
    parameters = model.architecture.parameters()
    weights = model.weight_vector.read()
    gradients = _search_gradients(model, batch, weights, parameters)
    count = len(gradients) - len(parameters)
    derivative = tf.concat(gradients[count:], axis=0)
    if model.architecture.is_second_order:
        direction = model.weight_vector.join(gradients[:count])
        direction = at.learning_rate * _sum_over_replicas(direction)
        (mixed,) = outer.along(
            model.rule.pullback(at, direction, extent),
            outer_tape.ARCHITECTURE,
        )
        derivative -= tf.concat(mixed, axis=0)
    return _sum_over_replicas(derivative)


def _search_gradients(model, batch, weights, parameters):
    """Returns this replica's gradients of L_S at some weights, a list."""
    images, labels = batch
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    values = model.weight_vector.split(weights)
    mapping = list(zip(model.weight_vector.variables, values, strict=True))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([*values, *parameters])
        with _ReadOnly(state_mapping=mapping):
            predictions = model.network(images, training=True)
        # Outside of `own.given`: what judges has the defaults.
        losses = model.loss_object.call(labels, predictions)
        loss = tf.reduce_mean(losses) / replicas
    return tape.gradient(
        loss,
        [*values, *parameters],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


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
