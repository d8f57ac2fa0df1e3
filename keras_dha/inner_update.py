"""Update steps on flat vectors: what every rule shares.

All weights of a model are one vector `w`: a rule then reads as its equation,
its derivatives are dot products, and one all-reduce serves every replica.
Hypergradients are taken through these rules, so a rule also says how its step
answers to small changes of everything that goes into it (`pushforward`); it
must not hide inside an optimizer object. The rules themselves are in
`keras_dha.update_rules`.
"""

from typing import NamedTuple

from keras import ops


class Inputs(NamedTuple):
    """What a step is made from; also the tangents of these.

    Attributes:
        weights: w, shape `(P,)`.
        slots: Tuple of vectors `(P,)`, what the rule remembers.
        gradient: g, shape `(P,)`.
        learning_rate: eta with the base schedule in it; a scalar, or `(P,)`
            where groups of layers have their own.
        weight_decay: lambda, likewise.
        momentum: mu, or beta_1 of AdamW, likewise.
    """

    weights: object
    slots: tuple
    gradient: object
    learning_rate: object
    weight_decay: object
    momentum: object


class Extent(NamedTuple):
    """Where and when a step applies.

    Attributes:
        decayed: `(P,)`, 1 where weight decay applies, else 0.
        active: Booleans `(P,)`, where the weight took part in the step, or
            `None`: everywhere. Elsewhere nothing moves: these are the
            candidates that did not run, and a zero gradient is not a gradient.
        sizes: List of integers, the sizes of the variables in the vector.
        count: Float scalar, number of this step, from 1.
        counts: For each weight the number of steps that it took part in, with
            this one, `(P,)`; or `None`, where that is `count` for all.
    """

    decayed: object
    active: object
    sizes: list
    count: object
    counts: object = None

    @property
    def steps(self):
        """Number of this step, for each weight where they differ."""
        return self.count if self.counts is None else self.counts


class Step(NamedTuple):
    """The result of a step; `direction` is the u that was applied."""

    weights: object
    slots: tuple
    direction: object


class UpdateRule:
    """A step w' = w - eta u, and its derivative.

        dw' = dw - deta u - eta du

    Subclasses say what u and the slots become (`_direction`), and how these
    answer to tangents of all inputs (`_direction_tangent`).

    Args:
        clipnorm: Float; each variable's gradient is scaled down to this norm.
        global_clipnorm: Float; the same for the whole gradient, of what took
            part in the step.
        decays_all: Whether decay applies to all weights, as in Keras'
            optimizers, and not to kernels and embeddings alone.

    Attributes:
        slots: Names of the vectors that a step remembers,
        orders: and of which power of the gradient each of them is.
        pullback_order: Integer k: where the gradient is s times as large,
            so is a vector, and its pullback s |s|^(k - 1) times.
        counts: Whether a step depends on how many there were before.
        rates: Pair of learning rates between which a range test looks.

    Raises:
        ValueError: Both norms are given, or one is not positive.
    """

    slots = ()
    orders = ()
    pullback_order = 1
    counts = False
    rates = (1e-3, 3.0)

    def __init__(self, clipnorm=None, global_clipnorm=None, decays_all=False):
        given = [n for n in (clipnorm, global_clipnorm) if n is not None]
        if len(given) > 1 or any(norm <= 0 for norm in given):
            raise ValueError(
                "One of `clipnorm` and `global_clipnorm` may be given, a "
                f"positive number. Received: clipnorm={clipnorm}, "
                f"global_clipnorm={global_clipnorm}"
            )
        self.clipnorm = clipnorm
        self.global_clipnorm = global_clipnorm
        self.decays_all = decays_all

    def step(self, at, extent):
        """Returns the `Step` from `Inputs` within an `Extent`."""
        at = at._replace(gradient=self._clip(at.gradient, extent))
        direction, slots = self._direction(at, extent)
        direction = _only(extent.active, direction, 0.0)
        slots = tuple(
            _only(extent.active, new, old)
            for new, old in zip(slots, at.slots, strict=True)
        )
        return Step(at.weights - at.learning_rate * direction, slots, direction)

    def pushforward(self, at, tangent, extent):
        """Returns the tangents of the step's weights and slots.

        Args:
            at: `Inputs` of the step.
            tangent: `Inputs` that hold their tangents.
            extent: `Extent` of the step.

        Returns:
            Pair of a vector `(P,)` and a tuple of vectors.
        """
        tangent = tangent._replace(
            gradient=self._clip_tangent(at.gradient, tangent.gradient, extent)
        )
        at = at._replace(gradient=self._clip(at.gradient, extent))
        direction, _ = self._direction(at, extent)
        change, slots = self._direction_tangent(at, tangent, extent)
        moved = sum_of(
            (tangent.learning_rate, direction), (at.learning_rate, change)
        )
        weights = tangent.weights - _only(extent.active, moved, 0.0)
        return weights, tuple(
            _only(extent.active, new, old)
            for new, old in zip(slots, tangent.slots, strict=True)
        )

    def shrinking(self, at):
        """Returns by what share of itself decay shortens w, per lambda.

        Args:
            at: `Inputs` of the step, of which rate and momentum are used.
        """
        return at.learning_rate

    def neumann_step(self, at):
        """Returns the step of plain descent in the implicit horizon's series.

        Args:
            at: `Inputs` of the step, of which rate and momentum are used.
        """
        return at.learning_rate

    def pullback(self, at, vector, extent):
        """Returns the derivative of <vector, u> by g, shape `(P,)`.

        The rules are elementwise in g, and clipping has a symmetric
        derivative, so the pushforward's parts in reverse order do it.
        """
        clipped = at._replace(gradient=self._clip(at.gradient, extent))
        still = Inputs(0.0, (0.0,) * len(self.slots), vector, 0.0, 0.0, 0.0)
        change, _ = self._direction_tangent(clipped, still, extent)
        change = _only(extent.active, change, 0.0)
        return self._clip_tangent(at.gradient, change, extent)

    def _total(self, vector, extent):
        """Sums over what a norm is taken of."""
        if self.clipnorm is None:
            return ops.sum(vector)
        return spread(sums(vector, extent.sizes), extent.sizes)

    def _clip(self, gradient, extent):
        # g <- g min(1, c / |g|)
        norm = self.clipnorm or self.global_clipnorm
        if norm is None:
            return gradient
        # Penalties are of all candidates, and so have gradients by those that
        # do not run.
        gradient = _only(extent.active, gradient, 0.0)
        square = self._total(ops.square(gradient), extent)
        return _scale(norm, square) * gradient

    def _clip_tangent(self, gradient, tangent, extent):
        # dg <- s (dg - g <g, dg> / |g|^2)   where s = c / |g| < 1
        norm = self.clipnorm or self.global_clipnorm
        if norm is None or is_zero(tangent):
            return tangent
        gradient = _only(extent.active, gradient, 0.0)
        tangent = _only(extent.active, tangent, 0.0)
        square = self._total(ops.square(gradient), extent)
        scale = _scale(norm, square)
        along = self._total(gradient * tangent, extent)
        along = along / ops.maximum(square, 1e-30)
        clipped = ops.cast(scale < 1.0, gradient.dtype)
        return scale * (tangent - clipped * gradient * along)

    def get_config(self):
        """Returns the constructor's arguments as a JSON-able dict."""
        return {
            "clipnorm": self.clipnorm,
            "global_clipnorm": self.global_clipnorm,
            "decays_all": self.decays_all,
        }

    @classmethod
    def from_config(cls, config):
        """Returns the rule that `get_config` described."""
        return cls(**config)

    def _direction(self, at, extent):
        """Returns (u, new slots)."""
        raise NotImplementedError

    def _direction_tangent(self, at, tangent, extent):
        """Returns (du, tangents of the new slots)."""
        raise NotImplementedError


def is_zero(tangent):
    """Whether a tangent is absent, which costs nothing to know."""
    return isinstance(tangent, float) and tangent == 0.0


def sum_of(*products):
    """Sum of products, without those that have an absent factor."""
    total = 0.0
    for left, right in products:
        if is_zero(left) or is_zero(right):
            continue
        is_one = isinstance(left, float) and left == 1.0
        product = right if is_one else left * right
        total = product if is_zero(total) else total + product
    return total


def _only(active, new, old):
    return new if active is None else ops.where(active, new, old)


def _scale(norm, square):
    return ops.minimum(1.0, norm * ops.rsqrt(ops.maximum(square, 1e-30)))


def sums(vectors, sizes):
    """Returns the sums over each variable of vectors, `(..., variables)`.

    Args:
        vectors: Shape `(..., P)`.
        sizes: List of the variables' sizes; they sum to P.
    """
    edges = [sum(sizes[:k]) for k in range(1, len(sizes))]
    parts = ops.split(vectors, edges, axis=-1)
    return ops.stack([ops.sum(part, axis=-1) for part in parts], axis=-1)


def spread(values, sizes):
    """Returns values of variables at each of their elements, `(..., P)`.

    By a fill for each variable: gathering takes tens of times as long, and
    constants would make graphs as large as the weights.

    Args:
        values: Shape `(..., variables)`.
        sizes: List of the variables' sizes; they sum to P.
    """
    leading = values.shape[:-1]
    return ops.concatenate(
        [
            ops.broadcast_to(part, (*leading, size))
            for part, size in zip(
                ops.split(values, len(sizes), axis=-1), sizes, strict=True
            )
        ],
        axis=-1,
    )


# What Adam's moments keep in a step, and its epsilon.
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8


class AdamState(NamedTuple):
    """First and second moment `(P,)` and the count of steps, a scalar."""

    first: object
    second: object
    count: object

    def means(self):
        """Returns the means of gradients and of their squares, `(P,)` each."""
        return (
            self.first / (1.0 - ops.power(_FIRST, self.count)),
            self.second / (1.0 - ops.power(_SECOND, self.count)),
        )

    @classmethod
    def of(cls, layer):
        """Returns what a layer holds in three variables of these names."""
        held = (getattr(layer, name) for name in cls._fields)
        return cls(*(ops.convert_to_tensor(variable) for variable in held))

    def keep_in(self, layer):
        """Assigns them to the three variables of a layer."""
        for name, value in self._asdict().items():
            getattr(layer, name).assign(value)


def average(averaged, values, keep):
    """Returns the exponential average with one more vector in it.

    Args:
        averaged, values: float tensors of shape `(P,)`.
        keep: Float in [0, 1), what of the average is kept.
    """
    return keep * averaged + (1.0 - keep) * values


def adam(values, gradient, state, learning_rate):
    """One step of Adam; returns the new values and the new `AdamState`.

    Args:
        values, gradient: float tensors of shape `(P,)`.
        state: `AdamState`, zeros at the start.
        learning_rate: Scalar or tensor `(P,)`.

    Reference:
        Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015,
        algorithm 1.
    """
    state = AdamState(
        average(state.first, gradient, _FIRST),
        average(state.second, ops.square(gradient), _SECOND),
        state.count + 1.0,
    )
    first, second = state.means()
    change = learning_rate * first / (ops.sqrt(second) + _EPSILON)
    return values - change, state
