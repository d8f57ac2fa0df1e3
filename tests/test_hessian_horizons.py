"""Horizons that need products with the Hessian, in a whole joint step.

The reference is central differences in float64.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.inner_update import Extent
from keras_dha.inner_update import Inputs
from keras_dha.joint_model import JointModel
from keras_dha.joint_step import search_gradient
from keras_dha.update_rules import SGD
from tests.references import NORMALISATIONS
from tests.references import central_difference
from tests.test_joint_model import batch
from tests.test_joint_model import float64  # noqa: F401
from tests.test_joint_model import restore
from tests.test_joint_model import search_loss
from tests.test_joint_model import snapshot
from tests.test_loss_hyperparameters import CROSS_ENTROPY
from tests.test_loss_hyperparameters import RULES
from tests.test_loss_hyperparameters import Scaled
from tests.test_loss_hyperparameters import choosing
from tests.test_loss_hyperparameters import with_scale


@pytest.mark.parametrize("normalised", [None, *NORMALISATIONS])
def test_hessian_product_equals_central_differences(
    float64,  # noqa: F811
    normalised,
    monkeypatch,
):
    horizon = hypergradient.FORWARD._replace(restart=4)
    joint = JointModel(
        with_scale(normalised),
        CROSS_ENTROPY,
        hyperparameters=LearnedHyperparameters(
            {"learning_rate": Range(0.01, 1.0), "my_scale": 0.7}, horizon
        ),
    )
    weights = joint.weight_vector.read()
    vector = tf.constant(np.random.default_rng(0).normal(size=weights.shape))
    seen = {}
    monkeypatch.setattr(
        joint.hyperparameters,
        "advance",
        lambda at, extent, step, schedule, product: seen.update(
            product=product(vector)
        ),
    )
    joint.train_step(batch(0), 1.0)

    def gradient(distance):
        joint.weight_vector.write(weights + distance * vector)
        seen_at = {}
        monkeypatch.setattr(
            joint.hyperparameters,
            "advance",
            lambda at, extent, step, schedule, product: seen_at.update(
                g=at.gradient.numpy()
            ),
        )
        joint.train_step(batch(0), 1.0)
        return seen_at["g"]

    expected = central_difference(gradient, 0.0)
    np.testing.assert_allclose(seen["product"], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("outer", [4, 8])
@pytest.mark.parametrize("name", hypergradient.OPTIMIZER)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_forward_mode_through_a_network(
    float64,  # noqa: F811
    name,
    rule,
    outer,
):
    """At an outer step, by central differences over the last four steps."""
    starts = {"learning_rate": 0.05, "weight_decay": 0.02, "momentum": 0.8}
    values = {**starts, name: Range(1e-3, 0.95, start=starts[name])}
    joint = JointModel(
        with_scale("batch"),
        CROSS_ENTROPY,
        hyperparameters=LearnedHyperparameters(
            {**values, "my_scale": 1.0},
            hypergradient.FORWARD._replace(restart=4),
        ),
        rule=rule,
    )
    # An outer step at 0 was there, and at 8 another at 4.
    for k in range(outer - 3):
        joint.train_step(batch(k), 1.0)
    before = snapshot(joint)

    def trained(value):
        restore(joint, before)
        joint.hyperparameters.position.assign([np.log(value)])
        for k in range(outer - 3, outer + 1):
            joint.train_step(batch(k), 1.0 - 0.05 * k)

    def loss(value):
        trained(value)
        return search_loss(joint, batch(99))

    expected = central_difference(loss, starts[name])
    trained(starts[name])
    ours = hypergradient.hypergradient(
        search_gradient(joint, batch(99)), joint.hyperparameters.tangents[name]
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def implicit_model(terms, network=None):
    return JointModel(
        network or with_scale("batch"),
        CROSS_ENTROPY,
        hyperparameters=LearnedHyperparameters(
            {
                "learning_rate": 0.1,
                "weight_decay": Range(1e-3, 1.0, start=0.1),
                "my_scale": 0.9,
            },
            hypergradient.IMPLICIT._replace(terms=terms),
        ),
    )


def implicit_step(terms, monkeypatch, network=None):
    """The vector that v becomes, and what it is made from."""
    joint, seen = implicit_model(terms, network), {}
    monkeypatch.setattr(
        joint.hyperparameters,
        "update",
        lambda v, at, through_loss, implicit: seen.update(
            vector=implicit.numpy()
        ),
    )
    weights = joint.weight_vector.read()
    joint.train_step(batch(0), 1.0, batch(3))
    return joint, weights, seen["vector"]


def test_the_implicit_vector_of_a_step(float64, monkeypatch):  # noqa: F811
    """p_1 = v + (v - alpha (H + lambda D) v), alpha = eta / (1 + mu).

    H v by central differences.
    """
    joint, weights, vector = implicit_step(1, monkeypatch)
    v = search_gradient(joint, batch(3))

    def gradient(distance):
        joint.weight_vector.write(weights + distance * v)
        with tf.GradientTape() as tape:
            with keras_dha.hyperparameters.own.given({"my_scale": 0.9}):
                outputs = joint.network(batch(0)[0], training=True)
            loss = tf.reduce_mean(CROSS_ENTROPY.call(batch(0)[1], outputs))
        return joint.weight_vector.join(
            tape.gradient(loss, joint.weight_vector.tensors())
        ).numpy()

    product = central_difference(gradient, 0.0)
    product = product + 0.1 * joint.weight_vector.decayed().numpy() * v.numpy()
    np.testing.assert_allclose(
        vector, 2.0 * v - 0.1 / 1.9 * product, rtol=1e-5, atol=1e-9
    )


def test_decay_in_front_of_a_normalisation_answers_to_the_implicit_vector(
    float64,  # noqa: F811
    monkeypatch,
):
    """By its cosine with D w, which is a matter of length alone there."""

    def network():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6, 6, 2))
        x = layers.Conv2D(4, 3, use_bias=False)(inputs)
        x = layers.Activation("tanh")(layers.BatchNormalization()(x))
        x = Scaled()(layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, layers.Dense(3)(x))

    _, weights, vector = implicit_step(8, monkeypatch, network())
    joint = implicit_model(8, network())
    joint.train_step(batch(0), 1.0, batch(3))
    decayed = joint.weight_vector.decayed().numpy() * weights.numpy()
    expected = -np.dot(vector, decayed) / (
        np.linalg.norm(vector) * np.linalg.norm(decayed)
    )
    kernel = decayed != 0
    kernel[72:] = False
    assert abs(np.dot(vector[kernel], decayed[kernel])) > 1e-3
    (key,) = joint.hyperparameters.learned
    assert key == "weight_decay"
    np.testing.assert_allclose(
        joint.hyperparameters.first.numpy(), [0.1 * expected], rtol=1e-4
    )


def test_hessian_products_through_the_branches_of_a_choice():
    with pytest.raises(ValueError, match="without choices.*terms=8"):
        choosing("implicit")


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_series_converges_where_training_does(nesterov, momentum):
    """Of curvature 1, at rates of which a part is too high to train at."""
    rule = SGD(nesterov=nesterov)
    rates = np.arange(0.05, 5.0, 0.1)
    zeros, ones = np.zeros_like(rates), np.ones_like(rates)
    at = Inputs(ones, (zeros,), ones, rates, 0.0, momentum)
    extent = Extent(ones, None, [len(rates)], 1.0)
    for _ in range(200):
        step = rule.step(at._replace(gradient=at.weights), extent)
        at = at._replace(weights=step.weights, slots=step.slots)
    trains = np.abs(at.weights) < 1.0
    assert 5 < trains.sum() < len(rates)
    alpha = rule.neumann_step(at)
    inverse = alpha * hypergradient.implicit_vector(
        ones, lambda u: u, alpha, hypergradient.IMPLICIT._replace(terms=300)
    )
    np.testing.assert_allclose(inverse[trains], 1.0, atol=1e-3)
