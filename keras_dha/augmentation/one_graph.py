"""One graph of the augmentation for a whole run.

Four functions of a step and the fit of statistics augment images, and the
network that is derived has new ones of them. What they do to images is the
same, and takes a few hundred operations: it is traced once, and they call it.
"""

import tensorflow as tf

from keras_dha.augmentation import mixing
from keras_dha.augmentation.estimators.gumbel import Noise


class OneGraph:
    """`augmented` of a layer as one TensorFlow function.

    Its variables are the layer's. So it is no `Trackable`, which Keras would
    take for a part of the layer that holds it.

    Args:
        layer: Built `DifferentiableAugmentation`.
    """

    def __init__(self, layer):
        def run(images, seeds, clean, is_learned):
            return augmented(layer, images, seeds, clean, is_learned)

        # As the steps are compiled (`keras_dha.compiled`).
        self.augmented = tf.function(run, jit_compile=False, autograph=False)


def augmented(layer, images, seeds, clean, is_learned, replica=0, replicas=1):
    """Draws for each image of this replica what happens to it, and does it.

    Args:
        layer: Built `DifferentiableAugmentation`.
        images: Tensor `(n, h, w)` or `(n, h, w, c)`.
        seeds: Pair of int32 tensors of shape `(2,)`, for the policy's choices
            and for what the policy leaves open.
        clean: Scalar tensor, the share of images that nothing is done to.
        is_learned: Whether the policy is, by the layer's estimator.
        replica, replicas: Which part of how many this one is.

    Returns:
        (choices, augmented images, share), as `LearnedPolicy.augment` does.
    """
    size = images.shape[0] or tf.shape(images)[0]
    choices, draws = layer.draw_part(size, seeds, replica, replicas, clean)
    is_plain = images.shape.rank == 3
    inputs = images[..., None] if is_plain else images
    if is_learned:
        found = layer.estimator.augment(
            *(layer, inputs, choices, draws),
            noise(seeds[0], replica, replicas),
        )
    else:
        found = layer.transform(inputs, choices, draws)
    share = None
    if layer.mixers:
        mix = layer.mix(inputs, choices, draws)
        found, share = mixing.mix_images(found, mix), mix.share
    return choices, found[..., 0] if is_plain else found, share


def noise(seed, replica, replicas):
    """Returns the `Noise` of an estimator, by the seed of the choices."""
    # A step further than what choices and draws are made of.
    seed = tf.random.experimental.stateless_fold_in(seed, 2)
    return Noise(seed, replica, replicas)
