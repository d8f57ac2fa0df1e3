"""Frozen weights of operations go into the layers behind them."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha import carried_over
from keras_dha.architecture import strategies
from keras_dha.architecture.absorb import absorb
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.learned import LearnedArchitecture
from keras_dha.architecture.searchable import SearchableLayer
from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.joint_model import JointModel
from keras_dha.nested_layers import find_layers
from tests.architecture.test_node_choice import cell
from tests.architecture.test_node_choice import images


def searched_code(model, scale=0.5):
    decisions = find_decisions(model)
    LearnedArchitecture(decisions, strategies.ISTA(scale=scale), seed=2)
    return decisions


def test_absorbed_weights_leave_the_outputs_as_they_are():
    model = cell()
    for decision in searched_code(model):
        decision.freeze()
    expected = np.asarray(model(images(), training=False))
    absorb(model)
    np.testing.assert_allclose(
        model(images(), training=False), expected, atol=1e-5
    )
    derived = derive(model)
    np.testing.assert_allclose(
        derived(images(), training=False), expected, atol=1e-5
    )
    # A factor is left exactly where a candidate ends without weights.
    left = [
        layer.layers[0].name
        for layer in derived.layers
        if isinstance(layer, keras.Sequential)
        and isinstance(layer.layers[-1], layers.Rescaling)
    ]
    kept = {
        layer.name
        for c in find_layers(model, SearchableLayer)
        for _, layer, _ in c.kept()
    }
    assert set(left) == {n for n in kept if n.endswith(("pool", "skip"))}


class Standardized(layers.Conv2D):
    """A convolution that forgets the scale of its kernel."""

    def call(self, inputs):
        square = keras.ops.sum(keras.ops.square(self.kernel))
        kernel = self.kernel / keras.ops.sqrt(square)
        return keras.ops.conv(inputs, kernel) + self.bias


class Around(keras.Model):
    """A model that shows no graph."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, inputs):
        return keras.ops.tanh(self.layer(inputs))


def ending_in_one_that_is_called_twice():
    conv = layers.Conv2D(3, 1)
    image = keras.Input((6, 6, 3))
    return keras.Model(image, conv(layers.ReLU()(conv(image))), name="a")


def ending_in_a_model_that_is_called_twice():
    block = keras.Sequential([layers.ReLU(), layers.Conv2D(3, 1)])
    return keras.Sequential([block, layers.ReLU(), block], name="a")


def ending_in_what_another_layer_holds():
    conv = layers.Conv2D(3, 1)
    return keras.Sequential([Around(conv), conv], name="a")


def chain(*parts, trainable=True):
    made = keras.Sequential([layers.ReLU(), *parts], name="a")
    made.trainable = trainable
    return made


@pytest.mark.parametrize(
    "make, absorbs",
    [
        (lambda: layers.Conv2D(3, 1, name="a"), True),
        (lambda: chain(layers.Conv2D(3, 1)), True),
        (lambda: chain(chain(layers.Dense(3))), True),
        (lambda: chain(FusedBatchNormalization()), True),
        (lambda: chain(layers.Conv2D(3, 1), trainable=False), False),
        (lambda: chain(layers.BatchNormalization(trainable=False)), False),
        (lambda: Around(layers.Conv2D(3, 1), name="a"), False),
        (lambda: chain(Around(layers.Conv2D(3, 1))), False),
        (lambda: Standardized(3, 1, name="a"), False),
        (ending_in_one_that_is_called_twice, False),
        (ending_in_a_model_that_is_called_twice, False),
        (ending_in_what_another_layer_holds, False),
        (lambda: layers.SeparableConv2D(3, 3, padding="same", name="a"), True),
        (lambda: layers.BatchNormalization(name="a"), True),
        (lambda: layers.BatchNormalization(center=False, name="a"), True),
        (lambda: layers.BatchNormalization(scale=False, name="a"), False),
        (lambda: layers.Conv2D(3, 1, activation="relu", name="a"), False),
        (
            lambda: layers.Conv2D(3, 1, kernel_constraint="max_norm", name="a"),
            False,
        ),
        (lambda: layers.MaxPooling2D(1, name="a"), False),
        (lambda: layers.Identity(name="a"), False),
    ],
)
def test_where_a_weight_goes(make, absorbs):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    choice = Choice([make(), layers.Conv2D(3, 1, name="b")])
    model = keras.Model(image, choice(image))
    (decision,) = searched_code(model)
    decision.freeze(0)
    decision.code.scales.assign([-0.5, 1.0])
    for variable in choice.candidates[0].trainable_variables:
        variable.assign(variable + 0.1)
    expected = np.asarray(model(images(), training=False))
    scaled = absorb(model)
    assert bool(scaled) == absorbs
    derived = derive(model)
    np.testing.assert_allclose(
        derived(images(), training=False), expected, atol=1e-6
    )
    assert bool(find_layers(derived, layers.Rescaling)) != absorbs


def test_a_layer_that_two_choices_share_is_not_scaled_twice():
    shared = layers.Conv2D(3, 1, name="shared")
    decision = Decision(2)
    x = image = keras.Input((6, 6, 3))
    for name in "ab":
        x = Choice(
            [shared, layers.Identity(name=name)], decision=decision, name=name
        )(x)
    model = keras.Model(image, x)
    searched_code(model)
    decision.freeze(0)
    decision.code.scales.assign([0.5, 1.0])
    expected = np.asarray(model(images(), training=False))
    assert absorb(model) == []
    np.testing.assert_allclose(derive(model)(images()), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("second", "is_outside", "absorbs"),
    [(0, False, False), (1, False, True), (1, True, False)],
)
def test_a_layer_that_also_runs_elsewhere_is_not_scaled(
    second, is_outside, absorbs
):
    shared = layers.Conv2D(3, 1, name="shared")
    x = image = keras.Input((6, 6, 3))
    choices = [
        Choice([shared, layers.Identity(name=name)], name=name) for name in "ab"
    ]
    for choice in choices:
        x = choice(x)
    model = keras.Model(image, shared(x) if is_outside else x)
    searched_code(model)
    for choice, index in zip(choices, (0, second), strict=True):
        choice.decision.freeze(index)
        choice.decision.code.scales.assign([0.5, 1.0])
    expected = np.asarray(model(images(), training=False))
    assert bool(absorb(model)) == absorbs
    np.testing.assert_allclose(derive(model)(images()), expected, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv2D(3, 1, trainable=False, name="a"),
        lambda: Around(layers.Conv2D(3, 1), name="a"),
    ],
)
def test_a_run_goes_on_where_nothing_can_be_absorbed(make):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    choice = Choice([make(), layers.Conv2D(3, 1, name="b")], name="choice")
    x = layers.GlobalAveragePooling2D()(choice(image))
    joint = JointModel(
        keras.Model(image, layers.Dense(2)(x)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=strategies.ISTA(),
    )
    choice.decision.freeze(0)
    choice.decision.code.scales.assign([0.5, 1.0])
    expected = np.asarray(joint.network(images(), training=False))
    derived = carried_over.derived(joint)
    np.testing.assert_allclose(
        derived.network(images(), training=False), expected, atol=1e-6
    )
