"""Scale: how large a default network the time of a run is well spent on.

A run of a number of seconds has a network that fits them: too small a one has
learned all it can before the time is up, too large a one is not trained to
the end. Networks of a ladder are timed one after the other, for a few steps
each; the largest that sees every image often enough is taken.
"""

import time

import numpy as np
import tensorflow as tf

from keras_dha import progress
from keras_dha.architecture.derive import derive_first

# Widths of the first stage; from one to the next, weights about double.
WIDTHS = (16, 24, 32, 48, 64, 96)
# How often each image is to be seen, and how many steps there are to be. In
# single trials on CIFAR-10, 10,000 images, widths 16 and 32 ended level at 110
# and 50 passes, and on digits 96 was no better than 16 in as much time.
PASSES = 100
STEPS = 8000
# What a run takes over steps of its first candidates alone: other candidates,
# the search, policy and hyperparameters.
_OVERHEAD = 2.0
# Of the time at most this share is spent on finding out.
_MOST_TIMING = 0.06
_TIMED_STEPS = 5


def fitting(build, batch_size, steps, seconds, verbose=0):
    """Returns the arguments of a space that a time is well spent on.

    Args:
        build: Function `(width)` that returns a network with or without
            choices.
        batch_size: Integer, examples of a step.
        steps: Integer, steps of a pass over the data.
        seconds: Float, what the run may take from now on.
        verbose: Whether to say what was chosen.

    Returns:
        A dict with the `"width"`, one of `WIDTHS`.
    """
    begun = time.monotonic()
    needed = max(PASSES * steps, STEPS)
    chosen = WIDTHS[0]
    for width in WIDTHS[1:]:
        each = seconds_per_step(derive_first(build(width=width)), batch_size)
        spent = time.monotonic() - begun
        if _OVERHEAD * each * needed > seconds - spent:
            break
        chosen = width
        if spent > _MOST_TIMING * seconds:
            break
    progress.message(f"Width {chosen} fits the time", verbose)
    return {"width": chosen}


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
