"""DSNAS's gradient of the logits against enumeration of all paths."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.strategies import DSNAS
from tests.references import central_difference
from tests.test_joint_model import CLASSES
from tests.test_joint_model import batch


def credits_by_path(network, decisions, data):
    """Enumerates all paths: loss, and DSNAS's gradient of the logits."""
    images, labels = data
    loss_object = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    table = {}
    for path in np.ndindex(*[d.num_candidates for d in decisions]):
        for decision, index in zip(decisions, path, strict=True):
            decision.sampled.assign(index)
        logits = [d.logits.value for d in decisions]
        with tf.GradientTape() as tape:
            loss = loss_object(labels, network(images, training=True))
        table[path] = (
            float(loss),
            [g.numpy() for g in tape.gradient(loss, logits)],
        )
    return table


def two_choices():
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="tanh")(x)
    for k in range(2):
        branch = Choice(
            [
                layers.Conv2D(4, 3, padding="same", name=f"three{k}"),
                layers.Conv2D(4, 1, activation="tanh", name=f"one{k}"),
                layers.Rescaling(0.0, name=f"none{k}"),
            ],
            name=f"choice{k}",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def test_dsnas_gradient_is_credit_times_score():
    network = two_choices()
    decisions = find_decisions(network)
    rng = np.random.default_rng(0)
    for decision in decisions:
        decision.strategy = DSNAS()
        decision.logits.assign(rng.normal(size=3))
    data = batch(0, "float32")
    table = credits_by_path(network, decisions, data)

    def loss_at_scale(path, which, scale):
        """The loss with one branch's output times `scale`."""
        choice = network.get_layer(f"choice{which}")
        original = choice.decision.strategy.factors
        for decision, index in zip(decisions, path, strict=True):
            decision.sampled.assign(index)
        choice.decision.strategy.factors = lambda _: tf.constant(
            [scale], "float32"
        )
        images, labels = data
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
            labels, network(images, training=True)
        )
        choice.decision.strategy.factors = original
        return float(loss)

    for path, (_, gradients) in table.items():
        for which, decision in enumerate(decisions):
            # R = dL/dZ, from outside: the branch scaled up and down.
            credit = central_difference(
                lambda z, p=path, w=which: loss_at_scale(p, w, z), 1.0, 1e-2
            )
            p = decision.probabilities()
            score = np.eye(3)[path[which]] - p
            np.testing.assert_allclose(
                gradients[which], credit * score, atol=2e-4
            )


def test_dsnas_mean_equals_enumeration_and_bias_is_reported(
    record_property,
):
    network = two_choices()
    decisions = find_decisions(network)
    rng = np.random.default_rng(0)
    for decision in decisions:
        decision.strategy = DSNAS()
        decision.logits.assign(rng.normal(size=3) * 0.5)
    table = credits_by_path(network, decisions, batch(0, "float32"))
    probabilities = [d.probabilities() for d in decisions]

    def weight(path):
        return np.prod([p[k] for p, k in zip(probabilities, path, strict=True)])

    # The estimator's mean by enumeration of every path ...
    enumerated = [
        sum(weight(path) * g[which] for path, (_, g) in table.items())
        for which in range(2)
    ]
    # ... and by sampling as the strategy samples.
    draws, total = 4000, [np.zeros(3), np.zeros(3)]
    squares = [np.zeros(3), np.zeros(3)]
    uniforms = rng.uniform(1e-6, 1.0, size=(draws, 2, 3)).astype("float32")
    passed = uniforms[..., :1] >= np.cumsum(probabilities, axis=-1)
    keys = np.minimum(np.sum(passed, axis=-1), 2)
    for k in range(16):  # the strategy draws what NumPy says it draws
        for which, decision in enumerate(decisions):
            (index,) = DSNAS().sample(decision, uniforms[k, which])
            assert int(index) == keys[k, which]
    for path in map(tuple, keys):
        for which in range(2):
            gradient = table[path][1][which]
            total[which] += gradient
            squares[which] += gradient**2
    for which in range(2):
        mean = total[which] / draws
        error = np.sqrt(squares[which] / draws - mean**2) / np.sqrt(draws)
        assert np.all(np.abs(mean - enumerated[which]) <= 4 * error + 1e-6)

    # The exact gradient of the expected loss, by enumeration as well.
    exact = [
        sum(
            weight(path) * loss * (np.eye(3)[path[which]] - p)
            for path, (loss, _) in table.items()
        )
        for which, p in enumerate(probabilities)
    ]
    ours, exact = np.concatenate(enumerated), np.concatenate(exact)
    bias = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    cosine = ours @ exact / np.linalg.norm(ours) / np.linalg.norm(exact)
    record_property("relative_bias", float(bias))
    record_property("cosine", float(cosine))
    assert cosine > 0.5, f"bias {bias:.2f}, cosine {cosine:.2f}"
