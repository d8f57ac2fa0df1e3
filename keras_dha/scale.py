"""Scale: how large a default network the time of a run is well spent on.

A run of a number of seconds has a network that fits them: too small a one has
learned all it can before the time is up, too large a one is not trained to
the end. The networks of a ladder are timed one after the other, for a few
steps each; the last one is taken whose steps are enough.

First comes some width, then resolution, then the search of an architecture,
then more width; depth is not on the ladder. What is not searched begins with
small images (`keras_dha.small_images`); networks are timed on whole ones. Runs
of 240 s on one core, on whole images alone, test accuracy in per cent and
passes over the images, single runs but where two seeds are said:

    plain training              CIFAR-10, 2,000        5,000
    width 16, stem of stride 2    55.9   151        66.1   81
    width 32, stem of stride 2    57.2    66
    width 16, stem of stride 1    61.2    61        62.5   24
    as the first, depth twice     55.3   101

    with policy and rates       Fashion-MNIST, 10,000  CIFAR-10, 10,000
    width 16                      90.3 (2)  58      73.4   51
    width 24                      90.5 (2)  32      73.4   26
    width 16, slower machine                        72.4   43
    width 24, slower machine                        71.4   21

(`benchmarks.scales`; of CIFAR-10, which was without pooled shortcuts, no
record is kept.)
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
# Images of fewer pixels a side are not made smaller still.
_SMALLEST = 24
# How often each image is to be seen, and how many steps there are to be.
PASSES = 31
STEPS = 1900
# What is searched is to see so many examples at least: few images are learned
# as well by a network with fewer weights that sees them more often. Of 359
# test images of digits, in 240 s, width 32 with 0.15 to 0.33 million weights
# and 302 passes or more missed one, two, two, one and three
# (`peers_digits_1438.json`), and width 64 with 0.6 to 1.5 million weights and
# 69 to 118 passes one, two and two (without a record).
EXAMPLES = 200_000
# More often where the stem is finer than usual: what that gains comes late.
_FINER = 2.0
# What a step of a run takes over one of the network alone; and so that a
# search, whose supernet is slow and traced for long, is a small part of it.
_ALONE, _SEARCHED = 1.2, 3.0
# From one rung to the next, a run takes so many times as long at least.
_RISE = 1.5
# Of the time at most this share is spent on finding out.
_MOST_TIMING = 0.06
_TIMED_STEPS = 5


class Scale(NamedTuple):
    """A rung of the ladder.

    Attributes:
        arguments: Dict, the arguments of the default space.
        is_searched: Whether there is time to search the architecture.
        begins_small: Whether it begins with small images
            (`keras_dha.small_images`): where no architecture is searched, and
            there is something to see in them.
        effort: Float, how many times as long as `PASSES` and `STEPS` of the
            network alone a run takes that is enough.
    """

    arguments: dict
    is_searched: bool
    begins_small: bool
    effort: float


def ladder(shape, is_searched=None):
    """Returns the scales of the default space, a list from small to large.

    Args:
        shape: Shape of an image, `(h, w)` or `(h, w, c)`.
        is_searched: Whether the architecture is searched whatever the scale;
            `None` for where that is well spent time.
    """
    usual = usual_stem_stride(shape)
    strides = [
        stride
        for stride in (4, 2, 1)
        if stride == usual
        or (stride < usual and max(shape[:2]) <= _FINEST * stride)
    ]
    coarse, fine = strides[:-1], strides[-1]
    # Half the stride takes as long as the third width.
    rungs = [(s, w, bool(is_searched)) for s in coarse for w in WIDTHS[:3]]
    if is_searched is None:
        rungs.append((fine, WIDTHS[0], False))
    rungs += [(fine, width, is_searched is not False) for width in WIDTHS]
    return [
        Scale(
            {"width": width, "stem_stride": stride},
            searched,
            not searched and min(shape[:2]) >= _SMALLEST,
            (_SEARCHED if searched else _ALONE)
            * (1.0 if stride == usual else _FINER),
        )
        for stride, width, searched in rungs
    ]


def fitting(build, shape, batch_size, steps, seconds, searched=None, verbose=0):
    """Returns the `Scale` that a time is well spent on.

    Args:
        build: Function `(width, stem_stride)` that returns a network with or
            without choices.
        shape: Shape of an image.
        batch_size: Integer, examples of a step.
        steps: Integer, steps of a pass over the data.
        seconds: Float, what the run may take from now on.
        searched: As `ladder` takes it.
        verbose: Whether to say what was chosen.
    """
    begun = time.monotonic()
    needed = max(PASSES * steps, STEPS)
    scales = ladder(shape, searched)
    chosen, timed, whole = scales[0], None, 0.0
    for scale in scales:
        spent = time.monotonic() - begun
        if scale.arguments != timed:
            if (
                spent > _MOST_TIMING * seconds
                or _RISE * whole > seconds - spent
            ):
                break
            timed = scale.arguments
            network = derive_first(build(**timed))
            each = seconds_per_step(network, batch_size)
            spent = time.monotonic() - begun
        searched_for = EXAMPLES / batch_size if scale.is_searched else 0
        whole = scale.effort * each * max(needed, searched_for)
        if whole > seconds - spent:
            break
        chosen = scale
    progress.message(_said(chosen, searched), verbose)
    return chosen


def _said(scale, searched):
    said = "Fits the time: width {width}, stem of stride {stem_stride}".format(
        **scale.arguments
    )
    if scale.begins_small:
        said += "; small images first"
    if searched is None and not scale.is_searched:
        said += "; its architecture is not searched in so short a time"
    return said


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
