"""Update rules, written out as pure functions on flat vectors.

All weights of a model are one vector `w`, all velocities one vector `b`: a
rule then reads as its equation, its derivatives are dot products, and one
all-reduce serves every replica. These are the rules that hypergradients are
taken through, so they must not hide inside an optimizer object.
"""

from typing import NamedTuple

from keras import ops


class SGDStep(NamedTuple):
    """The result of one `sgd` step; all vectors of shape `(P,)`."""

    weights: object
    velocity: object
    direction: object


def sgd(
    weights,
    velocity,
    gradient,
    learning_rate,
    weight_decay,
    momentum,
    decayed,
    active,
):
    """One step of stochastic gradient descent with momentum and decay.

        u  = momentum * b + g + weight_decay * w      (decay where `decayed`)
        w' = w - learning_rate * u,    b' = u         (where `active`)

    Where not `active`, neither weights nor velocity move: these are the
    candidates that did not run, and a zero gradient is not a gradient.

    Args:
        weights, velocity, gradient: float tensors of shape `(P,)`.
        learning_rate, weight_decay, momentum: Scalars.
        decayed: Tensor `(P,)`, 1 where weight decay applies, else 0.
        active: Tensor `(P,)`, 1 where the weight took part in the step.

    Returns:
        An `SGDStep`; `direction` is the u that was applied, 0 if inactive.

    Reference:
        Sutskever et al., "On the importance of initialization and momentum
        in deep learning", ICML 2013; coupled decay as in the DHA paper.
    """
    direction = active * (
        momentum * velocity + gradient + weight_decay * decayed * weights
    )
    return SGDStep(
        weights - learning_rate * direction,
        direction + (1.0 - active) * velocity,
        direction,
    )


class AdamState(NamedTuple):
    """First and second moment `(P,)` and the count of steps, a scalar."""

    first: object
    second: object
    count: object


def adam(
    values,
    gradient,
    state,
    learning_rate,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
):
    """One step of Adam; returns the new values and the new `AdamState`.

    Args:
        values, gradient: float tensors of shape `(P,)`.
        state: `AdamState`, zeros at the start.
        learning_rate: Scalar or tensor `(P,)`.
        beta_1, beta_2, epsilon: Floats, as in the paper.

    Reference:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015,
        algorithm 1.
    """
    count = state.count + 1.0
    first = beta_1 * state.first + (1.0 - beta_1) * gradient
    second = beta_2 * state.second + (1.0 - beta_2) * ops.square(gradient)
    first_hat = first / (1.0 - ops.power(beta_1, count))
    second_hat = second / (1.0 - ops.power(beta_2, count))
    change = learning_rate * first_hat / (ops.sqrt(second_hat) + epsilon)
    return values - change, AdamState(first, second, count)
