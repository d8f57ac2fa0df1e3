"""GDAS against its closed form, and its mean against quadrature."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.strategies import GDAS
from keras_dha.joint_model import JointModel

LOGITS = np.array([0.5, -1.0, 2.0, 0.0])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def searched(progress, **arguments):
    decision = Decision(4)
    decision.logits.assign(LOGITS)
    learned = LearnedArchitecture([decision], GDAS(**arguments))
    learned.advance_to(progress)
    return decision, learned


def draw(learned, uniform):
    learned.sample(lambda k, n: tf.constant(uniform, "float32"))


@pytest.mark.parametrize(
    "progress, expected", [(0.0, 10.0), (0.5, 5.05), (1.0, 0.1)]
)
def test_the_temperature_falls_linearly(progress, expected):
    _, learned = searched(progress)
    assert float(learned.strategy.temperature()) == pytest.approx(
        expected, 1e-4
    )


@pytest.mark.parametrize("progress", [0.0, 0.6, 0.95])
def test_factor_and_gradient_have_the_closed_form(progress):
    """h_k = 1 and dh_k/dlogits_j = p~_k (1[j=k] - p~_j) / tau."""
    decision, learned = searched(progress)
    tau = 10.0 + (0.1 - 10.0) * progress
    rng = np.random.default_rng(0)
    for _ in range(10):
        uniform = rng.uniform(0.01, 0.99, 4)
        draw(learned, uniform)
        perturbed = LOGITS - np.log(-np.log(uniform))
        k = int(np.argmax(perturbed))
        assert int(decision.sampled) == k
        with tf.GradientTape() as tape:
            factor = decision.factors(training=True)[0]
        assert float(factor) == 1.0
        p = softmax(perturbed / tau)
        np.testing.assert_allclose(
            tape.gradient(factor, decision.logits.value),
            p[k] * (np.eye(4)[k] - p) / tau,
            rtol=1e-3,
            atol=1e-6,
        )


def test_the_gradient_goes_through_the_sampled_candidate_alone():
    """dL/dlogits = <dL/dy, y_k> dp~_k/dlogits, whatever the others give."""
    choice = Choice(
        [layers.Rescaling(s, name=f"x{s}") for s in (2, 3, 5, 7)], name="c"
    )
    choice.decision.logits.assign(LOGITS)
    learned = LearnedArchitecture([choice.decision], GDAS())
    learned.advance_to(0.8)
    tau = 10.0 + (0.1 - 10.0) * 0.8
    uniform = np.array([0.9, 0.2, 0.3, 0.4])
    draw(learned, uniform)
    x = tf.constant([[1.0, -2.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(choice(x, training=True) ** 2)
    perturbed = LOGITS - np.log(-np.log(uniform))
    k, p = int(np.argmax(perturbed)), softmax(perturbed / tau)
    credit = 2.0 * 5.0 * (2, 3, 5, 7)[k] ** 2  # <2 y, y>, |x|^2 = 5
    np.testing.assert_allclose(
        tape.gradient(loss, choice.decision.logits.value),
        credit * p[k] * (np.eye(4)[k] - p) / tau,
        rtol=1e-4,
    )


def test_the_mean_gradient_of_two_candidates_equals_quadrature():
    """With two candidates the noise is one logistic variable.

    For a loss c_k of the sampled candidate, the estimator's mean is
    E[c_k p~_k (1[j=k] - p~_j)] / tau over that variable.
    """
    costs, gap, tau = np.array([1.0, 3.0]), 0.7, 2.0
    decision = Decision(2)
    decision.logits.assign([gap, 0.0])
    learned = LearnedArchitecture([decision], GDAS(temperatures=(tau, tau)))
    # E over s ~ logistic, by its quantiles.
    u = (np.arange(200_000) + 0.5) / 200_000
    s = np.log(u / (1 - u)) + gap
    p0 = 1 / (1 + np.exp(-s / tau))
    slope = p0 * (1 - p0) / tau
    expected = np.mean(np.where(s > 0, costs[0] * slope, -costs[1] * slope))

    @tf.function(autograph=False)
    def gradient(uniform):
        learned.sample(lambda k, n: uniform)
        with tf.GradientTape() as tape:
            factor = decision.factors(training=True)[0]
            chosen = tf.gather(tf.constant(costs, "float32"), decision.sampled)
            loss = factor * chosen
        return tape.gradient(loss, decision.logits.value)[0]

    rng = np.random.default_rng(1)
    draws = rng.uniform(1e-6, 1.0, (4000, 2)).astype("float32")
    found = np.array([float(gradient(tf.constant(d))) for d in draws])
    error = found.std() / np.sqrt(len(found))
    assert abs(expected) > 4 * error
    assert abs(found.mean() - expected) < 4 * error


def test_only_the_sampled_candidate_is_active():
    decision, learned = searched(0.5)
    draw(learned, [0.5, 0.999, 0.5, 0.5])
    assert int(decision.sampled) == 1
    np.testing.assert_array_equal(decision.runs(), [False, True, False, False])


def test_the_progress_is_saved_and_restored(tmp_path):
    inputs = keras.Input((4,))
    x = Choice([layers.Dense(3, name="a"), layers.Dense(3, name="b")])(inputs)
    joint = JointModel(
        keras.Model(inputs, x),
        keras.losses.MeanSquaredError(),
        strategy=GDAS(),
    )
    joint.architecture.advance_to(0.25)
    joint.save(tmp_path / "joint.keras")
    copy = keras.saving.load_model(tmp_path / "joint.keras")
    strategy = copy.architecture.strategy
    assert float(strategy.temperature()) == pytest.approx(10 - 0.25 * 9.9)
    (decision,) = copy.architecture.decisions
    assert decision.strategy is strategy


@pytest.mark.parametrize("levels", [1, 2])
def test_the_loss_that_the_logits_follow(levels, monkeypatch):
    """<dL/dy, y> dp~_k/dlogits, in NumPy: of the search batch after a step."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    choice = Choice([layers.Dense(3, name=name) for name in "ab"])
    joint = JointModel(
        keras.Model(inputs, choice(inputs)),
        keras.losses.MeanSquaredError(),
        strategy=GDAS(temperatures=(0.7, 0.7), levels=levels),
    )
    joint.architecture.start()
    decision = choice.decision
    decision.logits.assign([0.3, -0.2])
    rng = np.random.default_rng(0)
    train, search = (
        [rng.normal(size=(8, k)).astype("float32") for k in (4, 3)]
        for _ in range(2)
    )
    seen = []
    monkeypatch.setattr(
        joint.architecture, "update", lambda g: seen.append(g.numpy())
    )

    def credits(x, y):
        outputs = (
            x @ c.kernel.numpy() + c.bias.numpy() for c in choice.candidates
        )
        return [float(np.mean(2 * (o - y) * o)) for o in outputs]

    before = credits(*train)
    joint.train_step(train, 1.0, search)
    k = int(decision.sampled)
    credit = (before if levels == 1 else credits(*search))[k]
    gumbel = -np.log(-np.log(decision.drawn.numpy()))
    p = softmax((np.array([0.3, -0.2]) + gumbel) / 0.7)
    slope = p[k] * (np.eye(2)[k] - p) / 0.7
    np.testing.assert_allclose(seen, [credit * slope], rtol=1e-4, atol=1e-7)
    # A plain step says nothing of the search loss.
    joint.train_step(train, 1.0)
    assert len(seen) == (2 if levels == 1 else 1)
