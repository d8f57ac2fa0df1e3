"""The joint model: a network and everything that is learned beside it.

Its step is `keras_dha.joint_step`, and how another one takes its place
`keras_dha.carried_over`; this is what a step moves, and how it is saved.
"""

import keras

from keras_dha import sharing
from keras_dha import small_images
from keras_dha.architecture import shared_graph
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import check_places
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.architecture.searchable import check_names
from keras_dha.augmentation.learned import LearnedPolicy
from keras_dha.data_spec import image_among
from keras_dha.form import Form
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.quantities import LABEL_SMOOTHING
from keras_dha.joint_step import joint_step
from keras_dha.losses import OutputLosses
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import trains_normalisation
from keras_dha.reward import Reward
from keras_dha.update_rules import SGD
from keras_dha.weight_vector import WeightVector


@keras.saving.register_keras_serializable("keras_dha")
class JointModel(keras.Model):
    """A network in training, with everything that is learned beside it.

    Args:
        network: A built functional or Sequential `keras.Model`, with or
            without `keras_dha.Choice` layers.
        loss: A `keras.losses.Loss`, or the `losses.OutputLosses` of all
            outputs.
        metrics: Metrics, as `keras.Model.compile` takes them.
        strategy: Architecture strategy; `None` leaves decisions alone.
        augmentation: Built `keras_dha.DifferentiableAugmentation` or `None`.
        hyperparameters: `hyperparameters.engine.Engine`; `None` for fixed
            defaults.
        rule: `inner_update.UpdateRule`; `None` for SGD with momentum.
        policy_rate: Float, step size of Adam on the policy's logits, where
            its estimator has no step of its own.
        step_share: Float in (0, 1], how much of such a step each outer step
            takes (`keras_dha.outer_steps.share_of_step`).
        refinement: Float, the last share of its runs, over which augmentation
            fades out and nothing but weights is learned.
        seed: Integer; all draws follow from it and the step.
        target: `architecture.target.Target` for the derived network, or
            `None`.
        owner: JSON-able dict that is saved along, for whoever trains this.
        paths: List of the weights' paths, by which groups of layers know
            them; by default those that they have. Candidates that are loaded,
            or left over, have another path than those that a choice built.
        counts_each: Whether weights differ in how many steps they took part
            in; by default if there are choices.
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
        rule=None,
        policy_rate=0.06,
        step_share=1.0,
        refinement=0.0,
        seed=0,
        target=None,
        owner=None,
        paths=None,
        counts_each=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_precision(network)
        check_names(network)
        check_places(network)
        self.owner = owner
        self.refinement = refinement
        self.network = network
        # Whether it is shown small images.
        self.is_shrunk = small_images.is_shrunk(network)
        self.form = Form.of(network)
        self.loss_object = OutputLosses.of(loss)
        self.metric_list = metrics or []
        self.architecture = LearnedArchitecture(
            find_decisions(network), strategy, seed, target
        )
        shared_graph.mark(find_layers(network, SearchableLayer))
        self.target = target
        if target is not None and target.reached is None:
            target.attach(network)
        self.hyperparameters = hyperparameters or LearnedHyperparameters()
        self.seed = seed
        self.weight_vector = WeightVector(network)
        if LABEL_SMOOTHING in self.hyperparameters.quantities:
            self.loss_object.check_smoothing()
        horizon = self.hyperparameters.horizon
        if self.architecture.decisions and horizon.needs_hessian:
            # TensorFlow cannot be relied on to differentiate the branches of
            # a choice that often: some graphs come out with a cycle.
            raise ValueError(
                "A horizon with Hessian products needs a network without "
                "choices: use horizon='discounted', or strategy=None. "
                f"Received: horizon={horizon}"
            )
        self.rule = rule or SGD()
        self.reward = Reward(
            _reward_of(self.architecture, self.hyperparameters),
            self.weight_vector.dtype,
        )
        self.policy = LearnedPolicy(
            augmentation,
            policy_rate,
            step_share,
            self.weight_vector.size,
            self.weight_vector.dtype,
            network.outputs[0].shape[-1],
            horizon.averaging,
        )
        vector = self.weight_vector
        self.paths = paths or [v.path for v in vector.variables]
        self.hyperparameters.allocate(
            self.rule,
            vector.sizes,
            self.paths,
            vector.dtype,
            expects_normalised=trains_normalisation(network),
            # Keras' L2 is l |w|^2; regularizers of other kinds have no `l2`.
            penalties=[
                2.0 * float(getattr(v.regularizer, "l2", 0.0))
                for v in vector.variables
            ],
        )
        for averaged in self.averages():
            averaged.assign(vector.read())
        self.step = self._zeros("step", (), "int32")
        self.count = self._zeros("count", (), vector.dtype)
        if counts_each is None:
            counts_each = bool(self.architecture.decisions)
        self.counts_each = counts_each
        # How many steps each weight took part in, if the rule goes by that.
        size = vector.size if self.counts_each and self.rule.counts else 0
        self.counts = self._zeros("counts", (size,), vector.dtype)
        self.slots = [
            self._zeros(name, (vector.size,), vector.dtype)
            for name in self.rule.slots
        ]
        # For `evaluate` and `predict`; the optimizer is never used, but Keras
        # has none that needs no state.
        network.compile(
            "sgd",
            metrics=self.metric_list,
            jit_compile=False,
            **self.loss_object.compile_arguments(self.form.outputs),
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
        return (
            self.learns_through_average
            or self.learns_by_reward
            or self.architecture.is_bilevel
        )

    @property
    def shares_average(self):
        """Whether policy and hyperparameters are judged at the same weights."""
        learned = self.hyperparameters
        horizon = learned.horizon
        same = self.policy.averaging == horizon.averaging and not horizon.window
        return bool(learned.by_gradient) and same

    @property
    def takes_turns(self):
        """Whether an outer step has either's search gradient, by turns."""
        is_both = self.hyperparameters.by_gradient and self.policy.is_learned
        return bool(is_both) and not self.shares_average

    @property
    def learns_through_average(self):
        """Whether the search gradient at averaged weights is of use."""
        by_gradient = bool(self.hyperparameters.by_gradient)
        return by_gradient or self.policy.is_learned

    @property
    def learns_by_reward(self):
        """Whether the reward of temporary weights is of use."""
        by_reward = bool(self.hyperparameters.by_reward)
        return by_reward or self.architecture.is_rewarded

    def augment(self, inputs, seeds, replica=0, replicas=1):
        """Augments the one input that is an image, as the policy draws.

        Args:
            inputs: Tensor, or a structure of one for each input.
            seeds, replica, replicas: As `LearnedPolicy.augment` takes them.

        Returns:
            (choices, inputs, share) as that method does, with all inputs.
        """
        if self.policy.augmentation is None:
            return None, inputs, None
        parts = keras.tree.flatten(inputs)
        number = image_among([x.shape[1:] for x in self.network.inputs])
        choices, parts[number], share = self.policy.augment(
            parts[number], seeds, replica, replicas
        )
        inputs = keras.tree.pack_sequence_as(inputs, parts)
        return choices, self.fitted(inputs), share

    def fitted(self, inputs):
        """Returns inputs of the network, rounded where it takes integers.

        Keras casts what a network is called on, which would cut off what is
        between two integers.

        Args:
            inputs: Tensor, or a structure of one for each input.
        """
        parts = [
            keras.ops.round(part)
            if part.dtype.is_floating and "float" not in wanted.dtype
            else part
            for part, wanted in zip(
                keras.tree.flatten(inputs), self.network.inputs, strict=True
            )
        ]
        return keras.tree.pack_sequence_as(inputs, parts)

    def build_metrics(self, labels):
        """Lets metrics create their variables; they are to be reset."""
        count = keras.tree.flatten(labels)[0].shape[0]
        found = [
            keras.ops.zeros([count, *tensor.shape[1:]])
            for tensor in self.network.outputs
        ]
        self.update_metrics(None, labels, self.form.outputs.packed(found, list))

    def update_metrics(self, inputs, labels, predictions):
        """Counts a batch in the network's metrics.

        The losses of several outputs are metrics as well.
        """
        network = self.network
        network.compute_metrics(inputs, labels, predictions)
        if len(network.outputs) > 1:
            network.compute_loss(inputs, labels, predictions)

    def train_step(self, batch, schedule, search_batch=None):
        """Takes a step in replica context; see `joint_step.joint_step`."""
        return joint_step(self, batch, schedule, search_batch)

    def averages(self):
        """Returns the averages of the weights that search losses are of."""
        if not self.policy.is_learned:
            return [self.hyperparameters.averaged]
        return [self.hyperparameters.averaged, self.policy.averaged]

    def state_variables(self):
        """Returns the variables that another joint model takes over."""
        return [
            self.step,
            self.count,
            self.counts,
            *self.slots,
            self.reward.average,
            self.reward.count,
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
            "network": sharing.serialized(self.network),
            "loss": serialize(self.loss_object),
            "metrics": serialize(self.metric_list),
            "strategy": serialize(self.architecture.strategy),
            "augmentation": serialize(self.policy.augmentation),
            "hyperparameters": serialize(self.hyperparameters),
            "rule": serialize(self.rule),
            "policy_rate": self.policy.rate,
            "step_share": self.policy.step_share,
            "refinement": self.refinement,
            "seed": self.seed,
            "target": serialize(self.target),
            "owner": self.owner,
            "paths": self.paths,
            "counts_each": self.counts_each,
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
            "target",
            "rule",
        ):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _check_precision(network):
    """Refuses layers whose gradients would need a scaled loss."""
    halves = [
        layer.name
        for layer in find_layers(network, keras.layers.Layer)
        if layer.compute_dtype == "float16"
        and not isinstance(layer, keras.layers.InputLayer)
    ]
    if halves:
        raise ValueError(
            "Layers that compute in float16 need a scaled loss, which there "
            'is not here; use the dtype policy "mixed_bfloat16", or '
            f"float32. Received: layers {halves[:5]} with float16"
        )


def _reward_of(architecture, hyperparameters):
    """Returns the kind of the one reward that a temporary step has."""
    kinds = set()
    if architecture.is_rewarded:
        kinds.add(architecture.strategy.reward)
    if hyperparameters.by_reward:
        kinds.add(hyperparameters.reward)
    if len(kinds) > 1:
        raise ValueError(
            "One sample has one reward: give the strategy and `AutoHAS` the "
            f"same `reward`. Received: {architecture.strategy.reward!r} and "
            f"{hyperparameters.reward!r}"
        )
    return kinds.pop() if kinds else "accuracy"
