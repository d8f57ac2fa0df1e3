"""The policy of a run: its logits, moved along what its choices were worth.

Each outer step, or every other one where hyperparameters have those between,
gives a search gradient v_t of a small batch, whose noise is most of what one
step says about an operation. The weights it is taken at, an
average over fifty steps (over the hundred that suit a learning rate it knows
less of what images do now), hardly move between outer steps, so influences are
taken along

    vbar_t = (1 - b) sum_k b^k v_{t-k} / (1 - b^t),      r_i = <vbar_t, g_i>

which costs nothing and stands for a search batch ten times as large. Then the
rewards get a unit scale and a baseline,

    z_i = (r_i - mean r) / std r,      z_i - b_c,      b_c = S_c / (N_c + 4)

with c the class of image i, S_c and N_c the sum and the number of rewards of
its class in earlier outer steps, each step counting b times the next one. How
much there is to gain by an image depends on its class before it does on what
was done to it. The baseline knows nothing of this step's choices, so what the
rewards say of these stays unbiased, and is said with less noise. What becomes
of them is the estimator's (`keras_dha.augmentation.estimators`).

What is left of the noise moves the logits at random, over t steps of size a
by a sqrt(t). So steps shrink, a_t = a / sqrt(1 + t / 100): signal adds up as
sqrt(t), noise as sqrt(log t), and a long run does not end in a policy that
chance has made.

Nor in one that has made its choice: influences see one step ahead, where an
image that is hardly changed does best, and not what variety is worth in the
long run. So logits are drawn back to where they began, hardly at first and
more the longer the run goes on,

    theta <- theta + a_t (u - lambda_t (theta - theta_0))
    lambda_t = lambda t / (t + 200)

with u Adam's direction, of size 1 for what all steps agree on and less for
what they do not: in the end logits settle u / lambda from their start, one up
and others down, so that odds change by about exp(2 / lambda) at the most.

A network is to work on images that nothing was done to. At the end of a run,
where rates are low and it settles, fewer and fewer images may be augmented
(`refine`), after

    He et al., Data Augmentation Revisited: Rethinking the Distribution Gap
    between Clean and Augmented Data, 2019.

And in few passes over the images there is little to remember of each that a
network would have to forget; with `clean="auto"` of the layer the share of
clean images is then, in a run of N passes,

    c = max(1 - N / 20, least)

Test accuracy in per cent after 5 passes, width 16 without a search, single runs
(`AutoModel(strategy=None, seed=0).fit(x, y, epochs=5, batch_size=128)`):

                               c = least     as above     no augmentation
    Fashion-MNIST, 60,000         91.1         92.0            91.9
    CIFAR-10, 50,000              73.3         74.2
"""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_dha import data
from keras_dha.augmentation import one_graph
from keras_dha.augmentation.estimators import Evidence
from keras_dha.inner_update import AdamState
from keras_dha.inner_update import adam
from keras_dha.inner_update import average

# What the average of the weights keeps from one step to the next at the most.
AVERAGING = 0.98
# What averages keep from one outer step to the next: the b above.
SMOOTHING = 0.9
# How strongly logits are drawn to where they began in the long run, lambda
# above, and after how many outer steps half as strongly.
TO_START = 0.35
LONG_RUN = 200.0

# As many rewards of zero stand in for those of a class not seen yet.
PRIOR_COUNT = 4.0

# The least variance of rewards, in squares of their mean.
ROUNDING = 1e-6

# From so many passes on, a run has no more clean images than the least.
MANY_PASSES = 20.0

# After so many outer steps the policy's steps are down to 0.7 of the first.
STEADY = 100.0


class LearnedPolicy(keras.layers.Layer):
    """An augmentation layer in training.

    Args:
        augmentation: Built `DifferentiableAugmentation`, Q logits in all, or
            `None` for no augmentation.
        rate: Float, first step size of Adam on the logits, where the estimator
            has no step of its own.
        step_share: Float in (0, 1], how much of such a step each one takes; it
            counts as so much of one as well.
        size: Number P of the network's weights.
        weights_dtype: Name of their dtype.
        num_classes: Number C of classes.
        averaging: Float, what the average of the weights keeps in a step.
        **kwargs: Base layer arguments.

    Attributes:
        graph: `one_graph.OneGraph` of the augmentation.
    """

    def __init__(
        self,
        augmentation,
        rate,
        step_share=1.0,
        size=0,
        weights_dtype="float32",
        num_classes=1,
        averaging=AVERAGING,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.augmentation = augmentation
        self.graph = one_graph.OneGraph(augmentation)
        self.averaging = min(averaging, AVERAGING)
        self.rate = rate
        self.step_share = step_share
        learned = self.is_learned
        start = [np.ravel(v.numpy()) for v in self._logits()]
        start = np.concatenate([np.zeros([0]), *start])
        count = len(start)
        self.start = self._variable("start", start)
        self.first = self._variable("first", np.zeros([count]))
        self.second = self._variable("second", np.zeros([count]))
        self.count = self._variable("count", np.zeros([]))
        self.direction = self._variable(
            "direction", np.zeros([size if learned else 0]), weights_dtype
        )
        # Of the weights.
        self.averaged = self._variable(
            "averaged", np.zeros([size if learned else 0]), weights_dtype
        )
        # The share of images that nothing is done to, as it is now.
        clean = 0.0 if augmentation is None else augmentation.clean
        self.clean = self._variable("clean", np.array(clean))
        # N_c and S_c.
        self.credit = self._variable(
            "credit", np.zeros([num_classes if learned else 0, 2])
        )
        self._estimator_state = {}
        operations = ()
        if learned:
            operations = augmentation.active_operations
            state = augmentation.estimator.initial_state(augmentation)
            self._estimator_state = {
                name: self._variable(f"estimator_{name}", value)
                for name, value in state.items()
            }
        # Images and rewards of each operation since `statistics` was asked.
        self.seen = self._variable("seen", np.zeros([len(operations), 2]))
        self.built = True

    def _variable(self, name, value, dtype="float32"):
        return self.add_weight(
            name=name,
            shape=value.shape,
            initializer=lambda shape, dtype: tf.constant(value, dtype),
            dtype=dtype,
            trainable=False,
        )

    def refine(self, progress, passes=math.inf):
        """Sets how much less is augmented than the layer says.

        Args:
            progress: Float in [0, 1]: 0 for what the layer says, 1 for nothing.
            passes: Float, those of the network over the images, in the end.
        """
        if self.augmentation is not None:
            least = self.augmentation.clean
            if self.augmentation.fits_passes:
                least = max(least, 1.0 - passes / MANY_PASSES)
            # Not looked at first: a device would be waited for.
            self.clean.assign(least + (1.0 - least) * progress)

    @property
    def augments(self):
        """Whether anything is done to any image, as it is now."""
        return self.augmentation is not None and float(self.clean.numpy()) < 1.0

    def _logits(self):
        if self.augmentation is None:
            return []
        return self.augmentation.trainable_variables

    @property
    def is_learned(self):
        """Whether there is a policy, and it may change."""
        return bool(self._logits())

    def state_variables(self):
        """Returns the variables of the update rule."""
        return [
            *(self.start, self.first, self.second, self.count),
            *(self.direction, self.averaged, self.clean),
            *(self.credit, self.seen),
            *self._estimator_state.values(),
        ]

    def path(self):
        """Returns the variables that augmented images are differentiable by.

        Empty unless the estimator follows the path.
        """
        layer = self.augmentation
        if layer is None or not layer.estimator.follows_path:
            return []
        return [v.value for v in self._logits()]

    def augment(self, images, seeds, replica=0, replicas=1):
        """Draws for each image of this replica what happens to it, and does it.

        Args:
            images: Tensor `(n, h, w)` or `(n, h, w, c)`.
            seeds: Pair of int32 tensors of shape `(2,)`, for the policy's
                choices and for what the policy leaves open.
            replica, replicas: Which part of how many this one is.

        Returns:
            (choices, augmented images, share): `share` is how much of each
            label is its partner's (`mixing`), `None` if nothing is mixed.
            (`None`, images, `None`) without a layer.
        """
        layer = self.augmentation
        if layer is None:
            return None, images, None
        clean, learned = tf.convert_to_tensor(self.clean), self.is_learned
        # Derivatives of the images are taken where they are made.
        is_followed = learned and layer.estimator.follows_path
        if replicas > 1 or is_followed:
            return one_graph.augmented(
                *(layer, images, seeds, clean, learned, replica, replicas)
            )
        return self.graph.augmented(images, seeds, clean, learned)

    def follow(self, weights):
        """Follows one inner step with the average of the weights, `(P,)`."""
        if self.is_learned:
            averaged = self.averaged.value
            self.averaged.assign(average(averaged, weights, self.averaging))

    def has_turn(self):
        """Returns whether an outer step that comes by turns is the policy's."""
        return tf.equal(tf.math.floormod(self.count, 2.0), 0.0)

    def smoothed(self, direction, turn=None):
        """Returns vbar, the average of search gradients with this one in it.

        Args:
            direction: Search gradient of this outer step, `(P,)`.
            turn: What `has_turn` returned, where only gradients of the
                policy's own turns count; `None`: all do.
        """
        before, seen = tf.convert_to_tensor(self.direction), self.count + 1.0
        moved = average(before, direction, SMOOTHING)
        if turn is not None:
            moved, seen = tf.where(turn, moved, before), tf.math.ceil(seen / 2)
        self.direction.assign(moved)
        keep = tf.cast(SMOOTHING, moved.dtype)
        return moved / (1.0 - tf.pow(keep, tf.cast(seen, moved.dtype)))

    def update(self, choices, influence, labels, losses, path, seed, total):
        """Moves the logits towards choices that lowered the search loss.

        Args:
            choices: `Choices` of this replica's images.
            influence: Tensor `(n,)`, theirs.
            labels: Their labels, integers `(n,)`, `(n, 1)` or one-hot rows.
            losses: Tensor `(n,)`, their training losses.
            path: Derivatives of this replica's summed influence by `path()`.
            seed: The seed that `augment` drew the choices by.
            total: Function that sums a tensor over all replicas.
        """
        influence = tf.cast(influence, "float32")
        count, first, second = tf.unstack(
            total(
                tf.stack(
                    [
                        tf.cast(tf.size(influence), "float32"),
                        tf.reduce_sum(influence),
                        tf.reduce_sum(tf.square(influence)),
                    ]
                )
            )
        )
        mean = first / count
        # What is left of a difference of float32 squares may be rounding, and
        # images that are worth the same must not be told apart by it.
        variance = tf.maximum(second / count - mean**2, ROUNDING * mean**2)
        deviation = tf.sqrt(variance) + 1e-12
        context = tf.distribute.get_replica_context()
        evidence = Evidence(
            rewards=self._compared(
                (influence - mean) / deviation, labels, total
            ),
            losses=tf.cast(losses, "float32"),
            path=[
                tf.cast(tf.convert_to_tensor(p), "float32")
                / (deviation * count)
                for p in path
            ]
            or None,
            count=count,
            noise=one_graph.noise(
                seed,
                context.replica_id_in_sync_group,
                context.num_replicas_in_sync,
            ),
            total=total,
        )
        self._count_operations(choices, evidence)
        gradient, state = self.augmentation.estimator.gradient(
            self.augmentation,
            choices,
            evidence,
            {name: v.value for name, v in self._estimator_state.items()},
        )
        for name, value in state.items():
            self._estimator_state[name].assign(value)
        self._ascend(
            total(_flat(self.augmentation.distribution.used(gradient)))
        )

    def _compared(self, rewards, labels, total):
        """Returns rewards less what their classes' were, and counts them."""
        labels = data.class_ids(labels)
        count, earned = tf.unstack(tf.convert_to_tensor(self.credit), axis=1)
        baseline = earned / (count + PRIOR_COUNT)
        values = tf.stack([tf.ones_like(rewards), rewards], axis=1)
        classes = self.credit.shape[0]
        new = tf.math.unsorted_segment_sum(values, labels, classes)
        self.credit.assign(SMOOTHING * self.credit + total(new))
        return rewards - tf.gather(baseline, labels)

    def _ascend(self, gradient):
        logits, estimator = self._logits(), self.augmentation.estimator
        values, start = _flat(logits), tf.convert_to_tensor(self.start)
        step = estimator.step if estimator.has_own_step else self._step
        moved, state = step(values, start, gradient, AdamState.of(self))
        # Where weights have diverged a run goes back to those before, but may
        # take steps until it looks. No image can be made by such logits.
        moved = tf.where(tf.math.is_finite(moved), moved, values)
        state.keep_in(self)
        parts = tf.split(moved, [int(np.prod(v.shape)) for v in logits])
        for variable, part in zip(logits, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))

    def _step(self, values, start, gradient, state):
        """Takes the step at the top, as `Estimator.step` would another."""
        count = self.step_share * state.count
        rate = self.step_share * self.rate / tf.sqrt(1.0 + count / STEADY)
        moved, following = adam(values, -gradient, state, rate)
        pull = TO_START * count / (count + LONG_RUN)
        return moved - rate * pull * (values - start), following

    def _count_operations(self, choices, evidence):
        layer = self.augmentation
        operation = layer.operation_of(choices)
        rewards = tf.broadcast_to(
            evidence.rewards[:, None], tf.shape(operation)
        )
        values = tf.stack([tf.ones_like(rewards), rewards], axis=-1)
        # Steps that were left out are -1, and are not counted.
        counted = tf.math.unsorted_segment_sum(
            values, operation, len(layer.active_operations)
        )
        self.seen.assign_add(evidence.total(counted))

    def statistics(self):
        """Returns what the policy is and did since this was last asked.

        Returns:
            Dict from an operation's name to a dict: `probability` and
            `magnitude`, expected by the policy; `share`, of all operations
            that images of outer steps were given; `influence`, their mean
            reward, in deviations. Empty if no policy is learned.
        """
        if not self.is_learned:
            return {}
        images, rewards = self.seen.numpy().astype("float64").T
        self.seen.assign(tf.zeros_like(self.seen))
        usage = self.augmentation.policy().usage()
        total = max(images.sum(), 1.0)
        return {
            operation.name: {
                "probability": usage[operation.name][0],
                "magnitude": usage[operation.name][1],
                "share": float(images[k] / total),
                "influence": float(rewards[k] / max(images[k], 1.0)),
            }
            for k, operation in enumerate(self.augmentation.active_operations)
        }


def _flat(tensors):
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)
