"""The joint step: weights, architecture, policy and hyperparameters at once.

With w weights, a architecture, p policy, h hyperparameters, T a training
batch and S a batch of the search split:

    1  x~, choices = augment(x_T; p)               sampled for each image
    2  g, g_a      = grad_{w,a} mean_i L_i(w, a; x~_i)         one backward
    3  w', u       = update(w, g; h)
    every `outer_every` steps:
    4  v           = grad_w L_S(wbar, a)           clean images
    5  h           moved along <v, Zbar_h>         hypergradient
    6  r_i         = <v, grad_w L_i(w)>            influence of each image
    7  p           moved along mean_i r_i grad_p log p(choice_i)
       h_loss      moved along <v, d(grad_w L)/dh> exact mixed derivative

One search gradient v serves every outer quantity. The influences of a whole
batch are one derivative of the backward pass of step 2: with unit factors
m_i on the losses, g(m) = sum_i m_i grad L_i is linear in m, and
d<g(m), v>/dm_i = r_i, without a second forward pass. The same derivative by
what acts through the training loss is that of h_loss, and by w a product with
the Hessian, for horizons that need it.
"""

import contextlib

import keras
import tensorflow as tf

from keras_dha.hyperparameters import own
from keras_dha.hyperparameters import training_loss
from keras_dha.hyperparameters.hypergradient import implicit_vector
from keras_dha.hyperparameters.quantities import LABEL_SMOOTHING
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs

# What the seed of a step is for; each use has draws of its own.
_PATHS, _CHOICES, _TRANSFORMS, _MIXING = range(4)


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
    choices, inputs = _augment(model, images, seed)
    schedule = tf.cast(schedule, model.weight_vector.dtype)
    values = model.hyperparameters.in_loss()
    mixing = _draw_mixing(values, images, seed)
    factors = tf.ones(tf.shape(images)[:1], model.weight_vector.dtype)
    outer = _OuterTape(model, factors, values, search_batch is not None)
    with outer.recording():
        loss, gradient, credit = _gradients(
            model, inputs, labels, factors, values, mixing
        )
    outer.gradient = gradient
    credit = tf.cast(credit, gradient.dtype)
    total = _sum_over_replicas(tf.concat([gradient, credit, [loss]], axis=0))
    size = model.weight_vector.size
    at, extent = _update_weights(model, total[:size], schedule, outer.product)
    model.architecture.update(total[size:-1])
    if search_batch is not None:
        direction = search_gradient(model, search_batch)
        influence = _update_hyperparameters(
            model, direction, outer, at, extent, values, mixing
        )
        if model.policy.is_learned:
            model.policy.update(choices, influence, _sum_over_replicas)
    model.step.assign_add(1)
    return total[-1]


class _OuterTape:
    """The tape around the backward pass: derivatives of its gradient.

    Watches only what this step is to be differentiated by, and is no tape at
    all if that is nothing.

    Args:
        model: `JointModel`.
        factors: Unit factors of the losses, `(n,)`.
        values: Dict from name to tensor, what acts through the loss.
        is_outer: Whether the step has a search batch.
    """

    def __init__(self, model, factors, values, is_outer):
        learned = model.hyperparameters
        self.gradient = None
        self._weights = model.weight_vector
        self._sources = {}
        if is_outer and (model.policy.is_learned or MIXUP in learned.learned):
            self._sources["factors"] = factors
        if is_outer:
            self._sources |= {n: values[n] for n in learned.learned_in_loss}
        horizon = learned.horizon
        self._has_product = bool(learned.learned) and bool(
            horizon.restart or (horizon.terms and is_outer)
        )
        self._tape = None

    @contextlib.contextmanager
    def recording(self):
        """Records what happens inside."""
        if not (self._sources or self._has_product):
            yield
            return
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=False
        ) as self._tape:
            self._tape.watch(list(self._sources.values()))
            if self._has_product:
                self._tape.watch(self._weights.tensors())
            yield

    def along(self, vector):
        """Returns the derivatives of <vector, g> by the sources, a dict."""
        if not self._sources:
            return {}
        return self._tape.gradient(
            self.gradient,
            self._sources,
            output_gradients=vector,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    def product(self, vector):
        """Returns the training loss' Hessian times a vector, `(P,)`."""
        parts = self._tape.gradient(
            self.gradient,
            self._weights.tensors(),
            output_gradients=vector,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return _sum_over_replicas(self._weights.join(parts))


def _gradients(model, inputs, labels, factors, values, mixing):
    """Returns this replica's part of loss, g and g_a (flat vectors)."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    logits = [d.logits.value for d in model.architecture.decisions]
    weights = model.weight_vector.tensors()
    if mixing is not None:
        inputs = training_loss.mix_images(inputs, mixing)
    with tf.GradientTape() as tape:
        with own.given(values) as used:
            predictions = model.network(inputs, training=True)
            losses = _training_losses(
                model, labels, predictions, values, mixing
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
        weights + logits,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    model.network.compute_metrics(inputs, labels, predictions)
    credit = gradients[len(weights) :] or [tf.zeros([0])]
    return (
        loss,
        model.weight_vector.join(gradients[: len(weights)]),
        tf.concat(credit, axis=0),
    )


def _training_losses(model, labels, predictions, values, mixing):
    """Returns the loss of each image, smoothed and mixed as asked for."""
    strength = values.get(LABEL_SMOOTHING)
    losses = training_loss.smoothed(
        model.loss_object, labels, predictions, strength
    )
    if mixing is None:
        return losses
    partners = training_loss.smoothed(
        model.loss_object,
        tf.gather(labels, mixing.partners),
        predictions,
        strength,
    )
    return training_loss.mix_losses(losses, partners, mixing)


def _draw_mixing(values, images, seed):
    if MIXUP not in values:
        return None
    context = tf.distribute.get_replica_context()
    return training_loss.draw_mixing(
        values[MIXUP],
        images.shape[0] or tf.shape(images)[0],
        _fold(seed, _MIXING, 0),
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
    )


def _augment(model, images, seed):
    context = tf.distribute.get_replica_context()
    return model.policy.augment(
        images,
        (_fold(seed, _CHOICES, 0), _fold(seed, _TRANSFORMS, 0)),
        context.replica_id_in_sync_group,
        context.num_replicas_in_sync,
    )


def _update_weights(model, gradient, schedule, product):
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
    if model.needs_search_data:
        learned.advance(at, extent, step, schedule, product)
    vector.write(step.weights)
    for slot, value in zip(model.slots, step.slots, strict=True):
        slot.assign(value)
    return at, extent


def _update_hyperparameters(
    model, direction, outer, at, extent, values, mixing
):
    """Moves the hyperparameters; returns the images' influences, or None."""
    learned = model.hyperparameters
    # What v is to g: through the update rule, or as the optimum moves.
    vector = model.rule.pullback(at, direction, extent)
    if learned.horizon.terms and learned.learned:
        rate = tf.reduce_mean(at.learning_rate)
        direction = vector = implicit_vector(
            direction,
            lambda u: outer.product(u) + at.weight_decay * extent.decayed * u,
            rate,
            learned.horizon,
        )
    derivatives = outer.along(vector)
    influence = derivatives.pop("factors", None)
    through_loss = {
        name: -_sum_over_replicas(value) for name, value in derivatives.items()
    }
    if MIXUP in learned.learned:
        through_loss[MIXUP] = training_loss.mixup_hypergradient(
            influence, mixing, values[MIXUP], _sum_over_replicas
        )
    learned.update(direction, through_loss)
    return influence


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
        # Outside of `own.given`: what judges has the defaults.
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
