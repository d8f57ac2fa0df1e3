"""The joint step: weights, architecture, policy and hyperparameters at once.

With w weights, a architecture, p policy, h hyperparameters, T a training
batch and S a batch of the search split:

    1  x~, choices = augment(x_T; p)               sampled for each image
    2  g, g_a      = grad_{w,a} mean_i L_i(w, a; x~_i)         one backward
    3  w', u       = update(w, g; h)           1 and 2: `keras_dha.inner_pass`
    every `outer_every` steps:
    4  v           = grad_w L_S(wbar, a)           clean images
    5  h           moved along <v, Zbar_h>         hypergradient
    6  r_i         = <vbar, grad_w L_i(w)>         influence of each image
    7  p           moved along mean_i r_i grad_p log p(choice_i)
       h_loss      moved along <v, d(grad_w L)/dh> exact mixed derivative
    8  a           moved along d/da L_S(w'(a), a), for two-level strategies,
                   which do not use g_a     `strategies.DARTS`

What is learned by reward, an architecture or hyperparameters, moves before
all of this, by a step that is not taken (`keras_dha.temporary_step`).

The policy takes v at an average wbar of its own, over fewer steps, where that
of the hyperparameters is over more, and averages it over outer steps, vbar.
With two averages they take turns, so that an outer step has one search
gradient: every other one is the policy's, which goes along vbar in those
between as well, and an update of the hyperparameters counts for two.
Where the images x~ have a derivative by p, 7 may follow that of sum_i r_i
instead (`keras_dha.augmentation.estimators`).

The influences of a whole batch are one derivative of the backward pass of
step 2: with unit factors m_i on the losses, g(m) = sum_i m_i grad L_i is
linear in m, and d<g(m), vbar>/dm_i = r_i, without a second forward pass. The
same derivative by what acts through the training loss is that of h_loss, and
by w a product with the Hessian, for horizons that need it
(`keras_dha.outer_tape`).
"""

import keras
import tensorflow as tf

from keras_dha import inner_pass
from keras_dha import outer_tape
from keras_dha import temporary_step
from keras_dha.hyperparameters import training_loss
from keras_dha.hyperparameters.hypergradient import implicit_vector
from keras_dha.hyperparameters.quantities import MIXUP
from keras_dha.inner_pass import sum_over_replicas


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
    labels = batch[1]
    seed = tf.stack([tf.constant(model.seed, "int32"), model.step.value])
    schedule = tf.cast(schedule, model.weight_vector.dtype)
    if search_batch is not None and model.learns_by_reward:
        temporary_step.learn_from_reward(
            *(model, batch, schedule, search_batch),
            inner_pass.fold(seed, inner_pass.TEMPORARY, 0),
        )
    inner_pass.sample(model, seed, model.architecture.is_moving())
    values = model.hyperparameters.in_loss()
    factors = inner_pass.unit_factors(model, batch)
    weights = model.weight_vector.read()
    outer = _outer_tape(
        model, weights, factors, values, search_batch is not None
    )
    with outer.recording():
        passed = inner_pass.run(
            *(model, weights, batch, seed, values, factors),
            once=outer.is_from_above,
            along=outer.records,
        )
    outer.gradient = passed.gradient
    model.update_metrics(passed.inputs, labels, passed.predictions)
    gradient, credit, loss = sum_over_replicas(
        [passed.gradient, passed.credit, passed.loss]
    )
    at, extent = _update_weights(model, weights, gradient, schedule, outer)
    if model.architecture.is_one_level:
        model.architecture.update(credit)
    elif model.architecture.is_bilevel and search_batch is not None:
        model.architecture.update(
            _architecture_gradient(model, search_batch, outer, at, extent)
        )
    if search_batch is not None and model.learns_through_average:
        turn = model.policy.has_turn() if model.takes_turns else None
        direction = search_gradient(
            model, search_batch, _judged_at(model, turn)
        )
        if model.hyperparameters.by_gradient:
            _update_hyperparameters(
                *(model, direction, outer, at, extent, values, passed.share),
                turn,
            )
        if model.policy.is_learned:
            policy = model.policy
            vector = _pulled_back(model, direction, at, extent)
            influence, path = outer.along(
                policy.smoothed(vector, turn),
                *(outer_tape.FACTORS, outer_tape.PATH),
            )
            # How much there is to gain is compared among its classes.
            first = keras.tree.flatten(labels)[0]
            policy.update(
                *(passed.choices, influence, first, passed.losses, path),
                inner_pass.fold(seed, inner_pass.CHOICES, 0),
                sum_over_replicas,
            )
    model.step.assign_add(1)
    return loss


def _outer_tape(model, weights, factors, values, is_outer):
    """Returns the tape of what this step's gradient is differentiated by."""
    learned, architecture = model.hyperparameters, model.architecture
    sources, times = {}, 0
    if is_outer and learned.learned_in_loss:
        sources |= {name: values[name] for name in learned.learned_in_loss}
        times += 1
    if is_outer and MIXUP in learned.by_gradient:
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
    follows_hessian = horizon.restart or (horizon.terms and is_outer)
    if learned.by_gradient and follows_hessian:
        sources[outer_tape.WEIGHTS] = weights
        times += 2  # or more
    return outer_tape.OuterTape(sources, times)


def _update_weights(model, weights, gradient, schedule, outer):
    """Takes the step; returns its `Inputs` and `Extent`."""
    at, extent = inner_pass.step_from(
        model, weights, gradient, schedule, model.count.assign_add(1.0)
    )
    step = inner_pass.taken(model, at, extent)
    if model.hyperparameters.by_gradient:
        model.hyperparameters.advance(
            at, extent, step, schedule, lambda u: _curvature(model, outer, u)
        )
    model.policy.follow(step.weights)
    model.weight_vector.write(step.weights)
    for slot, value in zip(model.slots, step.slots, strict=True):
        slot.assign(value)
    if extent.counts is not None:
        model.counts.assign(extent.counts)
    return at, extent


def _curvature(model, outer, vector):
    """Returns the training loss' Hessian times a vector, `(P,)`."""
    (product,) = outer.along(vector, outer_tape.WEIGHTS)
    return sum_over_replicas(product)


def _pulled_back(model, direction, at, extent):
    """Returns what a direction of the weights is to the gradient, `(P,)`.

    With w' = w - eta u(g), -d<v, w'>/dg is the rule's pullback of eta v. One
    rate is a scale, which nothing that is learned by this asks for. Of those
    of groups the highest counts as 1: a group that hardly moves has hardly a
    say.
    """
    rate = at.learning_rate
    if rate.shape.rank:
        direction *= tf.math.divide_no_nan(rate, tf.reduce_max(rate))
    return model.rule.pullback(at, direction, extent)


def _judged_at(model, turn):
    """Returns the averaged weights that a search gradient is taken at.

    Args:
        model: `JointModel`.
        turn: Whether it is the policy's turn, a boolean tensor; `None` where
            nobody waits for one.
    """
    policy, learned = model.policy, model.hyperparameters
    if turn is not None:
        return tf.where(turn, policy.averaged.value, learned.averaged.value)
    return (learned if learned.by_gradient else policy).averaged.value


def _update_hyperparameters(
    model, direction, outer, at, extent, values, share, turn
):
    """Moves the hyperparameters along the search gradient `direction`.

    Unless it is the policy's `turn`, as in `_judged_at`.
    """
    learned = model.hyperparameters
    # What v is to g: through the update rule, or as the optimum moves.
    vector, implicit = _pulled_back(model, direction, at, extent), None
    if learned.horizon.terms:
        vector = implicit = implicit_vector(
            direction,
            lambda u: (
                _curvature(model, outer, u)
                + at.weight_decay * extent.decayed * u
            ),
            # Of groups the lowest one: the mean is too high for some.
            tf.reduce_min(model.rule.neumann_step(at)),
            learned.horizon,
        )
    names = learned.learned_in_loss
    through_loss = {
        name: -sum_over_replicas(derivative)
        for name, derivative in zip(
            names, outer.along(vector, *names), strict=True
        )
    }
    if MIXUP in learned.by_gradient:
        (influence,) = outer.along(vector, outer_tape.FACTORS)
        through_loss[MIXUP] = training_loss.mixup_hypergradient(
            influence, share, values[MIXUP], sum_over_replicas
        )
    if turn is None:
        learned.update(direction, at, through_loss, implicit=implicit)
        return

    def update():
        learned.update(
            direction, at, through_loss, outer_steps=2, implicit=implicit
        )
        return tf.constant(True)

    # Nothing in an update is exchanged by replicas.
    tf.cond(turn, lambda: tf.constant(False), update)


def search_gradient(model, batch, weights=None):
    """Returns v, the search loss' gradient at averaged weights, `(P,)`.

    Args:
        model: `JointModel`.
        batch: Pair (images, labels) of the search split.
        weights: By default those that hyperparameters are learned at.
    """
    if weights is None:
        weights = model.hyperparameters.averaged.value
    gradients = _search_gradients(model, batch, weights, [])
    return sum_over_replicas(model.weight_vector.join(gradients))


def _architecture_gradient(model, batch, outer, at, extent):
    """Returns d/da L_S(w'(a), a), at the weights w' after the inner step."""
    parameters = model.architecture.parameters()
    weights = model.weight_vector.read()
    gradients = _search_gradients(model, batch, weights, parameters)
    count = len(gradients) - len(parameters)
    derivative = tf.concat(gradients[count:], axis=0)
    if model.architecture.is_second_order:
        direction = model.weight_vector.join(gradients[:count])
        direction = at.learning_rate * sum_over_replicas(direction)
        (mixed,) = outer.along(
            model.rule.pullback(at, direction, extent),
            outer_tape.ARCHITECTURE,
        )
        derivative -= tf.concat(mixed, axis=0)
    return sum_over_replicas(derivative)


def _search_gradients(model, batch, weights, parameters):
    """Returns this replica's gradients of L_S at some weights, a list."""
    images, labels = batch
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    pieces = model.weight_vector.pieces(weights)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch([*pieces, *parameters])
        predictions = inner_pass.predictions_at(
            *(model, images, pieces),
            once=True,
            credits=bool(parameters),
        )
        # Outside of `own.given`: what judges has the defaults.
        losses = model.loss_object.call(labels, predictions)
        loss = tf.reduce_mean(losses) / replicas
    return tape.gradient(
        loss,
        [*pieces, *parameters],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
