"""Each estimator against enumeration, closed forms, central differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha.augmentation import estimators
from keras_dha.augmentation.estimators import gumbel
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.inner_update import AdamState
from tests.augmentation import references
from tests.references import central_difference

NAMES = ("Rotate", "Invert", "Brightness")
LOGITS = np.array([0.4, -0.3, 0.1])
SEED = tf.constant([3, 4])


def built(estimator, **arguments):
    layer = DifferentiableAugmentation(
        **{
            "operations": NAMES,
            "levels": 3,
            "flip": None,
            "shift": None,
            "estimator": estimator,
            **arguments,
        }
    )
    layer.build((None, 8, 9, 3))
    variable = layer.distribution.variables.sub_policy
    if variable.shape == LOGITS.shape:
        variable.assign(LOGITS)
    return layer


def evidence(layer, choices, rewards, seed=SEED, losses=None, path=None):
    count = tf.size(choices.sub_policy)
    rewards = tf.cast(rewards, tf.float32)
    return estimators.Evidence(
        rewards=rewards,
        losses=rewards if losses is None else losses,
        path=path,
        count=tf.cast(count, tf.float32),
        noise=gumbel.Noise(seed),
        total=lambda tensor: tensor,
    )


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def initial_state(layer):
    state = layer.estimator.initial_state(layer)
    return {k: tf.constant(v, tf.float32) for k, v in state.items()}


@pytest.mark.parametrize("name", ["influence", "dha", "relaxed", "relax"])
def test_names_and_configs(name):
    estimator = estimators.get(name)
    assert estimators.get(estimator) is estimator
    config = keras.saving.serialize_keras_object(estimator)
    again = estimators.get(config)
    assert type(again) is type(estimator)
    assert again.get_config() == estimator.get_config()


def test_unknown_estimators_are_refused():
    for identifier in ("Influence", None, 3):
        with pytest.raises(ValueError, match="Received: estimator="):
            estimators.get(identifier)
    with pytest.raises(ValueError, match="Received: temperature=0"):
        estimators.Relaxed(temperature=0)
    with pytest.raises(ValueError, match="Received: hidden=-1"):
        estimators.Relax(hidden=-1)


# DHA.


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_dha_is_the_gradient_of_the_probability(sign):
    layer = built(estimators.DHA(adversarial=sign > 0))
    choices = layer.sample(20, SEED)
    losses = np.random.default_rng(0).uniform(0, 2, 20)
    gradient, _ = layer.estimator.gradient(
        layer,
        choices,
        evidence(
            layer, choices, np.zeros(20), losses=tf.constant(losses, tf.float32)
        ),
        {},
    )

    def objective(logits):
        # The paper's J, with the sign that is descended.
        p = softmax(logits)[choices.sub_policy.numpy()]
        return np.mean(-sign * losses * p)

    for k in range(3):
        unit = np.eye(3)[k]
        slope = central_difference(
            lambda e, u=unit: objective(LOGITS + e * u), 0.0
        )
        np.testing.assert_allclose(gradient.sub_policy[k], -slope, atol=1e-6)
    assert not np.any(gradient.magnitude) and not np.any(gradient.base)


def test_dha_takes_the_steps_of_sgd():
    """Those of Keras, which knows weight decay as a part of the loss."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=4), rng.normal(size=(5, 4))
    arguments = {"learning_rate": 0.3, "momentum": 0.8}
    estimator = estimators.DHA(weight_decay=0.1, **arguments)
    values = tf.constant(start, tf.float32)
    state = AdamState(*(tf.zeros([n]) for n in (4, 4)), tf.zeros([]))
    theirs = keras.Variable(start, dtype="float32")
    optimizer = keras.optimizers.SGD(nesterov=True, **arguments)
    for gradient in gradients:
        descent = 0.1 * (theirs.value - start.astype("float32")) - gradient
        optimizer.apply([tf.cast(descent, tf.float32)], [theirs])
        values, state = estimator.step(
            values, start.astype("float32"), gradient.astype("float32"), state
        )
    np.testing.assert_allclose(values, theirs.value, rtol=1e-5)
    assert state.count == 5.0


def test_numbers_of_dha_out_of_their_domains():
    for wrong in (
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
    ):
        name, value = next(iter(wrong.items()))
        with pytest.raises(ValueError, match=f"Received: .*{name}={value}"):
            estimators.DHA(**wrong)


# Noise that agrees with a choice.


def test_conditional_noise_has_the_distribution_of_noise():
    # Drawn choice first or noise first: the same joint distribution.
    count = 40_000
    p = softmax(LOGITS)
    generator = np.random.default_rng(1)
    log_p = tf.constant(np.log(p)[None], tf.float32)
    chosen = tf.constant(generator.choice(3, count, p=p), tf.int32)
    draws = gumbel.Noise(SEED).uniform(0, [count, 3])
    z = gumbel.conditional(log_p, chosen, draws).numpy()
    np.testing.assert_array_equal(z.argmax(axis=1), chosen)
    direct = np.log(p) + generator.gumbel(size=[count, 3])
    for q in (0.05, 0.3, 0.7, 0.95):
        np.testing.assert_allclose(
            np.quantile(z, q, axis=0), np.quantile(direct, q, axis=0), atol=0.08
        )
    for k in range(3):
        np.testing.assert_allclose(
            z[chosen == k].mean(axis=0),
            direct[direct.argmax(axis=1) == k].mean(axis=0),
            atol=0.08,
        )


def test_bernoulli_noise_has_the_distribution_of_noise():
    count = 40_000
    generator = np.random.default_rng(2)
    logit = 0.7
    chosen = generator.uniform(size=count) < 1 / (1 + np.exp(-logit))
    draws = gumbel.Noise(SEED).uniform(0, [count])
    z = gumbel.bernoulli_path(
        tf.fill([count], logit), tf.constant(chosen), draws
    ).numpy()
    np.testing.assert_array_equal(z > 0, chosen)
    direct = logit + generator.logistic(size=count)
    for q in (0.05, 0.3, 0.7, 0.95):
        np.testing.assert_allclose(
            np.quantile(z, q), np.quantile(direct, q), atol=0.08
        )


def test_noise_of_replicas_is_that_of_one_device():
    whole = gumbel.Noise(SEED).uniform(1, [6, 4])
    halves = [gumbel.Noise(SEED, r, 2).uniform(1, [3, 4]) for r in (0, 1)]
    np.testing.assert_array_equal(tf.concat(halves, 0), whole)
    assert np.any(whole != gumbel.Noise(SEED).uniform(2, [6, 4]))


# RELAX.


def random_control(layer):
    """A state whose control variate is far from zero."""
    state = initial_state(layer)
    shape = state["parameters"].shape
    values = np.random.default_rng(5).normal(size=shape)
    return {**state, "parameters": tf.constant(values, tf.float32)}


def test_relax_is_unbiased():
    # Over the choice by enumeration, over the noise by its mean.
    layer = built("relax")
    parameters = random_control(layer)["parameters"]
    rewards = np.array([0.5, -1.0, 2.0])
    p, count = softmax(LOGITS), 60_000
    exact = p * (rewards - p @ rewards)
    means, variances = np.zeros(3), np.zeros(3)
    for k in range(3):
        each = layer.estimator.per_image(
            tf.constant(LOGITS, tf.float32),
            tf.fill([count], k),
            tf.fill([count], np.float32(rewards[k])),
            parameters,
            gumbel.Noise(tf.constant([7, k])),
        ).numpy()
        means += p[k] * each.mean(axis=0)
        variances += p[k] ** 2 * each.var(axis=0) / count
    errors = np.sqrt(variances)
    assert errors.max() < 0.01
    assert np.all(np.abs(means - exact) < 4 * errors), (means, exact, errors)


def test_relax_slopes_equal_central_differences():
    # d c(z) - d c(z~) by the logits, the noise held.
    layer = built("relax")
    parameters = random_control(layer)["parameters"]
    estimator = layer.estimator
    chosen = tf.constant([0, 2, 1, 1])
    noise = gumbel.Noise(SEED)
    # Rewards equal to c(z~): the score part vanishes.
    draws = [noise.uniform(use, [4, 3]) for use in (0, 1)]
    log_p = tf.nn.log_softmax(tf.constant(LOGITS, tf.float32))[None]
    held = gumbel.conditional(log_p, chosen, draws[0]) - log_p
    anew = gumbel.conditional(log_p, chosen, draws[1])
    control, _ = estimator._control(anew, parameters)
    each = estimator.per_image(
        tf.constant(LOGITS, tf.float32), chosen, control, parameters, noise
    )

    def difference(logits):
        log_p = tf.nn.log_softmax(tf.constant(logits, tf.float32))[None]
        z = log_p + held
        z_anew = gumbel.conditional(log_p, chosen, draws[1])
        ours = [estimator._control(x, parameters)[0] for x in (z, z_anew)]
        return (ours[0] - ours[1]).numpy().astype("float64")

    for k in range(3):
        unit = np.eye(3)[k]
        slope = central_difference(
            lambda e, u=unit: difference(LOGITS + e * u), 0.0, eps=1e-2
        )
        np.testing.assert_allclose(each[:, k], slope, atol=5e-3)


def test_relax_learns_nothing_from_clean_images():
    layer = built("relax", clean=0.4)
    state, choices = random_control(layer), layer.sample(30, SEED)
    clean = choices.clean.numpy()
    assert 5 < clean.sum() < 25
    rewards = np.random.default_rng(6).normal(size=30).astype("float32")
    found = []
    for of_clean in (0.0, 100.0):
        shown = evidence(layer, choices, rewards + of_clean * clean)
        gradient, moved = layer.estimator.gradient(layer, choices, shown, state)
        found.append((gradient.sub_policy, moved["parameters"]))
    each = layer.estimator.per_image(
        *(tf.constant(LOGITS, tf.float32), choices.sub_policy, rewards),
        *(state["parameters"], gumbel.Noise(SEED)),
    ).numpy()
    expected = each[~clean].sum(axis=0) / 30
    for sub_policy, parameters in found:
        np.testing.assert_allclose(sub_policy, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(parameters, found[0][1])


def test_relax_learns_a_control_that_lowers_the_variance():
    layer = built("relax")
    state = initial_state(layer)
    rewards = tf.constant([0.5, -1.0, 2.0])

    def variance(state):
        choices = layer.sample(4000, tf.constant([9, 9]))
        each = layer.estimator.per_image(
            tf.constant(LOGITS, tf.float32),
            choices.sub_policy,
            tf.gather(rewards, choices.sub_policy),
            state["parameters"],
            gumbel.Noise(tf.constant([9, 8])),
        )
        return float(tf.reduce_sum(tf.math.reduce_variance(each, axis=0)))

    @tf.function(autograph=False)
    def step(state, k):
        seed = tf.stack([11, k])
        choices = layer.sample(128, seed)
        shown = evidence(
            layer, choices, tf.gather(rewards, choices.sub_policy), seed
        )
        return layer.estimator.gradient(layer, choices, shown, state)[1]

    before = variance(state)
    for k in tf.range(300):
        state = step(state, k)
    assert variance(state) < 0.6 * before


# The relaxed path.


def test_relaxed_values_are_those_of_the_choice():
    # The weight is 1, and magnitudes lie between the levels.
    layer = built("relaxed", length=2, application=0.6)
    choices = layer.sample(50, SEED)
    weight, magnitude = layer.estimator.relax(
        layer, choices, gumbel.Noise(SEED)
    )
    np.testing.assert_allclose(weight, 1.0, atol=1e-6)
    assert np.all(magnitude >= layer.magnitudes[0] - 1e-6)
    assert np.all(magnitude <= 1.0 + 1e-6)
    assert len(np.unique(magnitude)) > 90
    cold = estimators.Relaxed(temperature=1e-4)
    _, magnitude = cold.relax(layer, choices, gumbel.Noise(SEED))
    np.testing.assert_allclose(
        magnitude, layer.magnitude_of(choices), atol=1e-2
    )


def test_relaxed_has_no_path_for_flip_and_shift():
    layer = built(
        "relaxed", operations=("Identity", "Invert"), flip=0.9, shift=0.9
    )
    choices = layer.sample(20, SEED)
    draws = layer.draw(20, SEED)
    images = references.smooth_images(20, 8, 9).astype("float32")
    fixed = np.random.default_rng(1).normal(size=images.shape)
    weight = tf.ones(20)
    relax = lambda *_: (weight, layer.magnitude_of(choices))  # noqa: E731
    layer.estimator.relax = relax
    with tf.GradientTape() as tape:
        tape.watch(weight)
        output = layer.estimator.augment(layer, images, choices, draws, None)
        observed = tf.reduce_sum(tf.cast(fixed, tf.float32) * output)
    slope = tape.gradient(observed, weight).numpy()
    plain = layer.transform(images, choices, draws)
    np.testing.assert_allclose(output, plain, atol=1e-3)
    is_identity = choices.sub_policy.numpy() == 0
    is_moved = np.any(plain != images, axis=(1, 2, 3))
    assert 0 < np.sum(is_identity & is_moved) < 20
    np.testing.assert_array_equal(slope[is_identity], 0.0)
    assert np.all(np.abs(slope[~is_identity]) > 1.0)
    # Of the others it is Invert of what is flipped and shifted, less that.
    nothing = choices._replace(applied=tf.zeros_like(choices.applied))
    base = layer.transform(images, nothing, draws)
    exact = np.sum(fixed * (plain - base), axis=(1, 2, 3))
    np.testing.assert_allclose(slope, exact, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("length", [1, 2])
def test_relaxed_in_a_graph_equals_eager(channels, length):
    layer = DifferentiableAugmentation(estimator="relaxed", length=length)
    layer.build((None, 8, 9, channels))
    images = references.noise_images(40, 8, 9, channels).astype("float32")

    def augment(images):
        return layer.estimator.augment(
            layer,
            images,
            *(layer.sample(40, SEED), layer.draw(40, SEED), gumbel.Noise(SEED)),
        )

    graph = tf.function(augment, autograph=False)
    np.testing.assert_allclose(
        graph(tf.constant(images)), augment(images), atol=0.01
    )


def test_relaxed_learns_by_path_and_the_rest_by_influence():
    layer = built("relaxed", flip=0.4, application=0.5, mixup=0.3)
    choices = layer.sample(30, SEED)
    rewards = np.random.default_rng(3).normal(size=30)
    path = [tf.fill(v.shape, 7.0) for v in layer.trainable_variables]
    gradient, _ = layer.estimator.gradient(
        layer, choices, evidence(layer, choices, rewards, path=path), {}
    )
    for field in ("sub_policy", "application"):
        np.testing.assert_array_equal(getattr(gradient, field), 7.0)
    score = layer.distribution.fill(
        layer.score_gradient(choices, tf.constant(rewards / 30, tf.float32))
    )
    for field in ("base", "mixer"):
        expected = getattr(score, field)
        np.testing.assert_allclose(getattr(gradient, field), expected, 1e-5)
    # The last row is of mixup's strength.
    np.testing.assert_array_equal(gradient.magnitude[:-1], 7.0)
    np.testing.assert_allclose(gradient.magnitude[-1], score.magnitude[-1])
    assert np.any(score.magnitude[-1])
