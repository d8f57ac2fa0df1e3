"""The Keras layer that samples, applies and learns an augmentation policy.

Each image of a batch gets one operation at one magnitude level, drawn from
softmax distributions, and is perhaps flipped and shifted. Learning needs no
derivative of an image operation: with a reward for each image, the gradient
of the expected reward is `sum_i reward_i * d log p(choice_i)`, in closed form.
"""

import numbers

import keras
import numpy as np
import tensorflow as tf
from keras_cv.layers import VectorizedBaseImageAugmentationLayer

from keras_dha.augmentation import choices as distribution
from keras_dha.augmentation import dispatch
from keras_dha.augmentation.operations import find_operations
from keras_dha.augmentation.operations import fitting_operations
from keras_dha.augmentation.policy import Policy

# Inputs that would have to be moved together with the image.
_SPATIAL_KEYS = ("bounding_boxes", "keypoints", "segmentation_masks")


@keras.saving.register_keras_serializable("keras_dha")
class DifferentiableAugmentation(VectorizedBaseImageAugmentationLayer):
    """Augments each image by a policy that can be learned.

    For every image one operation and one magnitude level are drawn, then a
    horizontal flip and a random shift by up to an eighth of the size, each
    with its probability. What an operation, a flip or a shift brings in from
    outside the image is mid-grey. Only an image's own operation is computed
    for it.

    The layer augments only when called with `training=True`; in `predict`,
    `evaluate` and exported models it returns its input. Shape and dtype are
    those of the input; integers are rounded.

    It learns where something calls `score_gradient`, as the joint training
    step does. A plain `fit` leaves the policy as it is: say `trainable=False`
    there, or Keras will warn of variables without gradients.

    Args:
        operations: Names of operations out of `OPERATIONS`. None stands for
            all that fit the number of channels: Color needs three.
        levels: Number L of magnitude levels, `1/L, 2/L, ..., 1`.
        value_range: Lowest and highest pixel value of the images.
        flip: Initial probability of a horizontal flip, in (0, 1), or None to
            never flip.
        shift: Initial probability of a random shift, in (0, 1), or None to
            never shift.
        policy: A `Policy` (or its config) to start from. It takes the place
            of `operations`, `levels`, `flip` and `shift`.
        trainable: Whether the policy is to be learned.
        seed: Integer seed of `call`. `sample` and `apply` get theirs.
        **kwargs: `name` and `dtype` of the layer.

    Call arguments:
        inputs: Images, one `[h, w, c]` or a batch `[n, h, w, c]`, float or
            integer, or a dictionary with `"images"` and, passed through as
            they are, labels and other entries that do not move with the image.
        training: Whether to augment.

    Example:
    >>> layer = DifferentiableAugmentation(seed=1)
    >>> images = tf.random.uniform([4, 32, 32, 3], maxval=255.0)
    >>> layer(images, training=True).shape
    TensorShape([4, 32, 32, 3])
    >>> seeds = tf.constant([1, 2]), tf.constant([3, 4])
    >>> choices = layer.sample(4, seeds[0])
    >>> augmented = layer.apply(images, choices, seeds[1])
    >>> rewards = tf.constant([1.0, -1.0, 0.5, -0.5])
    >>> [g.shape[0] for g in layer.score_gradient(choices, rewards)]
    [16, 16, 2]

    References:
        - Zhou et al., DHA, 2021: one policy, learned jointly with the model.
        - Cubuk et al., AutoAugment, 2019: the operations.
        - Williams, REINFORCE, 1992: the gradient.
    """

    def __init__(
        self,
        operations=None,
        levels=10,
        value_range=(0, 255),
        flip=0.5,
        shift=0.5,
        policy=None,
        trainable=True,
        seed=None,
        **kwargs,
    ):
        super().__init__(trainable=trainable, **kwargs)
        # All randomness comes from `seed_generator`; the base class's own
        # generator would be a second, unseeded source in every checkpoint.
        self._random_generator = None
        # The warp kernel and the ragged split by choice have no XLA form.
        self.supports_jit = False
        if policy is not None and not isinstance(policy, Policy):
            policy = Policy.from_config(policy)
        if policy is not None:
            operations = _agreeing_operations(operations, policy)
            levels = len(policy.magnitudes)
            flip, shift = policy.flip, policy.shift
        else:
            _check_probability("flip", flip)
            _check_probability("shift", shift)
        if operations is not None:
            operations = [op.name for op in find_operations(operations)]
        self.operations = operations
        self.levels = _checked_levels(levels)
        self.value_range = _checked_range(value_range)
        self.flip = flip
        self.shift = shift
        self.initial_policy = policy
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        if isinstance(input_shape, dict):
            input_shape = input_shape["images"]
        self.active_operations = fitting_operations(
            self.operations, channels=input_shape[-1]
        )
        initial = self.initial_policy or Policy.uniform(
            [operation.name for operation in self.active_operations],
            levels=self.levels,
            flip=self.flip,
            shift=self.shift,
        )
        self.magnitudes = initial.magnitudes
        # As initial values, not by `assign`: a layer that is built inside a
        # traced function would otherwise be reset by each call of it.
        logits = distribution.logits_of(initial)
        self.operation_logits = self._add_logits("operation", logits.operation)
        self.magnitude_logits = self._add_logits("magnitude", logits.magnitude)
        self.base_logits = self._add_logits("base", logits.base)
        self.built = True

    def _add_logits(self, name, value):
        return self.add_weight(
            shape=value.shape,
            initializer=keras.initializers.Constant(value),
            dtype="float32",
            autocast=False,
            name=f"{name}_logits",
            trainable=True,
        )

    def _distribution(self):
        used = [self.flip is not None, self.shift is not None]
        return distribution.Logits(
            tf.convert_to_tensor(self.operation_logits),
            tf.convert_to_tensor(self.magnitude_logits),
            tf.convert_to_tensor(self.base_logits),
            base_used=tf.constant(used, tf.float32),
        )

    def sample(self, batch_size, seed):
        """Draws what is to be done with each image from the policy.

        Args:
            batch_size: Number of images, integer or scalar tensor.
            seed: int32 tensor of shape `[2]`; the result is a function of it
                and of the policy.

        Returns:
            `Choices`.
        """
        return distribution.sample(self._distribution(), batch_size, seed)

    def draw(self, batch_size, seed):
        """Draws what the policy leaves open: signs, positions, offsets.

        Args:
            batch_size: Number of images, integer or scalar tensor.
            seed: int32 tensor of shape `[2]`; it may be that of `sample`.

        Returns:
            `dispatch.Draws`.
        """
        # One further step from `sample`'s draws, should the seeds be equal.
        seed = tf.random.experimental.stateless_fold_in(seed, 1)
        return dispatch.draw(batch_size, seed)

    def apply(self, images, choices, seed):
        """Augments images as chosen, with draws of its own.

        Args:
            images: Tensor of shape `[n, h, w, c]`, float or integer, values in
                `value_range`.
            choices: `Choices`, as `sample` returns them.
            seed: int32 tensor of shape `[2]`, for signs and positions.

        Returns:
            float32 tensor of the shape and value range of `images`.
        """
        size = images.shape[0] or tf.shape(images)[0]
        return self.transform(images, choices, self.draw(size, seed))

    def transform(self, images, choices, draws):
        """Augments images as chosen and drawn; nothing random is left.

        Args:
            images: As for `apply`.
            choices: `Choices`, as `sample` returns them.
            draws: `dispatch.Draws`, as `draw` returns them.

        Returns:
            float32 tensor of the shape and value range of `images`.
        """
        low, high = self.value_range
        images = tf.cast(images, tf.float32)
        rescale = (low, high) != (0.0, 255.0)
        if rescale:
            images = (images - low) * (255.0 / (high - low))
        magnitude = tf.gather(tf.constant(self.magnitudes), choices.level)
        images = dispatch.augment(
            images, self.active_operations, choices, magnitude, draws
        )
        if rescale:
            images = images * ((high - low) / 255.0) + low
        return images

    def log_prob(self, choices):
        """Returns the log-probability of each image's choice.

        Args:
            choices: `Choices`.

        Returns:
            float32 tensor of shape `[n]`, differentiable in the logits.
        """
        return distribution.log_prob(self._distribution(), choices)

    def score_gradient(self, choices, rewards):
        """Returns `sum_i rewards[i] * d log p(choices[i]) / d logits`.

        Divided by n this is an unbiased estimate of the gradient of the
        expected reward; subtract a baseline to reduce its variance.

        Args:
            choices: `Choices` of n images.
            rewards: float32 tensor of shape `[n]`; the greater the better if
                the gradient is ascended.

        Returns:
            List of float32 tensors in the order and with the shapes of
            `trainable_variables`; empty if the layer is not trainable.
        """
        if not self.trainable:
            return []
        return list(
            distribution.score_gradient(self._distribution(), choices, rewards)
        )

    def policy(self):
        """Returns the current policy as plain data.

        Returns:
            A `Policy`.
        """
        self._check_built()
        base = tf.convert_to_tensor(self.base_logits).numpy().astype("float64")
        flip, shift = (1.0 / (1.0 + np.exp(-base))).tolist()
        return Policy(
            operations=tuple(op.name for op in self.active_operations),
            probabilities=_softmax(self.operation_logits),
            magnitudes=self.magnitudes,
            level_probabilities=_softmax(self.magnitude_logits),
            flip=None if self.flip is None else flip,
            shift=None if self.shift is None else shift,
        )

    def set_policy(self, policy):
        """Sets the logits to those of a policy.

        Args:
            policy: `Policy` with the operations and magnitudes of this layer
                and with flip and shift used where this layer uses them.
        """
        self._check_built()
        names = tuple(operation.name for operation in self.active_operations)
        received = (policy.operations, policy.magnitudes)
        unused = (policy.flip is None, policy.shift is None)
        if received != (names, self.magnitudes) or unused != (
            self.flip is None,
            self.shift is None,
        ):
            raise ValueError(
                f"Expected a policy with operations={names}, "
                f"magnitudes={self.magnitudes}, and flip and shift None where "
                f"the layer's are (flip={self.flip}, shift={self.shift}). "
                f"Received: policy={policy}"
            )
        logits = distribution.logits_of(policy)
        self.operation_logits.assign(logits.operation)
        self.magnitude_logits.assign(logits.magnitude)
        self.base_logits.assign(logits.base)

    def get_random_transformation_batch(self, batch_size, **kwargs):
        """Draws choices and a seed: KerasCV's hook for randomness."""
        seeds = tf.cast(self.seed_generator.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            # Replicas hold equal generators, but must not augment alike.
            seeds = tf.random.experimental.stateless_fold_in(
                seeds, replica.replica_id_in_sync_group
            )
        return self.sample(batch_size, seeds), seeds

    def augment_images(self, images, transformations, **kwargs):
        """Applies what was drawn, in the dtype of the images."""
        choices, seed = transformations
        augmented = self.apply(images, choices, seed)
        if images.dtype.is_integer:
            augmented = tf.round(augmented)
        return tf.cast(augmented, images.dtype)

    def augment_labels(self, labels, transformations, **kwargs):
        """Returns the labels: no operation changes what is shown."""
        return labels

    def call(self, inputs, training=None):
        if not training:
            return inputs
        if isinstance(inputs, dict):
            spatial = [key for key in _SPATIAL_KEYS if key in inputs]
            if spatial:
                raise ValueError(
                    "The layer moves images but none of "
                    f"{list(_SPATIAL_KEYS)}. Received: inputs with {spatial}"
                )
        return super().call(inputs)

    def _ensure_inputs_are_compute_dtype(self, inputs):
        # The base class would turn uint8 images and integer labels into
        # floats; a step of a pipeline should leave its dtypes alone.
        return keras.tree.map_structure(
            lambda x: x if tf.is_tensor(x) else tf.convert_to_tensor(x), inputs
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs, training=None):
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, x.dtype), inputs
        )

    def get_config(self):
        policy = self.initial_policy
        return {
            **super().get_config(),
            "operations": self.operations,
            "levels": self.levels,
            "value_range": self.value_range,
            "flip": self.flip,
            "shift": self.shift,
            "policy": None if policy is None else policy.get_config(),
            "seed": self.seed,
        }

    def _check_built(self):
        if not self.built:
            raise ValueError(
                "The layer's policy exists once the layer was built, by a "
                "call or by `build(input_shape)`. Received: built=False"
            )


def _softmax(logits):
    logits = tf.convert_to_tensor(logits).numpy().astype("float64")
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _agreeing_operations(names, policy):
    if names is not None and tuple(names) != policy.operations:
        raise ValueError(
            "`operations` must be None or those of `policy`, "
            f"{policy.operations}. Received: operations={names}"
        )
    return policy.operations


def _check_probability(name, value):
    if value is not None and not (
        isinstance(value, numbers.Real) and 0.0 < value < 1.0
    ):
        raise ValueError(
            f"`{name}` must be None or in (0, 1). Received: {name}={value}"
        )


def _checked_levels(levels):
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(
            "`levels` must be an integer of at least 1. "
            f"Received: levels={levels}"
        )
    return levels


def _checked_range(value_range):
    try:
        low, high = (float(value) for value in value_range)
        proper = low < high
    except (TypeError, ValueError):
        proper = False
    if not proper:
        raise ValueError(
            "`value_range` must be (low, high) with low < high. "
            f"Received: value_range={value_range}"
        )
    return (low, high)
