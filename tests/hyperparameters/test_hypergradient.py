import numpy as np
import pytest
import tensorflow as tf

from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.hypergradient import Tangents
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW
from tests import references
from tests.references import central_difference

SIZE, STEPS = 7, 6
NAMES = hypergradient.OPTIMIZER
RULES = {
    "sgd": (SGD(), references.numpy_sgd),
    "nesterov": (SGD(nesterov=True), references.numpy_nesterov),
    "adamw": (AdamW(), references.numpy_adamw),
}


class Problem:
    """A training loss that is linear or quadratic in w; in NumPy alone.

    Args:
        curved: Whether the Hessian is other than 0.
        values: Changes of learning rate, weight decay and momentum.
    """

    def __init__(self, curved, **values):
        rng = np.random.default_rng(0)
        self.w = rng.normal(size=SIZE)
        self.slots = np.abs(rng.normal(size=(2, SIZE)))
        self.g = rng.normal(size=(STEPS, SIZE))
        self.v = rng.normal(size=SIZE)
        root = rng.normal(size=(SIZE, SIZE))
        self.hessian = curved * root @ root.T / SIZE
        self.schedule = np.linspace(1.0, 0.3, STEPS)
        self.values = {
            "learning_rate": 0.1,
            "weight_decay": 0.2,
            "momentum": 0.9,
            **values,
        }

    def gradient(self, t, w):
        return self.g[t] + self.hessian @ w

    def trajectory(self, stepper, rule, values, begin=0, state=None):
        """[(w, slots)] from the step `begin` on."""
        w, slots = state or (self.w, tuple(self.slots[: len(rule.slots)]))
        path = [(w, slots)]
        for t in range(begin, STEPS):
            w, slots = stepper(
                w,
                slots,
                self.gradient(t, w),
                values["learning_rate"],
                values["weight_decay"],
                values["momentum"],
                self.schedule[t],
                count=t + 1,
            )
            path.append((w, slots))
        return path


def averages(path, averaging):
    averaged = path[0][0]
    for w, _ in path[1:]:
        averaged = averaging * averaged + (1 - averaging) * w
    return averaged


def followed(problem, rule, name, horizon):
    """The tangents that the library carries along the same steps."""
    double = lambda x: tf.constant(x, "float64")  # noqa: E731
    w = double(problem.w)
    slots = tuple(double(s) for s in problem.slots[: len(rule.slots)])
    zeros = tf.zeros([SIZE], "float64")
    tangents = Tangents(zeros, (zeros,) * len(slots), zeros)
    for t in range(STEPS):
        schedule = double(problem.schedule[t])
        at = Inputs(
            w,
            slots,
            double(problem.gradient(t, w.numpy())),
            schedule * problem.values["learning_rate"],
            double(problem.values["weight_decay"]),
            double(problem.values["momentum"]),
        )
        extent = Extent(zeros + 1.0, None, [SIZE], double(t + 1.0))
        tangents = hypergradient.advance(
            rule,
            at,
            extent,
            name,
            schedule if name == "learning_rate" else 1.0,
            tangents,
            horizon,
            lambda u: tf.linalg.matvec(double(problem.hessian), u),
        )
        w, slots, _ = rule.step(at, extent)
    return tangents


def check(problem, rule, stepper, name, horizon, kept=STEPS):
    """The library's hypergradient against central differences.

    Args:
        kept: How many of the last steps depend on the hyperparameter.
    """
    ours = hypergradient.hypergradient(
        tf.constant(problem.v), followed(problem, rule, name, horizon)
    )
    begin = STEPS - kept
    state = problem.trajectory(stepper, rule, problem.values)[begin]

    def loss(value):
        values = {**problem.values, name: value}
        path = problem.trajectory(stepper, rule, values, begin, state)
        return problem.v @ averages(path, horizon.averaging)

    expected = central_difference(loss, problem.values[name])
    assert abs(expected) > 1e-4
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


each = pytest.mark.parametrize(
    "rule, stepper", RULES.values(), ids=RULES.keys()
)
each_name = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("averaging", [0.0, 0.7])
@each
@each_name
def test_long_horizon_of_a_linear_loss_is_exact(rule, stepper, name, averaging):
    horizon = Horizon(discount=1.0, averaging=averaging)
    check(Problem(curved=False), rule, stepper, name, horizon)


@each
@each_name
def test_one_step_sees_only_the_last_step(rule, stepper, name):
    check(
        Problem(curved=True),
        rule,
        stepper,
        name,
        hypergradient.ONE_STEP,
        kept=1,
    )


@pytest.mark.parametrize("restart, kept", [(5, 5), (4, 1), (3, 2)])
@each
@each_name
def test_forward_mode_is_exact_since_it_began_anew(
    rule, stepper, name, restart, kept
):
    horizon = hypergradient.FORWARD._replace(restart=restart)
    check(Problem(curved=True), rule, stepper, name, horizon, kept)


@each_name
def test_without_the_hessian_a_curved_loss_is_not_exact(name):
    """What the discounted horizon leaves out is there to be left out."""
    rule, stepper = RULES["sgd"]
    with pytest.raises(AssertionError, match="Mismatch"):
        check(Problem(curved=True), rule, stepper, name, Horizon(1.0, 0.0))


def test_discounting_weighs_each_steps_share():
    """sum_t gamma^(T-t) times the one-step term of step t, by hand."""
    problem, gamma = Problem(False, weight_decay=0.0, momentum=0.0), 0.5
    tangents = followed(problem, SGD(), "learning_rate", Horizon(gamma, 0.0))
    weights = gamma ** np.arange(STEPS)[::-1] * problem.schedule
    np.testing.assert_allclose(tangents.weights, -weights @ problem.g)


class Ridge:
    """Ridge regression, solved exactly."""

    def __init__(self):
        rng = np.random.default_rng(3)
        x, noise = rng.normal(size=(2, 12, SIZE))
        y = x @ rng.normal(size=SIZE) + rng.normal(size=12)
        self.hessian, self.target = x.T @ x / 12, x.T @ y / 12
        self.x_search, self.y_search = noise, noise @ rng.normal(size=SIZE)
        self.decay = 0.3

    def optimum(self, decay):
        return np.linalg.solve(self.hessian + decay * np.eye(SIZE), self.target)

    def search_gradient(self, w):
        return self.x_search.T @ (self.x_search @ w - self.y_search) / 12

    def hypergradient(self):
        """d/d(decay) of the search loss at the optimum, by differences."""

        def loss(decay):
            error = self.x_search @ self.optimum(decay) - self.y_search
            return error @ error / 24

        return central_difference(loss, self.decay)

    def product(self, vector):
        return tf.linalg.matvec(tf.constant(self.hessian), vector)


def test_the_implicit_horizon_solves_ridge_regression():
    ridge, step = Ridge(), 0.3
    w = ridge.optimum(ridge.decay)
    vector = hypergradient.implicit_vector(
        tf.constant(ridge.search_gradient(w)),
        lambda u: ridge.product(u) + ridge.decay * u,
        step,
        Horizon(0.0, 0.0, terms=300),
    )
    # d(grad L_T)/d(decay) = w
    ours = -step * tf.reduce_sum(vector * w)
    np.testing.assert_allclose(ours, ridge.hypergradient(), rtol=1e-6)
    # Without terms it is one step's: another number.
    assert abs(-step * ridge.search_gradient(w) @ w / ours - 1) > 0.1


@pytest.mark.parametrize("name", ["sgd", "nesterov"])
def test_forward_mode_converges_to_the_implicit_hypergradient(name):
    """Ridge regression, trained until it is solved."""
    ridge, (rule, _) = Ridge(), RULES[name]
    w = tf.zeros([SIZE], "float64")
    zeros = tf.zeros([SIZE], "float64")
    tangents = Tangents(zeros, (zeros,), zeros)
    slots = (zeros,)
    for t in range(400):
        gradient = ridge.product(w) - ridge.target
        at = Inputs(w, slots, gradient, 0.2, ridge.decay, 0.5)
        extent = Extent(
            zeros + 1.0, None, [SIZE], tf.constant(t + 1.0, "float64")
        )
        tangents = hypergradient.advance(
            rule,
            at,
            extent,
            "weight_decay",
            1.0,
            tangents,
            hypergradient.FORWARD._replace(restart=1000),
            ridge.product,
        )
        w, slots, _ = rule.step(at, extent)
    np.testing.assert_allclose(w, ridge.optimum(ridge.decay), rtol=1e-8)
    ours = hypergradient.hypergradient(
        tf.constant(ridge.search_gradient(w.numpy())), tangents
    )
    np.testing.assert_allclose(ours, ridge.hypergradient(), rtol=1e-6)


@pytest.mark.parametrize("half", [False, True])
def test_alignment_is_the_cosine(half):
    problem = Problem(True)
    tangents = followed(problem, SGD(), "learning_rate", Horizon())
    where = np.repeat([1.0, 0.0], [3, SIZE - 3]) if half else np.ones(SIZE)
    v, z = where * problem.v, where * tangents.averaged.numpy()
    expected = v @ z / np.linalg.norm(v) / np.linalg.norm(z)
    ours = hypergradient.alignment(tf.constant(problem.v), tangents, where)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    for length in (1e-6, 1e6):
        np.testing.assert_allclose(
            hypergradient.alignment(
                tf.constant(length * problem.v), tangents, where
            ),
            expected,
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_inactive_has_no_tangent(name):
    problem = Problem(True)
    zeros = tf.zeros([SIZE], "float64")
    at = Inputs(
        tf.constant(problem.w),
        (tf.constant(problem.slots[0]),),
        zeros,
        0.1,
        0.2,
        0.9,
    )
    extent = Extent(zeros + 1.0, zeros > 0, [SIZE], tf.constant(1.0, "float64"))
    start = Tangents(zeros, (zeros,), zeros)
    moved = hypergradient.advance(
        SGD(), at, extent, name, 1.0, start, Horizon()
    )
    for tangent in tf.nest.flatten(moved):
        np.testing.assert_array_equal(tangent, 0.0)
