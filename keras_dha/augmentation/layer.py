"""The Keras layer that samples, applies and learns an augmentation policy.

Each image of a batch gets one sub-policy, drawn from a softmax distribution,
and is perhaps flipped, shifted and mixed with another one. Learning needs no
derivative of an image operation: with a reward for each image, the gradient
of the expected reward is `sum_i reward_i * d log p(choice_i)`, in closed form
(`choices`). Where an estimator wants derivatives, there are some
(`surrogates`).
"""

import keras
import tensorflow as tf

from keras_dha.arguments import checked_count
from keras_dha.augmentation import arguments as check
from keras_dha.augmentation import estimators
from keras_dha.augmentation import mixing
from keras_dha.augmentation.operations import find_operations
from keras_dha.augmentation.policy import Policy
from keras_dha.augmentation.policy_layer import PolicyLayer

# Inputs that would have to be moved together with the image.
_SPATIAL_KEYS = ("bounding_boxes", "keypoints", "segmentation_masks")
_LABEL_KEYS = ("labels", "targets")
# Of clean images, by default, where the layer is to be learned in a run: it
# bounds what a policy can do to them.
LEAST_CLEAN = 0.1


@keras.saving.register_keras_serializable("keras_dha")
class DifferentiableAugmentation(PolicyLayer):
    """Augments each image by a policy that can be learned.

    For every image a sub-policy is drawn, one operation or a sequence of
    them, and a magnitude level for each; then a horizontal flip and a random
    shift by up to an eighth of the size, each with its probability. What
    comes in from outside the image is mid-grey. Only an image's own
    operations are computed for it.

    The layer augments only when called with `training=True`; in `predict`,
    `evaluate` and exported models it returns its input. Shape and dtype are
    those of the input; integers are rounded.

    A saved network that holds it is loaded once this class was named: to
    import `keras_dha` does not bring KerasCV along.

    It learns in a run of `keras_dha.AutoModel`, or where you go along
    `score_gradient`. A plain `fit` leaves the policy as it is: say
    `trainable=False` there, or Keras will warn of variables without gradients.

    Args:
        operations: Names of operations; at magnitude m in [0, 1], with either
            sign where there is a direction: "ShearX", "ShearY" (by a slope of
            0.3 m), "TranslateX", "TranslateY" (0.45 m of the side), "Rotate"
            (30 m degrees), "AutoContrast", "Equalize", "Invert" (blended in
            by m), "Solarize" (from 256 (1 - m) on), "Posterize" (to
            8 - 7 m bits), "Contrast", "Color", "Brightness", "Sharpness" (by
            the factor 1 + 0.9 m or 1 - 0.9 m), "Cutout" (m / 2 of the shorter
            side), "Identity". None stands for all that fit the number of
            channels: Color needs three.
        levels: Number L of magnitude levels, `1/L, 2/L, ..., 1`, or the
            levels themselves, rising in (0, 1].
        value_range: Lowest and highest pixel value of the images.
        flip: Initial probability of a horizontal flip, in (0, 1), or None to
            never flip.
        shift: Initial probability of a random shift, in (0, 1), or None to
            never shift.
        length: Number N of operations that an image gets.
        sub_policies: None for all sequences of N operations (DHA's pairs have
            N = 2), or an integer: so many, drawn by `seed`, each with
            magnitudes of its own (DADA, Faster AutoAugment).
        application: Initial probability of carrying out an operation of the
            chosen sub-policy, in (0, 1), or None for always.
        mixup: Initial probability of blending an image and its label with
            another one's, in (0, 1), or None. Its strength is learned as an
            operation's magnitude is.
        cutmix: The same for pasting a rectangle of another image.
        clean: Share of the images, in [0, 1), that nothing is done to. The
            loss on clean images is then at most `1 / clean` times the
            training loss, whatever is learned. Or "auto" for 0.1, and more in
            runs of an `AutoModel` of less than 18 passes over the images:
            1 - passes / 20.
        policy: A `Policy` (or its config) to start from, in place of
            `operations`, `levels`, `flip`, `shift`, `length`, `sub_policies`,
            `application`, `mixup` and `cutmix`, which are left out then. On
            images without colour sub-policies with Color are left out, with a
            warning.
        estimator: How the policy is learned: "influence", "dha", "relaxed",
            "relax", or an object of `keras_dha.augmentation.estimators`.
        trainable: Whether the policy is to be learned.
        default_training: What `training` is where neither the caller nor a
            surrounding model says. True makes the layer work in KerasCV's
            `Augmenter` and `RandomAugmentationPipeline`, which say nothing.
            Leave it False in a network: neither `model(x)` nor Keras'
            `model.export` to a SavedModel says anything, and the served model
            would augment.
        seed: Integer seed of `call`. `sample` and `apply` get theirs: in a
            `map` with `num_parallel_calls`, where batches may be drawn for in
            any order, they keep images the same from run to run.
        **kwargs: `name` and `dtype` of the layer.

    Call arguments:
        inputs: Images, one `[h, w, c]` or a batch `[n, h, w, c]`, float or
            integer, or a dictionary with `"images"` and, passed through as
            they are, labels and other entries that do not move with the image.
            With `mixup` or `cutmix` it must be a dictionary, and the labels
            one-hot, or a structure of such; they come out soft. A single image
            is not mixed.
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
        length=1,
        sub_policies=None,
        application=None,
        mixup=None,
        cutmix=None,
        clean=0.0,
        policy=None,
        estimator="influence",
        trainable=True,
        default_training=False,
        seed=None,
        **kwargs,
    ):
        # All randomness comes from `seed_generator`; the base class's own
        # generator would be a second source in every checkpoint. Without a
        # seed it is the global one, which TensorFlow refuses where operations
        # are to be deterministic.
        super().__init__(seed=1, trainable=trainable, **kwargs)
        self._random_generator = None
        # The warp kernel and the ragged split by choice have no XLA form.
        self.supports_jit = False
        if policy is not None and not isinstance(policy, Policy):
            policy = Policy.from_config(policy)
        if policy is not None:
            given = operations, levels, flip, shift, length
            given += sub_policies, application, mixup, cutmix
            check.agreeing(
                policy, dict(zip(check.DEFAULTS, given, strict=True))
            )
            operations = policy.operations
            find_operations(dict.fromkeys(operations))
            flip, shift = policy.flip, policy.shift
            mixup, cutmix = policy.mixup, policy.cutmix
            levels, length = len(policy.magnitudes), len(policy.steps[0])
        else:
            for name, value in (
                *(("flip", flip), ("shift", shift), ("mixup", mixup)),
                *(("cutmix", cutmix), ("application", application)),
            ):
                check.probability(name, value)
            if operations is not None:
                operations = [op.name for op in find_operations(operations)]
        self.operations = operations
        self.levels = check.levels(levels)
        self.value_range = check.value_range(value_range)
        self.flip = flip
        self.shift = shift
        self.length = checked_count("length", length)
        if sub_policies is not None:
            sub_policies = checked_count("sub_policies", sub_policies)
        self.sub_policies = sub_policies
        self.application = application
        self.mixup = mixup
        self.cutmix = cutmix
        # Whether less is augmented in a run of few passes.
        self.fits_passes = clean == "auto"
        if self.fits_passes:
            clean = LEAST_CLEAN
        self.clean = check.clean_share(clean)
        self.initial_policy = policy
        self.estimator = estimators.get(estimator)
        self.default_training = default_training
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @classmethod
    def rand_augment(cls, length=2, magnitude=0.5, **arguments):
        """Returns a layer that does as RandAugment: nothing is learned.

        With the operations of this layer, which has Invert and Cutout as well
        and to which the magnitude of AutoContrast, Equalize and Invert is how
        much of them is blended in.

        Args:
            length: Number of operations an image gets.
            magnitude: The magnitude of all of them, in (0, 1].
            **arguments: Of the layer.

        Reference:
            Cubuk et al., RandAugment, 2020.
        """
        check.magnitude(magnitude)
        return cls(
            **{
                "length": length,
                "levels": (magnitude,),
                "flip": None,
                "shift": None,
                "trainable": False,
                **arguments,
            }
        )

    @classmethod
    def trivial_augment(cls, **arguments):
        """Returns a layer that does as TrivialAugment: nothing is learned.

        One operation an image, at one of 30 magnitudes, all equally likely;
        the operations are as in `rand_augment`.

        Args:
            **arguments: Of the layer.

        Reference:
            Müller & Hutter, TrivialAugment, 2021.
        """
        return cls(
            **{
                "levels": 30,
                "flip": None,
                "shift": None,
                "trainable": False,
                **arguments,
            }
        )

    def get_random_transformation_batch(self, batch_size, **kwargs):
        """Draws what to do: KerasCV's hook for randomness."""
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        context = tf.distribute.get_replica_context()
        if context is None:
            return self.draw_part(batch_size, (seed, seed))
        # Replicas hold equal generators, and must not augment alike.
        return self.draw_part(
            batch_size,
            (seed, seed),
            context.replica_id_in_sync_group,
            context.num_replicas_in_sync,
        )

    def augment_images(self, images, transformations, **kwargs):
        """Applies what was drawn, in the dtype of the images."""
        augmented = self.transform(images, *transformations)
        if self.mixers:
            mix = self.mix(images, *transformations)
            augmented = mixing.mix_images(augmented, mix)
        if images.dtype.is_integer:
            augmented = tf.round(augmented)
        return tf.cast(augmented, images.dtype)

    def augment_labels(self, labels, transformations, images=None, **kwargs):
        """Returns the labels, soft ones where images were mixed."""
        if not self.mixers:
            return labels
        share = self.mix(images, *transformations).share
        return keras.tree.map_structure(
            lambda each: mixing.mix_labels(each, share), labels
        )

    def __call__(self, inputs, *args, **kwargs):
        # Keras builds a layer by the shapes of tensors, and arrays are none.
        return super().__call__(_as_tensors(inputs), *args, **kwargs)

    def call(self, inputs, training=None):
        if training is None:
            training = self.default_training
        if not training:
            return inputs
        _check(inputs, mixes=bool(self.mixers))
        images = inputs["images"] if isinstance(inputs, dict) else inputs
        if images.shape.rank != 3:
            return super().call(inputs)
        # The base class would take each entry of a single image for a tensor,
        # and labels may be a structure.
        batch = _map_tensors(lambda x: tf.expand_dims(x, 0), inputs)
        return _map_tensors(lambda x: x[0], super().call(batch))

    def _ensure_inputs_are_compute_dtype(self, inputs):
        # The base class would turn uint8 images and integer labels into
        # floats; a step of a pipeline should leave its dtypes alone.
        return inputs

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
            "length": self.length,
            "sub_policies": self.sub_policies,
            "application": self.application,
            "mixup": self.mixup,
            "cutmix": self.cutmix,
            "clean": "auto" if self.fits_passes else self.clean,
            "policy": None if policy is None else policy.get_config(),
            "estimator": keras.saving.serialize_keras_object(self.estimator),
            "default_training": self.default_training,
            "seed": self.seed,
        }


def _check(inputs, mixes):
    """Refuses what cannot be augmented, or would be lost."""
    entries = inputs if isinstance(inputs, dict) else {"images": inputs}
    if isinstance(entries["images"], tf.RaggedTensor):
        raise ValueError(
            "Images of several sizes are augmented one by one, before they "
            "are batched. Received: a ragged batch of shape "
            f"{entries['images'].shape}"
        )
    spatial = [key for key in _SPATIAL_KEYS if key in entries]
    if spatial:
        raise ValueError(
            "The layer moves images but none of "
            f"{list(_SPATIAL_KEYS)}. Received: inputs with {spatial}"
        )
    labels = [key for key in _LABEL_KEYS if key in entries]
    if len(labels) > 1:
        # To the base class they are one entry, of which one gets lost.
        raise ValueError(
            f"Give one of {list(_LABEL_KEYS)}, which mean the same. "
            f"Received: inputs with {labels}"
        )
    if mixes and not labels:
        raise ValueError(
            "Mixing images mixes their labels: give a dictionary of "
            f"'images' and 'labels'. Received: inputs with {list(entries)}"
        )


def _map_tensors(function, inputs):
    return keras.tree.map_structure(
        lambda value: None if value is None else function(value), inputs
    )


def _as_tensors(inputs):
    """Returns images, or what there is of them in a dictionary, as tensors."""
    received = type(inputs).__name__
    is_missing = isinstance(inputs, (list, tuple))
    if isinstance(inputs, dict):
        received = list(inputs)
        is_missing = "images" not in received
    if is_missing:
        raise ValueError(
            "Expected images, or a dictionary of 'images' and what belongs to "
            f"them. Received: inputs={received}"
        )
    return _map_tensors(_as_tensor, inputs)


def _as_tensor(value):
    if tf.is_tensor(value) or isinstance(value, keras.KerasTensor):
        return value
    return tf.convert_to_tensor(value)
