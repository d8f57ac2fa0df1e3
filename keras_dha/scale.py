"""Scale: how large a default network the time of a run is well spent on.

A run of a number of seconds has a network that fits them: too small a one has
learned all it can before the time is up, too large a one is not trained to
the end. The networks of a ladder are timed one after the other, for a few
steps each; the last that sees every image often enough is taken.

Resolution comes before width, and depth is not on the ladder. CIFAR-10, 2,000
images, 240 s on one core, plain training of one seed (test accuracy in per
cent, passes over the images):

    width 16, stem of stride 2               55.9    151
    width 16, stem of stride 1               61.2     61
    width 32, stem of stride 2               57.2     66
    width 16, stride 2, two blocks a stage   55.3    101
"""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_dha import progress
from keras_dha.architecture.derive import derive_first
from keras_dha.architecture.spaces.resnet import usual_stem_stride

# Widths of the first stage; from one to the next, steps take about twice as
# long.
WIDTHS = (16, 24, 32, 48, 64, 96)
# What is finer than this, in pixels a side of the first stage, takes memory
# that a device may not have; networks for ImageNet have 56.
_FINEST = 64
# How often each image is to be seen, and how many steps there are to be.
PASSES = 50
STEPS = 3000
# What a step of a run takes over one of the network alone.
_OVERHEAD = 1.5
# From one rung to the next, steps take so many times as long at least.
_RISE = 1.5
# Of the time at most this share is spent on finding out.
_MOST_TIMING = 0.06
_TIMED_STEPS = 5


class Scale(NamedTuple):
    """What fits a time.

    Attributes:
        arguments: Dict, the arguments of the default space.
        is_ample: Whether the network sees every image often enough: with less
            than that, all time is for its weights, and none for a search.
    """

    arguments: dict
    is_ample: bool


def ladder(shape):
    """Returns arguments of the default space, a list from small to large.

    Args:
        shape: Shape of an image, `(h, w)` or `(h, w, c)`.
    """
    usual = usual_stem_stride(shape)
    strides = [
        stride
        for stride in (4, 2, 1)
        if stride == usual
        or (stride < usual and max(shape[:2]) <= _FINEST * stride)
    ]
    return [
        {"width": width, "stem_stride": stride}
        for stride in strides
        # Half the stride takes as long as the third width.
        for width in (WIDTHS if stride == strides[-1] else WIDTHS[:2])
    ]


def fitting(build, shape, batch_size, steps, seconds, verbose=0):
    """Returns the `Scale` that a time is well spent on.

    Args:
        build: Function `(width, stem_stride)` that returns a network with or
            without choices.
        shape: Shape of an image.
        batch_size: Integer, examples of a step.
        steps: Integer, steps of a pass over the data.
        seconds: Float, what the run may take from now on.
        verbose: Whether to say what was chosen.
    """
    begun = time.monotonic()
    needed = max(PASSES * steps, STEPS)
    rungs = ladder(shape)
    chosen, is_ample = rungs[0], False
    for rung in rungs:
        each = seconds_per_step(derive_first(build(**rung)), batch_size)
        spent = time.monotonic() - begun
        whole = _OVERHEAD * each * needed
        if whole > seconds - spent:
            break
        chosen, is_ample = rung, True
        if _RISE * whole > seconds - spent or spent > _MOST_TIMING * seconds:
            break
    progress.message(
        f"Fits the time: width {chosen['width']}, stem of stride "
        f"{chosen['stem_stride']}"
        + ("" if is_ample else ". For a search there is too little of it"),
        verbose,
    )
    return Scale(chosen, is_ample)


def seconds_per_step(network, batch_size):
    """Returns the median time of forward and backward passes.

    Args:
        network: `keras.Model` from one input to class probabilities.
        batch_size: Integer.
    """
    x = tf.zeros([batch_size, *network.input_shape[1:]])
    variables = [v.value for v in network.trainable_variables]

    def passes():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(x, training=True)[:, 0])
        return tape.gradient(loss, variables)

    compiled = tf.function(passes, jit_compile=False, autograph=False)
    compiled()
    spent = []
    for _ in range(_TIMED_STEPS):
        begun = time.monotonic()
        # Reading a value waits for a device that works on its own.
        compiled()[-1].numpy()
        spent.append(time.monotonic() - begun)
    return float(np.median(spent))
