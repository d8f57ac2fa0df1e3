"""Applies to each image of a batch the operation chosen for it.

Computing every operation for every image and masking costs as much as all
operations together. Here the batch is split by choice, so an operation sees
the images that chose it and no others, and everything affine (shears,
translations, rotations, flips, shifts) becomes one matrix an image and one
warp over the images that move at all.

Order for one image: the operation, then the flip, then the shift, as in
AutoAugment, so that grey borders do not enter histograms and means.
"""

import typing

import tensorflow as tf

from keras_dha.augmentation import geometric

# The base shift moves an image by up to this fraction of its size.
SHIFT = 0.125


class Draws(typing.NamedTuple):
    """The randomness that is no part of the policy.

    Attributes:
        sign: float32 tensor of shape `[n]`, each -1 or 1.
        position: float32 tensor of shape `[n, 2]` in 0..1.
        shift: float32 tensor of shape `[n, 2]` in 0..1, the extremes being
            the greatest shift to the left and to the right, up and down.
    """

    sign: tf.Tensor
    position: tf.Tensor
    shift: tf.Tensor


def draw(batch_size, seed):
    """Draws sign, position and shift for each image of a batch.

    Args:
        batch_size: Number of images, integer or scalar tensor.
        seed: int32 tensor of shape `[2]`; the result is a function of it.

    Returns:
        `Draws`.
    """
    uniform = tf.random.stateless_uniform([batch_size, 5], seed)
    return Draws(
        sign=tf.where(uniform[:, 0] < 0.5, -1.0, 1.0),
        position=uniform[:, 1:3],
        shift=uniform[:, 3:5],
    )


def augment(images, operations, choices, magnitude, draws):
    """Applies each image's choice.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        operations: Tuple of `Operation`, what `choices.operation` indexes.
        choices: `Choices`.
        magnitude: float32 tensor of shape `[n]` in 0..1.
        draws: `Draws`.

    Returns:
        float32 tensor of the shape of `images`.
    """
    images = _apply_pixelwise(images, operations, choices, magnitude, draws)
    return _apply_warps(images, operations, choices, magnitude, draws)


def _apply_pixelwise(images, operations, choices, magnitude, draws):
    todo = [
        op for op in operations if not op.geometric and op.name != "Identity"
    ]
    if not todo:
        return images
    # Slot 0 collects the images for which there is nothing to do here.
    slots = [todo.index(op) + 1 if op in todo else 0 for op in operations]
    slot = tf.gather(tf.constant(slots), choices.operation)

    def split(values):
        return tf.dynamic_partition(values, slot, len(todo) + 1)

    places = split(tf.range(tf.shape(images)[0]))
    parts = split(images)
    arguments = zip(
        split(magnitude), split(draws.sign), split(draws.position), strict=True
    )
    _, *arguments = arguments
    for k, (op, argument) in enumerate(zip(todo, arguments, strict=True)):
        parts[k + 1] = op(parts[k + 1], *argument)
    return tf.ensure_shape(tf.dynamic_stitch(places, parts), images.shape)


def _apply_warps(images, operations, choices, magnitude, draws):
    moves = [operation.geometric for operation in operations]
    moved = tf.gather(tf.constant(moves), choices.operation)
    moved = tf.where(moved | choices.flip | choices.shift)
    matrices = _matrices(images, operations, choices, magnitude, draws)
    warped = geometric.warp(
        tf.gather_nd(images, moved), tf.gather_nd(matrices, moved)
    )
    return tf.tensor_scatter_nd_update(images, moved, warped)


def _matrices(images, operations, choices, magnitude, draws):
    height, width = geometric.image_size(images)
    limits = [operation.warp or (0.0,) * 5 for operation in operations]
    limits = tf.gather(tf.constant(limits), choices.operation)
    parameters = (draws.sign * magnitude)[:, None] * limits
    operation = geometric.affine_matrix(parameters, height, width)
    size = tf.cast(tf.stack([width, height]), tf.float32)
    furthest = tf.floor(SHIFT * size)
    offsets = tf.floor(draws.shift * (2.0 * furthest + 1.0)) - furthest
    offsets = tf.where(choices.shift[:, None], offsets, 0.0)
    base = geometric.flip_and_shift_matrix(
        choices.flip, offsets[:, 0], offsets[:, 1]
    )
    # Output to input: the shift came last, so it is undone first.
    return tf.matmul(operation, base)
