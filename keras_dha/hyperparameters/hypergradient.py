"""Hypergradients: how the search loss answers to learning rate and friends.

A step w_{t+1}, b_{t+1} = update(w_t, b_t, g_t; h) is differentiated forward,
one tangent pair (Z = dw/dh, V = db/dh) for each hyperparameter h of the
optimizer, with d the derivative of the update (`inner_update.pushforward`):

    Z_{t+1}, V_{t+1} = d update(k Z_t, k V_t, dg_t; dh = 1)

The search loss is taken at averaged weights wbar <- beta wbar + (1 - beta) w,
so its hypergradient needs the average of Z:

    dL_S(wbar)/dh = <grad L_S(wbar), Zbar>,   Zbar <- beta Zbar + (1 - beta) Z

Weights of the moment shake by the noise of batches, the more the higher the
rate; a loss at them asks for low rates, as if the run were to end there. At its
end rates are low and nothing shakes. The average over a share of the run has
little of it too, so that is what the discounted horizon is judged at, in a
longer run by a longer one. But only in front of normalisations: there weights
that shake grow, which brings their steps down by itself. Elsewhere a rate that
is too high stays so, units die of it, and an average does not show that before
it has happened; there the loss is taken at the weights of the moment.

What tells horizons apart is how much of the past is kept (k), and what they
take for dg = H Z, the answer of the training gradient (H its Hessian):

    one step       k = 0                    dg = 0
    discounted     k = gamma                dg = -k c g, the part that is known
    forward mode   k = 1, or 0 every K      dg = H Z, exact
    implicit       k = 0, and in place of v the Neumann series (below)

One step is the form of DHA; it sees only the next step and prefers small
learning rates. The discounted one sees what a rate does to where training is
going, and what decay does to weights in front of a normalisation: there the
part c w of Z has a known answer (`keras_dha.hyperparameters.scale_invariance`).
Forward mode is exact within its K steps and costs a Hessian product
for each hyperparameter and step. It starts anew in the step behind a multiple
of K, so that an outer step at a multiple sees K steps. The implicit one asks
how the optimum moves, which only regularisers do:

    dL_S/dh = -<p, d(grad L_T)/dh>,   p = alpha sum_{i<=n} (I - alpha H)^i v

which tends to H^-1 v (Lorraine et al., "Optimizing millions of
hyperparameters by implicit differentiation", AISTATS 2020).
With alpha = eta / (1 + mu) it converges where SGD with momentum does. AdamW has
alpha = eta, and a series of plain descent: its division P by the gradients'
size is left out. So n terms look a short way there, and of decay the derivative
is that of an L2 penalty; decoupled, it has H + lambda P in place of H + lambda.

What acts through the training loss (label smoothing, a weight of one's own)
needs d(grad L_T)/dh only against one vector, v or p:

    dL_S/dh = -eta <v, d(grad L_T)/dh>

one derivative of the backward pass for all of them. In the discounted sum
this is every term's share as long as v changes slowly, so that horizon takes
v at the averaged weights and leaves the sum to the average over updates.
"""

from typing import NamedTuple

from keras import ops

from keras_dha.inner_update import Inputs
from keras_dha.inner_update import average

# What the update rules take; they have tangents.
OPTIMIZER = ("learning_rate", "weight_decay", "momentum")


class Horizon(NamedTuple):
    """How far a hypergradient looks back.

    Attributes:
        discount: Float in [0, 1], gamma: what a tangent keeps per step.
        averaging: Float in [0, 1), beta: what the averages keep per step, at
            the least.
        restart: Integer K; if not 0, forward mode with exact Hessian
            products that starts anew every K steps: in those numbered 1,
            K + 1, 2 K + 1, ... from 0.
        terms: Integer n; if not 0, the implicit one with n Hessian products.
        window: Float in [0, 1); the averages reach back over this share of
            the run's steps, 1 / (1 - beta), where that is more; but not over
            more than a quarter of the steps so far, or they would still be
            where training began. If most weights are not in front of a
            normalisation, there are no averages instead.
    """

    discount: float = 0.998
    averaging: float = 0.99
    restart: int = 0
    terms: int = 0
    window: float = 0.0

    @property
    def needs_hessian(self):
        """Whether Hessian products are to be had."""
        return bool(self.restart or self.terms)

    @property
    def follows_lengths(self):
        """Whether tangents need their parts along scale-invariant weights."""
        return bool(self.discount and not self.restart)

    def averaging_at(self, step, steps, is_normalised):
        """Returns beta at a step of a run of so many steps, a float.

        Args:
            step, steps: Its number, and how many there will be.
            is_normalised: Whether the length of most weights does not matter.
        """
        if self.window and not is_normalised:
            return 0.0
        reach = max(1.0, min(self.window * steps, step / 4))
        return max(self.averaging, 1.0 - 1.0 / reach)


DISCOUNTED = Horizon(window=0.1)
ONE_STEP = Horizon(discount=0.0, averaging=0.0)
FORWARD = Horizon(discount=1.0, averaging=0.0, restart=16)
IMPLICIT = Horizon(discount=0.0, averaging=0.0, terms=8)
HORIZONS = {
    "discounted": DISCOUNTED,
    "one_step": ONE_STEP,
    "forward": FORWARD,
    "implicit": IMPLICIT,
}


def check_horizon(horizon):
    """Refuses a horizon that is none."""
    shares = (horizon.discount, horizon.averaging, horizon.window)
    counts = (horizon.restart, horizon.terms)
    if not (
        (0 <= shares[0] <= 1 and all(0 <= s < 1 for s in shares[1:]))
        and all(isinstance(n, int) and n >= 0 for n in counts)
    ):
        raise ValueError(
            "A horizon's `discount` must be in [0, 1], its `averaging` and "
            "`window` in [0, 1), `restart` and `terms` integers of at least 0. "
            f"Received: horizon={horizon}"
        )
    # Hessian products stand for the memory that other horizons have.
    expected = horizon
    if horizon.terms:
        expected = IMPLICIT._replace(terms=horizon.terms)
    elif horizon.restart:
        expected = FORWARD._replace(restart=horizon.restart)
    if horizon != expected:
        raise ValueError(
            "A horizon with `terms` is the implicit one, and with `restart` "
            "the one of forward mode; they look back by nothing else. "
            f"Expected {expected}. Received: horizon={horizon}"
        )


class Tangents(NamedTuple):
    """Derivatives by one hyperparameter.

    Attributes:
        weights: Z, shape `(P,)`.
        slots: V, tuple of vectors, one for each slot of the update rule.
        averaged: Zbar, shape `(P,)`.
        radial: c of Z's part c w along scale-invariant weights, repeated over
            variables, shape `(P,)`; 0 elsewhere.
    """

    weights: object
    slots: tuple
    averaged: object
    radial: object = 0.0


def advance(
    rule,
    at,
    extent,
    name,
    direct,
    tangents,
    horizon,
    product=None,
    penalty=None,
):
    """Returns the `Tangents` of one hyperparameter after an inner step.

    Args:
        rule: `inner_update.UpdateRule`.
        at, extent: `Inputs` and `Extent` of the step.
        name: One of `OPTIMIZER`.
        direct: What this hyperparameter adds to the rule's input of that
            name: a scalar, or `(P,)` for a group of layers.
        tangents: `Tangents` before the step.
        horizon: `Horizon`.
        product: Function from a vector to its product with the Hessian of
            the training loss; needed if `horizon.restart`.
        penalty: `(P,)`, rho of penalties rho w^2 / 2 that the training loss
            has; by default none.
    """
    keep = horizon.discount
    if horizon.restart:
        # The count is from 1. Started anew at multiples themselves, outer
        # steps there would see one step.
        begins = ops.equal(ops.mod(extent.count - 2.0, horizon.restart), 0.0)
        keep = keep * ops.cast(ops.logical_not(begins), at.weights.dtype)
    weights = keep * tangents.weights
    gradient = 0.0
    if horizon.restart:
        gradient = product(weights)
    elif horizon.follows_lengths:
        data, curved = at.gradient, 0.0
        if penalty is not None:
            data = data - penalty * at.weights
            curved = penalty * weights
        gradient = curved - keep * tangents.radial * data
    inward = Inputs(
        weights=weights,
        slots=tuple(keep * slot for slot in tangents.slots),
        gradient=gradient,
        learning_rate=0.0,
        weight_decay=0.0,
        momentum=0.0,
    )._replace(**{name: direct})
    weights, slots = rule.pushforward(at, inward, extent)
    return tangents._replace(
        weights=weights,
        slots=slots,
        averaged=average(tangents.averaged, weights, horizon.averaging),
    )


def implicit_vector(vector, product, step, horizon):
    """Returns p / alpha, the Neumann series of the implicit horizon.

    Args:
        vector: v, shape `(P,)`.
        product: Function from a vector to its product with the Hessian of
            the training loss.
        step: Scalar alpha, below 2 over the Hessian's largest eigenvalue
            (`inner_update.UpdateRule.neumann_step`).
        horizon: `Horizon`.
    """
    total = term = vector
    for _ in range(horizon.terms):
        term = term - step * product(term)
        total = total + term
    return total


def hypergradient(search_gradient, tangents):
    """Returns dL_S(wbar)/dh, a scalar.

    Args:
        search_gradient: Gradient of the search loss at the averaged weights,
            shape `(P,)`.
        tangents: `Tangents` of the hyperparameter.
    """
    return ops.sum(search_gradient * tangents.averaged)


def alignment(search_gradient, tangents, where=1.0):
    """Returns the hypergradient as a cosine, a scalar in [-1, 1].

    Free of the scales of loss, weights and hyperparameter, which change by
    orders of magnitude during training; its sign is the hypergradient's.

    Args:
        search_gradient, tangents: As for `hypergradient`.
        where: `(P,)`, 1 on the weights that the hyperparameter acts on.
    """
    search_gradient = where * search_gradient
    scale = ops.norm(search_gradient) * ops.norm(where * tangents.averaged)
    return hypergradient(search_gradient, tangents) / (scale + 1e-12)
