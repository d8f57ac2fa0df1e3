"""Layers and models of the user's own as candidates: a `call`, and no more."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.derive import derive
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.joint_model import JointModel
from keras_dha.weight_vector import WeightVector


class TwoLayers:
    """As most layers are written: layers and a call."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(7, "relu", name="first")
        self.second = layers.Dense(units, name="second")

    def call(self, inputs):
        return self.second(self.first(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Block(TwoLayers, layers.Layer):
    """A layer of them."""


@keras.saving.register_keras_serializable("tests")
class Net(TwoLayers, keras.Model):
    """A model of them."""


@keras.saving.register_keras_serializable("tests")
class Parity(layers.Layer):
    """Of integers alone: floats have no last bit."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(ops.cast(ops.bitwise_and(inputs, 1), "float32"))


def choice_of(kind):
    return Choice([kind(4, name="own"), layers.Dense(4, name="other")])


def node_of(kind):
    edges = [
        [kind(4, name=f"own{e}"), layers.Dense(4, name=f"other{e}")]
        for e in range(2)
    ]
    return NodeChoice(edges, keep=1)


def network(kind, make=choice_of):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    searchable = make(kind)
    given = inputs if make is choice_of else [inputs, inputs]
    return keras.Model(inputs, searchable(given)), searchable


def examples(count=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 5)).astype("float32")


def by_hand(layer, x):
    first, bias, second, shift = layer.get_weights()
    return np.maximum(x @ first + bias, 0) @ second + shift


@pytest.mark.parametrize("kind", [Block, Net])
@pytest.mark.parametrize("make", [choice_of, node_of])
def test_a_layer_of_ones_own_is_searched_and_derived(kind, make):
    model, searchable = network(kind, make)
    edges = len(searchable.edges)
    own = (5 * 7 + 7) + (7 * 4 + 4)
    assert WeightVector(model).size == edges * (own + 5 * 4 + 4)
    searchable.decision.freeze(0)
    expected = by_hand(searchable.options[0], examples())
    for each in (model, derive(model)):
        np.testing.assert_allclose(each(examples()), expected, rtol=1e-5)


def test_its_weights_have_its_name_in_their_paths():
    _, searchable = network(Block)
    own, _ = searchable.candidates
    kernel = own.first.kernel
    assert kernel.path == f"{searchable.name}/own/first/kernel"


def test_building_leaves_no_nodes_behind():
    """So the derived model shows where the layer is in it."""
    model, searchable = network(Block)
    searchable.decision.freeze(0)
    plain = derive(model)
    part = keras.Model(plain.input, plain.get_layer("own").output)
    np.testing.assert_array_equal(part(examples()), plain(examples()))


@pytest.mark.parametrize("kind", [Block, Net])
def test_a_search_with_it_goes_on_after_it_was_saved(kind, tmp_path):
    rng = np.random.default_rng(0)
    batch = tf.constant(examples(8)), tf.constant(rng.integers(0, 4, 8))

    def steps(joint):
        step = tf.function(joint.train_step, autograph=False)
        return [float(step(batch, tf.constant(1.0))) for _ in range(3)]

    joint = JointModel(
        network(kind)[0],
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        strategy=DSNAS(),
    )
    joint.architecture.start()
    steps(joint)
    joint.save(tmp_path / "joint.keras")
    copy = keras.saving.load_model(tmp_path / "joint.keras")
    assert steps(copy) == steps(joint)
    assert len(copy.variables) == len(joint.variables)


def test_it_gets_the_kind_of_numbers_that_the_choice_gets(tmp_path):
    inputs = keras.Input((3,), dtype="int32")
    choice = Choice([Parity(name="one"), Parity(name="two")])
    model = keras.Model(inputs, choice(inputs))
    choice.decision.freeze(1)
    x = np.array([[1, 2, 3], [4, 5, 6]], "int32")
    kernel, bias = choice.candidates[1].get_weights()
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    for each in (model, copy):
        np.testing.assert_allclose(each(x), (x % 2) @ kernel + bias, rtol=1e-5)


def test_a_choice_within_a_choice_gets_that_kind_as_well():
    inputs = keras.Input((3,), dtype="int32")
    inner = Choice([Parity(name="one"), Parity(name="two")], name="inner")
    outer = Choice([inner, Parity(name="three")], name="outer")
    model = keras.Model(inputs, outer(inputs))
    x = np.array([[1, 2, 3]], "int32")
    kernel, bias = inner.candidates[0].get_weights()
    np.testing.assert_allclose(model(x), (x % 2) @ kernel + bias, rtol=1e-5)


def test_where_nothing_runs_it_gives_zeros():
    model, searchable = network(Block, node_of)
    searchable.decision.sampled.assign([2, 2])
    found = tf.function(model)(examples(), training=True)
    np.testing.assert_array_equal(found, np.zeros((3, 4)))


def test_a_candidate_of_several_outputs():
    class Two(layers.Layer):
        def call(self, inputs):
            return inputs, inputs

    choice = Choice([Two(name="two"), layers.Identity(name="one")])
    with pytest.raises(ValueError, match="one tensor.*candidate=two"):
        choice(keras.Input((3,)))
