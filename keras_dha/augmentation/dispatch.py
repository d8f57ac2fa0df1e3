"""Carries out for each image of a batch the sub-policy chosen for it.

Computing every operation for every image and masking costs as much as all
operations together. Here the batch is split by choice, so an operation sees
the images that chose it and no others. Everything affine (shears,
translations, rotations, flips, shifts) becomes one matrix an image: what
follows each other is multiplied, and pixels are resampled once, before the
next operation that is not affine, and only for images that move at all.

Order for one image: the steps, then the flip, then the shift, as in
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
        sign: float32 tensor of shape `[n, N]`, each -1 or 1.
        position: float32 tensor of shape `[n, N, 2]` in 0..1.
        shift: float32 tensor of shape `[n, 2]` in 0..1, the extremes being
            the greatest shift to the left and to the right, up and down.
        mix: float32 tensor of shape `[n, 2]` in 0..1, where CutMix pastes.
    """

    sign: tf.Tensor
    position: tf.Tensor
    shift: tf.Tensor
    mix: tf.Tensor


def draw(batch_size, length, seed):
    """Draws signs, positions and shifts for each image of a batch.

    Args:
        batch_size: Number of images n, integer or scalar tensor.
        length: Number N of steps of a sub-policy.
        seed: int32 tensor of shape `[2]`; the result is a function of it.

    Returns:
        `Draws`.
    """
    uniform = tf.random.stateless_uniform([batch_size, 4 + 3 * length], seed)
    per_step = tf.reshape(uniform[:, 4:], [batch_size, length, 3])
    return Draws(
        sign=tf.where(per_step[..., 0] < 0.5, -1.0, 1.0),
        position=per_step[..., 1:],
        shift=uniform[:, :2],
        mix=uniform[:, 2:4],
    )


class Work(typing.NamedTuple):
    """What is to be done to each image; nothing random is left.

    Attributes:
        operation: int32 tensor of shape `[n, N]`, an index into the
            operations for each step; -1 for a step that is left out.
        magnitude: float32 tensor of shape `[n, N]` in 0..1.
        flip: bool tensor of shape `[n]`.
        shift: bool tensor of shape `[n]`.
    """

    operation: tf.Tensor
    magnitude: tf.Tensor
    flip: tf.Tensor
    shift: tf.Tensor


def augment(images, operations, work, draws, differentiable=False):
    """Carries out each image's steps.

    Args:
        images: float32 tensor of shape `[n, h, w, c]`, values in 0..255.
        operations: Tuple of `Operation`, what `work.operation` indexes.
        work: `Work`.
        draws: `Draws`.
        differentiable: Whether the result is to have a derivative by
            `work.magnitude`; it costs a little more.

    Returns:
        float32 tensor of the shape of `images`.
    """
    size = geometric.image_size(images)
    draws = Draws(*(tf.cast(values, images.dtype) for values in draws))
    pending = _nothing_pending(images)
    for n in range(work.operation.shape[1]):
        chosen, magnitude = work.operation[:, n], work.magnitude[:, n]
        sign, position = draws.sign[:, n], draws.position[:, n]
        kind = tf.gather(tf.constant(_kinds(operations)), chosen + 1)
        if n > 0:
            images, pending = _settle(
                images, pending, kind == _PIXELWISE, differentiable
            )
        images = _pixelwise(
            *(images, operations, chosen, magnitude, sign, position),
            differentiable,
        )
        limits = [(0.0,) * 5, *(op.warp or (0.0,) * 5 for op in operations)]
        limits = tf.gather(tf.constant(limits, magnitude.dtype), chosen + 1)
        parameters = (sign * magnitude)[:, None] * limits
        pending = _after(
            pending, kind == _WARP, geometric.affine_matrix(parameters, *size)
        )
    based = work.flip | work.shift
    whole = based & ~pending.moved
    pending = _after(pending, based, _base_matrices(work, draws, *size))
    # What was only flipped and shifted needs no interpolation.
    images = _warp_where(images, whole, pending, differentiable, True)
    return _warp_where(images, pending.moved & ~whole, pending, differentiable)


class _Pending(typing.NamedTuple):
    """Warps that were chosen but not done yet: whose, and which."""

    moved: tf.Tensor
    matrices: tf.Tensor


# What a step is: nothing to do, a warp, anything else.
_NOTHING, _WARP, _PIXELWISE = range(3)


def _kinds(operations):
    kinds = [
        _WARP
        if op.geometric
        else _NOTHING
        if op.name == "Identity"
        else _PIXELWISE
        for op in operations
    ]
    return [_NOTHING, *kinds]


def _nothing_pending(images):
    count = tf.shape(images)[0]
    return _Pending(
        tf.fill([count], False),
        tf.eye(3, batch_shape=count[None], dtype=images.dtype),
    )


def _after(pending, moved, matrices):
    """Returns what is pending once these warps were chosen as well."""
    # Output to input: what comes last is undone first.
    return _Pending(
        pending.moved | moved, tf.matmul(pending.matrices, matrices)
    )


def _settle(images, pending, where, differentiable):
    """Carries out what is pending for some of the images."""
    where &= pending.moved
    images = _warp_where(images, where, pending, differentiable)
    identity = tf.eye(
        3, batch_shape=tf.shape(where), dtype=pending.matrices.dtype
    )
    matrices = tf.where(where[:, None, None], identity, pending.matrices)
    return images, _Pending(pending.moved & ~where, matrices)


def _warp_where(images, where, pending, differentiable, whole_pixels=False):
    places = tf.where(where)
    moved = tf.gather_nd(images, places)
    matrices = tf.gather_nd(pending.matrices, places)
    if differentiable:
        warped = geometric.differentiable_warp(moved, matrices)
    else:
        warped = geometric.warp(moved, matrices, whole_pixels)
    return tf.tensor_scatter_nd_update(images, places, warped)


def _pixelwise(
    images, operations, chosen, magnitude, sign, position, differentiable
):
    kinds = _kinds(operations)[1:]
    distinct = dict.fromkeys(
        op
        for op, kind in zip(operations, kinds, strict=True)
        if kind == _PIXELWISE
    )
    todo = list(distinct)
    if not todo:
        return images
    # Slot 0 collects the images for which there is nothing to do here.
    slots = [0, *(todo.index(op) + 1 if op in todo else 0 for op in operations)]
    slot = tf.gather(tf.constant(slots), chosen + 1)

    def split(values):
        return tf.dynamic_partition(values, slot, len(todo) + 1)

    places = split(tf.range(tf.shape(images)[0]))
    parts = split(images)
    arguments = zip(split(magnitude), split(sign), split(position), strict=True)
    _, *arguments = arguments
    for k, (op, argument) in enumerate(zip(todo, arguments, strict=True)):
        parts[k + 1] = op(
            parts[k + 1], *argument, differentiable=differentiable
        )
    return tf.ensure_shape(tf.dynamic_stitch(places, parts), images.shape)


def _base_matrices(work, draws, height, width):
    size = tf.cast(tf.stack([width, height]), draws.shift.dtype)
    furthest = tf.floor(SHIFT * size)
    offsets = tf.floor(draws.shift * (2.0 * furthest + 1.0)) - furthest
    offsets = tf.where(work.shift[:, None], offsets, 0.0)
    return geometric.flip_and_shift_matrix(
        work.flip, offsets[:, 0], offsets[:, 1]
    )
