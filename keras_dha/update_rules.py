"""Update rules, written out as pure functions with their derivatives."""

import keras
from keras import ops

from keras_dha.inner_update import UpdateRule
from keras_dha.inner_update import is_zero
from keras_dha.inner_update import sum_of


@keras.saving.register_keras_serializable("keras_dha")
class SGD(UpdateRule):
    """Stochastic gradient descent with momentum and weight decay.

    With D the mask of what decays:

        c  = g + lambda D w            (coupled; without the second term else)
        b' = mu b + c
        u  = b'                        (Nesterov: u = mu b' + c)
             + lambda D w              (decoupled only)

    At a constant rate this is `keras.optimizers.SGD`, whose velocity is
    -eta b'. When the rate changes, it takes effect at once here, while a
    velocity of Keras remembers the old one. Keras' `weight_decay` is the
    decoupled one; the coupled one is its `regularizers.L2(lambda / 2)`, and
    acts about 1 / (1 - mu) times as strongly.

    Args:
        nesterov: Whether to use Nesterov's momentum.
        decoupled: Whether weight decay stays out of the velocity.
        **kwargs: As in `UpdateRule`.

    Reference:
        Sutskever et al., "On the importance of initialization and momentum
        in deep learning", ICML 2013; coupled decay as in the DHA paper.
    """

    slots = ("velocity",)
    orders = (1,)

    def __init__(self, nesterov=False, decoupled=False, **kwargs):
        super().__init__(**kwargs)
        self.nesterov = nesterov
        self.decoupled = decoupled

    def _direction(self, at, extent):
        decay = at.weight_decay * extent.decayed * at.weights
        pull = at.gradient if self.decoupled else at.gradient + decay
        velocity = at.momentum * at.slots[0] + pull
        direction = velocity
        if self.nesterov:
            direction = at.momentum * velocity + pull
        if self.decoupled:
            direction = direction + decay
        return direction, (velocity,)

    def _direction_tangent(self, at, tangent, extent):
        # dc  = dg + D (dlambda w + lambda dw)
        # db' = dmu b + mu db + dc
        # du  = db'        (Nesterov: du = dmu b' + mu db' + dc)
        _, (velocity,) = self._direction(at, extent)
        decay = _decay_tangent(at, tangent, extent)
        pull = tangent.gradient
        if not self.decoupled:
            pull = sum_of((1.0, pull), (1.0, decay))
        moved = sum_of(
            (tangent.momentum, at.slots[0]),
            (at.momentum, tangent.slots[0]),
            (1.0, pull),
        )
        direction = moved
        if self.nesterov:
            direction = sum_of(
                (tangent.momentum, velocity), (at.momentum, moved), (1.0, pull)
            )
        if self.decoupled:
            direction = sum_of((1.0, direction), (1.0, decay))
        return direction, (moved,)

    def shrinking(self, at):
        rate = super().shrinking(at)
        return rate if self.decoupled else rate / (1.0 - at.momentum)

    def neumann_step(self, at):
        # Plain descent is stable then where this is: with momentum up to
        # 2 (1 + mu) over the largest eigenvalue, with Nesterov's less.
        return super().neumann_step(at) / (1.0 + at.momentum)

    def get_config(self):
        return {
            **super().get_config(),
            "nesterov": self.nesterov,
            "decoupled": self.decoupled,
        }


@keras.saving.register_keras_serializable("keras_dha")
class AdamW(UpdateRule):
    """Adam with decoupled weight decay, as `keras.optimizers.AdamW`.

        m' = mu m + (1 - mu) g,    q' = beta_2 q + (1 - beta_2) g^2
        k  = sqrt(1 - beta_2^t) / (1 - mu^t)
        u  = k m' / (sqrt q' + epsilon) + lambda D w

    with t the number of steps that a weight took part in: where others were
    without it, its averages have not moved either.

    Args:
        beta_2: Float in [0, 1), what the squares' average keeps per step.
        epsilon: Positive float.
        **kwargs: As in `UpdateRule`.

    Reference:
        Loshchilov & Hutter, "Decoupled weight decay regularization",
        ICLR 2019, algorithm 2; bias correction in Keras' place.
    """

    slots = ("first", "second")
    orders = (1, 2)
    # Of a gradient divided by its size.
    pullback_order = 0
    counts = True
    rates = (1e-5, 0.1)

    def __init__(self, beta_2=0.999, epsilon=1e-7, **kwargs):
        super().__init__(**kwargs)
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def _direction(self, at, extent):
        first, second = self._moments(at)
        correction = self._correction(at, extent)
        direction = correction * first / (ops.sqrt(second) + self.epsilon)
        decay = at.weight_decay * extent.decayed * at.weights
        return direction + decay, (first, second)

    def _direction_tangent(self, at, tangent, extent):
        # dm' = dmu (m - g) + mu dm + (1 - mu) dg
        # dq' = beta_2 dq + (1 - beta_2) 2 g dg
        # dk  = k t mu^(t-1) dmu / (1 - mu^t)
        # du  = (dk m' + k dm') / r - k m' dq' / (2 sqrt(q') r^2)
        #       + D (dlambda w + lambda dw),    r = sqrt(q') + epsilon
        first, second = self._moments(at)
        first_tangent = sum_of(
            (tangent.momentum, at.slots[0] - at.gradient),
            (at.momentum, tangent.slots[0]),
            (1.0 - at.momentum, tangent.gradient),
        )
        second_tangent = sum_of(
            (self.beta_2, tangent.slots[1]),
            (tangent.gradient, 2.0 * (1.0 - self.beta_2) * at.gradient),
        )
        correction = self._correction(at, extent)
        power = _power(at.momentum, extent, -1.0)
        share = extent.steps * power / (1.0 - power * at.momentum)
        size = ops.sqrt(second)
        ratio = correction / (size + self.epsilon)
        # Where q' is 0, so is its tangent.
        slope = first / (2.0 * ops.maximum(size, 1e-30) * (size + self.epsilon))
        direction = sum_of(
            (tangent.momentum, ratio * share * first),
            (first_tangent, ratio),
            (second_tangent, -ratio * slope),
            (1.0, _decay_tangent(at, tangent, extent)),
        )
        return direction, (first_tangent, second_tangent)

    def _moments(self, at):
        first = at.momentum * at.slots[0] + (1.0 - at.momentum) * at.gradient
        second = self.beta_2 * at.slots[1] + (1.0 - self.beta_2) * ops.square(
            at.gradient
        )
        return first, second

    def _correction(self, at, extent):
        return ops.sqrt(1.0 - _power(self.beta_2, extent)) / (
            1.0 - _power(at.momentum, extent)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }


def _power(base, extent, more=0.0):
    """Returns a base in [0, 1) to the power of the number of steps, and more.

    For each weight by an exponential, which takes a tenth of the time.
    """
    steps = extent.steps + more
    if extent.counts is None:
        return ops.power(base, steps)
    base = ops.maximum(ops.cast(base, steps.dtype), 1e-30)
    return ops.exp(steps * ops.log(base))


def _decay_tangent(at, tangent, extent):
    """D (dlambda w + lambda dw)."""
    return sum_of(
        (extent.decayed * tangent.weight_decay, at.weights)
        if not is_zero(tangent.weight_decay)
        else (0.0, 0.0),
        (extent.decayed * at.weight_decay, tangent.weights),
    )
