"""Independent references: NumPy and finite differences, none of our code."""

import numpy as np
from keras import layers

# Keras' layers whose second derivative is wrong as it stands.
NORMALISATIONS = {
    "batch": layers.BatchNormalization,
    "layer": layers.LayerNormalization,
    "group": lambda: layers.GroupNormalization(groups=2),
}


def central_difference(function, at, eps=1e-6):
    """(f(at + eps) - f(at - eps)) / (2 eps), in float64."""
    return (function(at + eps) - function(at - eps)) / (2.0 * eps)


def numpy_sgd(
    w,
    slots,
    g,
    rate,
    decay,
    momentum,
    schedule=1.0,
    count=1,
    nesterov=False,
):
    """One step of SGD with coupled decay and momentum, the long way."""
    del count
    g = g + decay * w
    b = momentum * slots[0] + g
    u = momentum * b + g if nesterov else b
    return w - schedule * rate * u, (b,)


def numpy_nesterov(*args, **kwargs):
    """The same with Nesterov's momentum."""
    return numpy_sgd(*args, nesterov=True, **kwargs)


def numpy_adamw(
    w, slots, g, rate, decay, momentum, schedule=1.0, count=1, epsilon=1e-7
):
    """One step of AdamW in the form that Keras has it, beta_2 of 0.999."""
    m = momentum * slots[0] + (1 - momentum) * g
    q = 0.999 * slots[1] + 0.001 * g**2
    rate = schedule * rate
    bias = np.sqrt(1 - 0.999**count) / (1 - momentum**count)
    w = w - rate * decay * w - rate * bias * m / (np.sqrt(q) + epsilon)
    return w, (m, q)


def positions_of(vector, variables):
    """Returns where the elements of variables stand in a `WeightVector`."""
    positions = vector.positions()
    return np.concatenate([positions[id(v)] for v in variables])


def saying_units(kind):
    """Returns a class of models that say how many `units` they have."""

    class Said(kind):
        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.units = units

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return Said
