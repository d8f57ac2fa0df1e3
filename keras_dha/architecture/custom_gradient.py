"""Gradients of one's own that live as long as the graph they are part of.

TensorFlow keeps the gradient functions of `tf.custom_gradient` for ever, and
with each of them its graph (tensorflow/tensorflow#97697): of a supernet some
hundred megabytes for each `fit` of a process. Here the graph keeps them.

The table they are kept in has no public way to it: the private hook is here.
"""

import functools
import weakref

import tensorflow as tf
from tensorflow.python.framework import ops


def custom_gradient(function):
    """Returns `tf.custom_gradient(function)` whose graph can be forgotten.

    Args:
        function: As `tf.custom_gradient` takes it, of positional arguments.
    """

    @functools.wraps(function)
    def run(*arguments):
        outputs = tf.custom_gradient(function)(*arguments)
        if not tf.executing_eagerly():
            _hand_over(tf.nest.flatten(outputs)[0].op)
        return outputs

    return run


def _hand_over(operation):
    """Lets the graph keep the gradient function of an operation in it."""
    name = operation.get_attr("_gradient_op_type").decode()
    entry = ops.gradient_registry._registry[name]
    gradient = entry["type"]
    # An attribute, as a table by graphs would hold them by their gradients.
    graph = operation.graph
    if not hasattr(graph, "keras_dha_gradients"):
        graph.keras_dha_gradients = []
    graph.keras_dha_gradients.append(gradient)
    entry["type"] = _weakly(gradient)


def _weakly(function):
    reference = weakref.ref(function)

    def run(*arguments):
        return reference()(*arguments)

    return run
