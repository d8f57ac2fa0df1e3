"""What acts through the training loss, in a whole joint step.

The reference is always the search loss after the step, by central
differences in float64 over the value of the hyperparameter. For mixup, whose
shares are sampled, it is over factors on the losses.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy import stats

import keras_dha
from keras_dha.architecture.strategies import DSNAS
from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import training_loss
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel
from keras_dha.joint_step import search_gradient
from keras_dha.reward import Reward
from keras_dha.temporary_step import reward_at
from keras_dha.update_rules import SGD
from tests.references import NORMALISATIONS
from tests.references import central_difference
from tests.test_joint_model import RULES
from tests.test_joint_model import batch
from tests.test_joint_model import float64  # noqa: F401
from tests.test_joint_model import restore
from tests.test_joint_model import search_loss
from tests.test_joint_model import slopes_by_image
from tests.test_joint_model import small_network
from tests.test_joint_model import snapshot


class Entropy(keras.losses.Loss):
    """Cross-entropy and a share of the entropy, by a weight of one's own."""

    def call(self, y_true, y_pred):
        weight = keras_dha.hyperparameter("my_weight", default=0.0)
        p = tf.nn.softmax(y_pred)
        entropy = -tf.reduce_sum(p * tf.nn.log_softmax(y_pred), axis=-1)
        plain = keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=True
        )
        return plain + weight * entropy


class Scaled(layers.Layer):
    """A layer with a number of one's own in it."""

    def call(self, x):
        scale = keras_dha.hyperparameter("my_scale", default=1.0)
        return x + scale * tf.square(x)


def with_scale(normalised):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="tanh")(x)
    x = Scaled()(x)
    if normalised:
        x = NORMALISATIONS[normalised]()(x)
    x = layers.Conv2D(4, 3, strides=2, activation="tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
CASES = {
    "label_smoothing": (CROSS_ENTROPY, small_network),
    "my_weight": (Entropy(), small_network),
    "my_scale": (CROSS_ENTROPY, lambda: with_scale(None)),
}


def joint_model(name, rule, loss=None, network=None, **values):
    values = {
        "learning_rate": 0.05,
        "momentum": 0.8,
        name: Range(0.01, 0.9, start=0.2),
        **values,
    }
    return JointModel(
        network or CASES[name][1](),
        loss or CASES[name][0],
        hyperparameters=LearnedHyperparameters(
            values, horizon=hypergradient.ONE_STEP
        ),
        rule=rule,
    )


def derivative_of_a_step(joint, name, monkeypatch, training=True, rate=0.05):
    """(ours / the rate, the central difference / the rate) of a joint step.

    Args:
        rate: The highest of the learning rates.
    """
    seen = {}
    monkeypatch.setattr(
        joint.hyperparameters,
        "update",
        lambda v, at, through_loss, implicit: seen.update(through_loss),
    )
    for k in range(2):  # so that there are slots to speak of
        joint.train_step(batch(k), 1.0)
    before = snapshot(joint)
    joint.train_step(batch(2), 0.7, batch(3))
    learned = joint.hyperparameters
    index = learned.learned.index(name)

    def loss(value):
        restore(joint, before)
        position = learned.position.numpy()
        position[index] = np.log(value)
        learned.position.assign(position)
        joint.train_step(batch(2), 0.7)
        return search_loss(joint, batch(3), training)

    expected = central_difference(loss, 0.2)
    return float(seen[name]), expected / (0.7 * rate)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("name", CASES)
def test_mixed_derivative_of_a_step(float64, name, rule, monkeypatch):  # noqa: F811
    joint = joint_model(name, rule)
    ours, expected = derivative_of_a_step(joint, name, monkeypatch)
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_mixup_goes_by_what_its_images_do_to_the_search_loss(
    float64,  # noqa: F811
    rule,
    monkeypatch,
):
    """The correlation of dL_S(w')/dm_i with d log p(lambda_i; a)/da.

    With factors m_i on the losses, a more likely share weighs more: their
    covariance is the slope of the expected search loss by the strength a.
    """
    shares = np.array([0.03, 0.45, 0.2, 0.6, 0.9, 0.35])
    monkeypatch.setattr(
        training_loss, "draw_shares", lambda *_: tf.constant(shares)
    )
    joint = joint_model("mixup", rule, CROSS_ENTROPY, small_network())
    seen = {}
    monkeypatch.setattr(
        joint.hyperparameters,
        "update",
        lambda v, at, through_loss, implicit: seen.update(through_loss),
    )
    for k in range(2, 4):  # so that there are slots to speak of
        joint.train_step(batch(k), 1.0)
    before = snapshot(joint)
    joint.train_step(batch(0), 1.0, batch(1))
    slopes = slopes_by_image(joint, before, monkeypatch)
    score = central_difference(lambda a: stats.beta(a, a).logpdf(shares), 0.2)
    expected = np.corrcoef(slopes, score)[0, 1]
    assert abs(expected) > 0.1
    np.testing.assert_allclose(seen["mixup"], expected, rtol=1e-4)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_of_groups_each_has_its_rate_in_the_derivative(
    float64,  # noqa: F811
    rule,
    monkeypatch,
):
    rates = {"dense*": 0.1, "*": 1e-3}
    joint = joint_model("label_smoothing", rule, learning_rate=rates)
    ours, expected = derivative_of_a_step(
        *(joint, "label_smoothing", monkeypatch), rate=0.1
    )
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("normalised", [None, *NORMALISATIONS])
def test_what_acts_below_a_normalisation(
    float64,  # noqa: F811
    normalised,
    monkeypatch,
):
    joint = joint_model("my_scale", SGD(), network=with_scale(normalised))
    ours, expected = derivative_of_a_step(joint, "my_scale", monkeypatch)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_search_loss_has_the_defaults(float64):  # noqa: F811
    joint = joint_model("my_weight", SGD())
    gradient = search_gradient(joint, batch(3))
    plain = joint_model("label_smoothing", SGD())
    restore(plain.network, [v.numpy() for v in joint.network.variables])
    plain.hyperparameters.averaged.assign(joint.hyperparameters.averaged)
    np.testing.assert_allclose(
        gradient, search_gradient(plain, batch(3)), rtol=1e-10
    )


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_label_smoothing_equals_keras(from_logits, one_hot):
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(5, 4)).astype("float32")
    if not from_logits:
        outputs = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    labels = rng.integers(0, 4, 5)
    categorical = keras.losses.CategoricalCrossentropy
    reference = categorical(
        from_logits=from_logits, label_smoothing=0.15, reduction=None
    )(np.eye(4)[labels], outputs)
    if one_hot:
        loss, labels = categorical(from_logits=from_logits), np.eye(4)[labels]
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=from_logits
        )
    ours = training_loss.smoothed(
        loss, tf.constant(labels), tf.constant(outputs), 0.15
    )
    np.testing.assert_allclose(ours, reference, rtol=1e-5)


def test_label_smoothing_of_another_loss():
    with pytest.raises(ValueError, match="`label_smoothing` needs"):
        joint_model(
            "label_smoothing", SGD(), loss=keras.losses.MeanSquaredError()
        )


def test_a_name_that_is_declared_and_not_used():
    joint = joint_model("my_weight", SGD(), loss=CROSS_ENTROPY)
    with pytest.raises(ValueError, match="must be read by a loss"):
        joint.train_step(batch(0, "float32"), 1.0)


def test_a_name_that_is_used_and_not_declared():
    joint = joint_model("other", SGD(), Entropy(), small_network())
    with pytest.raises(ValueError, match="must be declared.*'my_weight'"):
        joint.train_step(batch(0, "float32"), 1.0)


def test_outside_of_training_there_is_a_default_or_an_error():
    assert keras_dha.hyperparameter("my_weight", default=2.0) == 2.0
    with pytest.raises(ValueError, match="without a default"):
        keras_dha.hyperparameter("my_weight")


def test_a_step_with_everything_learned():
    values = {
        "learning_rate": Range(1e-3, 1.0, start=0.1),
        "label_smoothing": Range(0.0, 0.3, "linear", start=0.1),
        "mixup": Range(0.05, 2.0),
        "my_weight": Range(0.01, 1.0),
    }

    class Smoothed(keras.losses.SparseCategoricalCrossentropy):
        def call(self, y_true, y_pred):
            weight = keras_dha.hyperparameter("my_weight", 0.0)
            entropy = tf.reduce_sum(tf.square(tf.nn.softmax(y_pred)), axis=-1)
            return super().call(y_true, y_pred) + weight * entropy

    joint = JointModel(
        small_network(),
        Smoothed(from_logits=True),
        hyperparameters=LearnedHyperparameters(values),
    )
    step = tf.function(joint.train_step, autograph=False)
    before = joint.hyperparameters.position.numpy()
    for k in range(2):
        loss = step(batch(k, "float32"), tf.constant(1.0), batch(9, "float32"))
    assert np.isfinite(loss)
    assert np.all(joint.hyperparameters.position.numpy() != before)


def with_dropout(rate=0.2):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="tanh")(x)
    x = keras_dha.Dropout(rate, seed=3)(x)
    x = layers.Conv2D(4, 3, strides=2, activation="tanh")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_derivative_by_the_dropout_rate(float64, rule, monkeypatch):  # noqa: F811
    joint = joint_model(
        "dropout_rate", rule, loss=CROSS_ENTROPY, network=with_dropout()
    )
    # Without normalisation inference is what the search loss is of.
    ours, expected = derivative_of_a_step(
        *(joint, "dropout_rate", monkeypatch), training=False
    )
    assert abs(expected) > 1e-6
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_what_judges_drops_nothing():
    joint = JointModel(with_dropout(0.5), CROSS_ENTROPY)
    images, labels = batch(3, "float32")
    weights = joint.weight_vector.read()
    with tf.GradientTape() as tape:
        outputs = joint.network(images, training=False)
        loss = tf.reduce_mean(CROSS_ENTROPY.call(labels, outputs))
    expected = joint.weight_vector.join(
        tape.gradient(loss, joint.weight_vector.tensors())
    )
    found = search_gradient(joint, (images, labels), weights)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    joint.reward = Reward("loss")
    reward = reward_at(joint, weights, (images, labels))
    assert float(reward) == pytest.approx(-float(loss), rel=1e-5)


def choosing(horizon):
    values = {
        "weight_decay": Range(1e-4, 0.1),
        "label_smoothing": Range(0.01, 0.9, start=0.2),
    }
    return JointModel(
        small_network(choice=True),
        CROSS_ENTROPY,
        strategy=DSNAS(),
        hyperparameters=LearnedHyperparameters(
            values, hypergradient.HORIZONS[horizon]
        ),
    )


def test_through_the_branches_of_a_choice(monkeypatch):
    joint, seen = choosing("discounted"), tf.Variable(0.0)
    monkeypatch.setattr(
        joint.hyperparameters,
        "update",
        lambda v, at, through_loss, implicit: seen.assign(
            through_loss["label_smoothing"]
        ),
    )
    step = tf.function(joint.train_step, autograph=False)
    step(batch(0, "float32"), tf.constant(1.0), batch(1, "float32"))
    assert np.isfinite(seen.numpy()) and abs(seen.numpy()) > 1e-6
