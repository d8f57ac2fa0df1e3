"""Hypergradients: how the search loss answers to learning rate and friends.

The inner step (see `keras_dha.inner_update.sgd`), with s_t the base schedule:

    u_t = mu b_t + g_t + lambda w_t,   b_{t+1} = u_t,
    w_{t+1} = w_t - s_t eta u_t

is differentiated forward, one tangent pair (V = db/dh, Z = dw/dh) per
hyperparameter h, with the Hessian of the training loss left out (dg/dw = 0)
and the past discounted by gamma:

    V_{t+1} = gamma mu V_t + D_t        D = 0 (eta), w_t (lambda), b_t (mu)
    Z_{t+1} = gamma Z_t - s_t (eta V_{t+1} + [h is eta] u_t)

The search loss is taken at the averaged weights wbar <- beta wbar +
(1 - beta) w, so its hypergradient needs the average of Z:

    dL_S(wbar)/dh = <grad L_S(wbar), Zbar>,   Zbar <- beta Zbar + (1 - beta) Z

With gamma = beta = 0 this is the exact one-step hypergradient of DHA, which
sees only the next step and prefers small learning rates; the long horizon
sees what a rate does to where training is going.
"""

from typing import NamedTuple

from keras import ops

LEARNABLE = ("learning_rate", "weight_decay", "momentum")


class Horizon(NamedTuple):
    """How far a hypergradient looks back.

    Attributes:
        discount: Float in [0, 1], gamma: what a tangent keeps per step.
        averaging: Float in [0, 1), beta: what the averages keep per step.
    """

    discount: float = 0.998
    averaging: float = 0.98


# What learning uses by default, and the form of the DHA paper.
LONG = Horizon()
ONE_STEP = Horizon(discount=0.0, averaging=0.0)


class Tangents(NamedTuple):
    """Derivatives by one hyperparameter; vectors of shape `(P,)`.

    Attributes:
        velocity: V, of the velocity.
        weights: Z, of the weights.
        averaged: Zbar, of the averaged weights.
    """

    velocity: object
    weights: object
    averaged: object


def average(averaged, weights, horizon):
    """Returns the averaged weights after one step, shape `(P,)`."""
    return horizon.averaging * averaged + (1.0 - horizon.averaging) * weights


def advance(
    name,
    tangents,
    weights,
    velocity,
    direction,
    learning_rate,
    momentum,
    decayed,
    active,
    schedule,
    horizon,
):
    """Returns the `Tangents` of one hyperparameter after an inner step.

    Args:
        name: One of `LEARNABLE`.
        tangents: `Tangents` before the step.
        weights, velocity: w_t and b_t *before* the step, shape `(P,)`.
        direction: u_t, the direction that the step applied, shape `(P,)`.
        learning_rate: Scalar, eta without the schedule.
        momentum: Scalar, mu.
        decayed, active: As given to `sgd`, shape `(P,)`.
        schedule: Scalar, s_t.
        horizon: `Horizon`.
    """
    if name == "learning_rate":
        # dg/dw = 0 leaves the velocity untouched by the rate.
        velocity_tangent = tangents.velocity
        change = direction
    else:
        direct = decayed * weights if name == "weight_decay" else velocity
        moved = horizon.discount * momentum * tangents.velocity + direct
        # What did not take part keeps its velocity, and so its tangent.
        velocity_tangent = active * moved + (1.0 - active) * tangents.velocity
        change = learning_rate * active * moved
    weights_tangent = horizon.discount * tangents.weights - schedule * change
    return Tangents(
        velocity_tangent,
        weights_tangent,
        average(tangents.averaged, weights_tangent, horizon),
    )


def hypergradient(search_gradient, tangents):
    """Returns dL_S(wbar)/dh, a scalar.

    Args:
        search_gradient: Gradient of the search loss at the averaged weights,
            shape `(P,)`.
        tangents: `Tangents` of the hyperparameter.
    """
    return ops.sum(search_gradient * tangents.averaged)


def alignment(search_gradient, tangents):
    """Returns the hypergradient as a cosine, a scalar in [-1, 1].

    Free of the scales of loss, weights and hyperparameter, which change by
    orders of magnitude during training; its sign is the hypergradient's.
    """
    scale = ops.norm(search_gradient) * ops.norm(tangents.averaged)
    return hypergradient(search_gradient, tangents) / (scale + 1e-12)
