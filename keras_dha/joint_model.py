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

One search gradient v serves every outer quantity. The influences of a whole
batch are one derivative of the backward pass of step 2: with unit factors
m_i on the losses, g(m) = sum_i m_i grad L_i is linear in m, and
d<g(m), v>/dm_i = r_i, without a second forward pass.
"""

import contextlib

import keras
import tensorflow as tf

from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.augmentation.learned import LearnedPolicy
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.inner_update import sgd
from keras_dha.weight_vector import WeightVector

# What the seed of a step is for; each use has draws of its own.
_PATHS, _CHOICES, _TRANSFORMS = range(3)


class _ReadOnly(keras.StatelessScope):
    """Runs a model at given weights and lets nothing of it move.

    Normalisation statistics and seeds keep their values: what the search
    loss needs of them it computes from its own batch. Keras' own scope would
    hand an update on to the next call of the layer; one made in the branch of
    a choice cannot be read outside of it.
    """

    def add_update(self, update):
        del update


@keras.saving.register_keras_serializable("keras_dha")
class JointModel(keras.Model):
    """A network in training, with everything that is learned beside it.

    Args:
        network: A built functional or Sequential `keras.Model`, with or
            without `keras_dha.Choice` layers.
        loss: A `keras.losses.Loss`.
        metrics: List of metrics, as `keras.Model.compile` takes them.
        strategy: Architecture strategy; `None` leaves decisions alone.
        augmentation: Built `keras_dha.DifferentiableAugmentation` or `None`.
        hyperparameters: `LearnedHyperparameters`; `None` for fixed defaults.
        policy_rate: Float, step size of Adam on the policy's logits.
        seed: Integer; all draws follow from it and the step.
        owner: JSON-able dict that is saved along, for whoever trains this.
        **kwargs: Base model arguments.
    """

    def __init__(
        self,
        network,
        loss,
        metrics=(),
        strategy=None,
        augmentation=None,
        hyperparameters=None,
        policy_rate=0.03,
        seed=0,
        owner=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.owner = owner
        self.network = network
        self.loss_object = loss
        self.metric_list = list(metrics)
        self.architecture = LearnedArchitecture(
            find_decisions(network), strategy
        )
        self.policy = LearnedPolicy(augmentation, policy_rate)
        self.hyperparameters = hyperparameters or LearnedHyperparameters()
        self.seed = seed
        self.weight_vector = WeightVector(network)
        if not self.hyperparameters.built:
            self.hyperparameters.build(
                self.weight_vector.size, self.weight_vector.dtype
            )
            self.hyperparameters.averaged.assign(self.weight_vector.read())
        self.step = self._zeros("step", (), "int32")
        vector = self.weight_vector
        self.velocity = self._zeros("velocity", (vector.size,), vector.dtype)
        # For `evaluate` and `predict`; the optimizer is never used, but Keras
        # has none that needs no state.
        network.compile(
            "sgd", loss=loss, metrics=list(metrics), jit_compile=False
        )
        self.built = True

    def _zeros(self, name, shape, dtype):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            dtype=dtype,
            trainable=False,
        )

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.network.compute_output_shape(input_shape)

    @property
    def needs_search_data(self):
        """Whether anything is learned from the search split."""
        return bool(self.hyperparameters.learned) or self.policy.is_learned

    def train_step(self, batch, schedule, search_batch=None):
        """One inner step and, given a search batch, one outer step.

        Runs in replica context, inside a `tf.function`.

        Args:
            batch: Pair (images, labels), this replica's share.
            schedule: float32 scalar, the base schedule's factor of the
                learning rate.
            search_batch: Pair (images, labels) of the search split, or
                `None` for a plain step.

        Returns:
            The mean training loss over all replicas, a scalar.
        """
        images, labels = batch
        seed = tf.stack([tf.constant(self.seed, "int32"), self.step.value])
        self.architecture.sample(
            lambda k, size: tf.random.stateless_uniform(
                [size], _fold(seed, _PATHS, k), minval=1e-6
            )
        )
        choices, inputs = self._augment(images, seed)
        schedule = tf.cast(schedule, self.weight_vector.dtype)
        factors = tf.ones(tf.shape(images)[:1], self.weight_vector.dtype)
        influence_tape = contextlib.nullcontext()
        if search_batch is not None and self.policy.is_learned:
            influence_tape = tf.GradientTape(watch_accessed_variables=False)
        with influence_tape as tape:
            if tape is not None:
                tape.watch(factors)
            loss, gradient, credit = self._gradients(inputs, labels, factors)
        credit = tf.cast(credit, gradient.dtype)
        total = _sum_over_replicas(
            tf.concat([gradient, credit, [loss]], axis=0)
        )
        size = self.weight_vector.size
        self._update_weights(total[:size], schedule)
        self.architecture.update(total[size:-1])
        if search_batch is not None:
            search_gradient = self._search_gradient(search_batch)
            self.hyperparameters.update(search_gradient)
            if tape is not None:
                influence = tape.gradient(
                    gradient, factors, output_gradients=search_gradient
                )
                self.policy.update(choices, influence, _sum_over_replicas)
        self.step.assign_add(1)
        return total[-1]

    def _augment(self, images, seed):
        context = tf.distribute.get_replica_context()
        return self.policy.augment(
            images,
            (_fold(seed, _CHOICES, 0), _fold(seed, _TRANSFORMS, 0)),
            context.replica_id_in_sync_group,
            context.num_replicas_in_sync,
        )

    def _gradients(self, inputs, labels, factors):
        """Returns this replica's part of loss, g and g_a (flat vectors)."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        logits = [d.logits.value for d in self.architecture.decisions]
        weights = self.weight_vector.tensors()
        with tf.GradientTape() as tape:
            predictions = self.network(inputs, training=True)
            losses = self.loss_object.call(labels, predictions)
            losses = tf.cast(losses, factors.dtype)
            loss = tf.reduce_sum(factors * losses)
            loss = loss / tf.cast(tf.size(losses) * replicas, loss.dtype)
            if self.network.losses:
                penalty = tf.add_n(self.network.losses) / replicas
                loss += tf.cast(penalty, loss.dtype)
        gradients = tape.gradient(
            loss,
            weights + logits,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        self.network.compute_metrics(inputs, labels, predictions)
        credit = gradients[len(weights) :] or [tf.zeros([0])]
        return (
            loss,
            self.weight_vector.join(gradients[: len(weights)]),
            tf.concat(credit, axis=0),
        )

    def _update_weights(self, gradient, schedule):
        learned, vector = self.hyperparameters, self.weight_vector
        weights, velocity = vector.read(), self.velocity.value
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
        if self.needs_search_data:
            learned.advance(weights, velocity, step, schedule, decayed, active)
        vector.write(step.weights)
        self.velocity.assign(step.velocity)

    def _search_gradient(self, batch):
        """Returns v, the search loss' gradient at the averaged weights."""
        images, labels = batch
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        values = self.weight_vector.split(self.hyperparameters.averaged.value)
        mapping = list(zip(self.weight_vector.variables, values, strict=True))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            with _ReadOnly(state_mapping=mapping):
                predictions = self.network(images, training=True)
            losses = self.loss_object.call(labels, predictions)
            loss = tf.reduce_mean(losses) / replicas
        gradients = tape.gradient(
            loss,
            values,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return _sum_over_replicas(self.weight_vector.join(gradients))

    def derive(self):
        """Returns the joint model of the derived plain network.

        Layers, weights, velocities, averages and all that is learned go on
        from where they are.
        """
        for decision in self.architecture.decisions:
            if not decision.is_frozen:
                decision.freeze()
        config = self.hyperparameters.get_config()
        derived = JointModel(
            derive(self.network),
            self.loss_object,
            metrics=self.metric_list,
            augmentation=self.policy.augmentation,
            hyperparameters=LearnedHyperparameters.from_config(config),
            policy_rate=self.policy.rate,
            seed=self.seed,
            name=self.name,
        )
        kept = self.weight_vector.positions_of(derived.weight_vector.variables)
        size = self.weight_vector.size
        for theirs, ours in zip(
            derived.state_variables(), self.state_variables(), strict=True
        ):
            value = keras.ops.convert_to_numpy(ours)
            theirs.assign(value[kept] if value.shape == (size,) else value)
        return derived

    def state_variables(self):
        """Returns the variables that a derived model takes over."""
        return [
            self.step,
            self.velocity,
            *self.policy.state_variables(),
            *self.hyperparameters.variables,
        ]

    def _seed_states(self):
        """Returns the states of the network's random layers, as Dropout.

        They are `variables` but no `weights`, so Keras does not save them,
        and a loaded model would draw otherwise than the one that went on.
        """
        weights = {id(v) for v in self.network.weights}
        return [v for v in self.network.variables if id(v) not in weights]

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for k, state in enumerate(self._seed_states()):
            store[f"seed_{k}"] = keras.ops.convert_to_numpy(state)

    def load_own_variables(self, store):
        for k, state in enumerate(self._seed_states()):
            state.assign(store[f"seed_{k}"])
        kept = [name for name in store.keys() if not name.startswith("seed_")]
        super().load_own_variables({name: store[name] for name in kept})

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "network": serialize(self.network),
            "loss": serialize(self.loss_object),
            "metrics": serialize(self.metric_list),
            "strategy": serialize(self.architecture.strategy),
            "augmentation": serialize(self.policy.augmentation),
            "hyperparameters": serialize(self.hyperparameters),
            "policy_rate": self.policy.rate,
            "seed": self.seed,
            "owner": self.owner,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in (
            "network",
            "loss",
            "metrics",
            "strategy",
            "augmentation",
            "hyperparameters",
        ):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _fold(seed, use, index):
    """Returns the seed of one use of a step's seed."""
    return tf.random.experimental.stateless_fold_in(
        tf.random.experimental.stateless_fold_in(seed, use), index
    )


def _sum_over_replicas(tensor):
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)
