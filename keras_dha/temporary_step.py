"""The temporary step: what a sampled architecture with sampled values is worth.

    a, h    ~ p(a; theta_a) p(h; theta_h)            one sample
    w_tmp   = update(w, grad_w L_T(w, a, h); h)      a step that is not taken
    r       = accuracy of w_tmp and a on the search split
    theta   moved along (r - baseline) grad log p    of both, by one reward

(Dong et al., "AutoHAS", arXiv 2006.03656, 2020.) w_tmp is discarded: weights,
slots, normalisation statistics and the seeds of layers are what they were, so
what is tried has no effect on what is trained.
"""

import tensorflow as tf

from keras_dha import inner_pass


def learn_from_reward(model, batch, schedule, search_batch, seed):
    """Tries a sample in a temporary step, and learns from its reward.

    Args:
        model: `keras_dha.joint_model.JointModel`; what is learned by reward
            moves, and nothing else.
        batch: Pair (images, labels), this replica's share.
        schedule: Scalar, the base schedule's factor of the learning rate.
        search_batch: Pair (images, labels) of the search split.
        seed: int32 tensor of shape `(2,)`.
    """
    inner_pass.sample(model, seed, True)
    weights = temporary_weights(model, batch, schedule, seed)
    reward = reward_at(model, weights, search_batch)
    advantage = model.reward.advantage(reward)
    model.architecture.follow_reward(advantage)
    model.hyperparameters.follow_reward(advantage)


def temporary_weights(model, batch, schedule, seed):
    """Returns the weights `(P,)` after a step with what is sampled.

    Args:
        model, batch, schedule, seed: As for `learn_from_reward`.
    """
    current = model.weight_vector.read()
    passed = inner_pass.run(
        *(model, current, batch, seed, model.hyperparameters.in_loss()),
        moves=False,
        once=True,
    )
    at, extent = inner_pass.step_from(
        model,
        current,
        inner_pass.sum_over_replicas(passed.gradient),
        schedule,
        model.count + 1.0,
    )
    return inner_pass.taken(model, at, extent).weights


def reward_at(model, weights, search_batch):
    """Returns the mean reward of all replicas' examples, a scalar.

    Args:
        model: `keras_dha.joint_model.JointModel`.
        weights: Tensor `(P,)`.
        search_batch: Pair (images, labels) of the search split.
    """
    images, labels = search_batch
    predictions = inner_pass.predictions_at(
        model, images, model.weight_vector.pieces(weights)
    )
    # Outside of `own.given`: what judges has the defaults.
    each = model.reward.of_each(model.loss_object, labels, predictions)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return inner_pass.sum_over_replicas(tf.reduce_mean(each) / replicas)
