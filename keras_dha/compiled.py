"""Compiled steps: the joint model's step as TensorFlow functions."""

import contextlib

import keras
import tensorflow as tf


@contextlib.contextmanager
def unoptimized_graphs():
    """Lets TensorFlow run graphs as they are, on machines without a GPU.

    Optimizing the graph of a supernet, all of whose candidates stand in
    branches, takes longer than building it, and makes no step faster there.
    """
    if tf.config.list_physical_devices("GPU"):
        yield
        return
    before = tf.config.optimizer.get_experimental_options()
    was_off = before.get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(
            {"disable_meta_optimizer": was_off}
        )


def step_functions(joint, distribution):
    """Returns the compiled (inner step, joint step)."""
    with distribution.scope():
        # Layers may draw without a seed. What Keras draws by then is made by
        # the first such draw, and cannot be made inside of a step.
        keras.random.uniform(())

    def run(batch, schedule, search_batch=None):
        loss = distribution.run(
            joint.train_step, args=(batch, schedule, search_batch)
        )
        # Summed over replicas already: all of them hold the same value.
        return distribution.experimental_local_results(loss)[0]

    # XLA would compile for minutes and run slower where paths branch; there
    # is no Python control flow to convert, and not trying traces faster.
    return tuple(
        tf.function(run, jit_compile=False, autograph=False) for _ in range(2)
    )
