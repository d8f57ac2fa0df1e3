"""The verbs of an augmentation layer: sample, draw, transform, mix, learn.

Everything random comes in by a seed and goes out as choices and draws; what
is done with them is a function. So a training step can draw for all replicas
alike, look at what was chosen, and credit it.
"""

import warnings

import tensorflow as tf
from keras_cv.layers import VectorizedBaseImageAugmentationLayer

from keras_dha.augmentation import dispatch
from keras_dha.augmentation import mixing
from keras_dha.augmentation.distribution import Distribution
from keras_dha.augmentation.operations import find_operations
from keras_dha.augmentation.operations import fitting_operations
from keras_dha.augmentation.policy import Policy
from keras_dha.augmentation.sub_policies import sub_policies as find_space

# What images of red, green, blue and opacity have; a single one of more may be
# a batch without channels.
_MOST_CHANNELS = 4


class PolicyLayer(VectorizedBaseImageAugmentationLayer):
    """A policy as a layer; `DifferentiableAugmentation` has its arguments.

    Attributes:
        channels: Number of channels of the images that it was built for.
    """

    def build(self, input_shape):
        if isinstance(input_shape, dict):
            input_shape = input_shape["images"]
        self.channels = input_shape[-1]
        if len(input_shape) == 3 and (self.channels or 0) > _MOST_CHANNELS:
            warnings.warn(
                "Inputs of three axes are taken for one image (h, w, c): give "
                "batches of grey images an axis of channels, by "
                f"`images[..., None]`. Received: shape={tuple(input_shape)}",
                stacklevel=2,
            )
        start = self._start(self.channels)
        self.active_operations = find_operations(
            dict.fromkeys(start.operations)
        )
        names = [operation.name for operation in self.active_operations]
        # A step's operation, as an index into the active ones.
        self._step_operation = [names.index(n) for n in start.operations]
        self.magnitudes = start.magnitudes
        self.mixers = start.mixers
        self.distribution = Distribution(self, start, self.clean)
        self.built = True

    def _start(self, channels):
        policy = self.initial_policy
        if policy is None:
            fitting = fitting_operations(self.operations, channels=channels)
            steps, table = find_space(
                [operation.name for operation in fitting],
                *(self.length, self.sub_policies, self.seed or 0),
            )
            return Policy.uniform(
                steps,
                levels=self.levels,
                flip=self.flip,
                shift=self.shift,
                sub_policies=table,
                application=self.application,
                mixup=self.mixup,
                cutmix=self.cutmix,
            )
        fitting = fitting_operations(None, channels=channels)
        fitting = {operation.name for operation in fitting}
        unfit = [n for n in policy.operations if n not in fitting]
        if not unfit:
            return policy
        warnings.warn(
            f"Images of {channels} channels have no colour: sub-policies with "
            f"{sorted(set(unfit))} are left out of the policy.",
            stacklevel=2,
        )
        return policy.without(unfit)

    def sample(self, batch_size, seed, clean=None):
        """Draws what is to be done with each image from the policy.

        Args:
            batch_size: Number of images, integer or scalar tensor.
            seed: int32 tensor of shape `[2]`; the result is a function of it
                and of the policy.
            clean: Share of the images that nothing is done to, number or
                scalar tensor; `None` for the layer's own.

        Returns:
            `Choices`.
        """
        self._check_built()
        return self.distribution.sample(batch_size, seed, clean)

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
        return dispatch.draw(batch_size, self.distribution.length, seed)

    def draw_part(self, batch_size, seeds, replica=0, replicas=1, clean=None):
        """Draws for the images of one replica of several.

        Drawn for the global batch, of which each replica takes its part: what
        happens to an image does not depend on how many replicas there are.

        Args:
            batch_size: Number of images of this replica.
            seeds: Pair of seeds, for `sample` and `draw`.
            replica, replicas: Which part of how many this one is.
            clean: As `sample` takes it.

        Returns:
            (`Choices`, `dispatch.Draws`).
        """
        drawn = (
            self.sample(replicas * batch_size, seeds[0], clean),
            self.draw(replicas * batch_size, seeds[1]),
        )
        if replicas == 1:
            return drawn
        begin = replica * batch_size
        return tf.nest.map_structure(
            lambda values: values[begin : begin + batch_size], drawn
        )

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
        self._check_built()
        size = images.shape[0] or tf.shape(images)[0]
        return self.transform(images, choices, self.draw(size, seed))

    def operation_of(self, choices):
        """Returns what is done in each step, int32 `[n, N]`.

        Args:
            choices: `Choices`.

        Returns:
            Indices into `active_operations`; -1 where a step is left out.
        """
        steps = tf.gather(
            tf.constant(self.distribution.space.steps), choices.sub_policy
        )
        operation = tf.gather(tf.constant(self._step_operation), steps)
        done = choices.applied & ~choices.clean[:, None]
        return tf.where(done, operation, -1)

    def magnitude_of(self, choices):
        """Returns the magnitude of each step, float32 `[n, N]`."""
        return tf.gather(tf.constant(self.magnitudes), choices.level)

    def transform(
        self,
        images,
        choices,
        draws,
        magnitude=None,
        differentiable=False,
        steps=True,
    ):
        """Augments images as chosen and drawn; nothing random is left.

        Mixing is not part of it, see `mix`.

        Args:
            images: As for `apply`.
            choices: `Choices`, as `sample` returns them.
            draws: `dispatch.Draws`, as `draw` returns them.
            magnitude: float32 tensor of shape `[n, N]`, magnitudes to use
                instead of the levels that were chosen.
            differentiable: Whether the result is to have derivatives by
                `magnitude`.
            steps: Whether to do the steps, and not flip and shift alone.

        Returns:
            float32 tensor of the shape and value range of `images`.
        """
        if magnitude is None:
            magnitude = self.magnitude_of(choices)
        active = ~choices.clean
        operation = self.operation_of(choices)
        work = dispatch.Work(
            operation if steps else operation[:, :0],
            magnitude,
            choices.flip & active,
            choices.shift & active,
        )
        low, high = self.value_range
        images = tf.cast(images, magnitude.dtype)
        if images.shape[-1] is None:
            # What grey is goes by their number, so they are those of `build`.
            images = tf.ensure_shape(images, [None, None, None, self.channels])
        rescale = (low, high) != (0.0, 255.0)
        if rescale:
            images = (images - low) * (255.0 / (high - low))
        images = dispatch.augment(
            images, self.active_operations, work, draws, differentiable
        )
        if rescale:
            images = images * ((high - low) / 255.0) + low
        return images

    def mix(self, images, choices, draws):
        """Returns how images of this size are mixed, a `mixing.Mix`.

        Args:
            images: Tensor of shape `[n, h, w, c]`; only its size is used.
            choices: `Choices`, as `sample` returns them.
            draws: `dispatch.Draws`, as `draw` returns them.
        """
        strength = tf.gather(tf.constant(self.magnitudes), choices.mix_level)
        strength = tf.where(choices.clean, 0.0, strength)
        height, width = images.shape[1:3]
        if height is None or width is None:
            height, width = tf.unstack(tf.shape(images)[1:3])
        return mixing.plan(
            *(self.mixers, choices.mixer, strength, draws.mix),
            *(height, width),
        )

    def log_prob(self, choices, clean=None):
        """Returns the log-probability of each image's choice.

        Args:
            choices: `Choices`.
            clean: As `sample` took it.

        Returns:
            float32 tensor of shape `[n]`, differentiable in the logits.
        """
        return self.distribution.log_prob(choices, clean)

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
        self._check_built()
        if not self.trainable:
            return []
        return self.distribution.score_gradient(choices, rewards)

    def policy(self):
        """Returns the current policy as plain data, a `Policy`."""
        self._check_built()
        return self.distribution.policy()

    def set_policy(self, policy):
        """Sets the logits to those of a policy.

        Args:
            policy: `Policy` with the operations, sub-policies and magnitudes
                of this layer, and with application, flip, shift, mixup and
                cutmix used where this layer uses them.
        """
        self._check_built()
        self.distribution.set_policy(policy)

    def _check_built(self):
        if not self.built:
            raise ValueError(
                "The layer's policy exists once the layer was built, by a "
                "call or by `build(input_shape)`. Received: built=False"
            )
