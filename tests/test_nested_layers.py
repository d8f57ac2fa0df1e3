"""Keras' private ways to layers still show all of them."""

import keras
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.nested_layers import called_layers
from keras_dha.nested_layers import find_layers
from keras_dha.nested_layers import output_layers


def test_layers_at_any_depth_each_one_once():
    shared = layers.Dense(3, name="shared")
    inner = keras.Sequential([layers.Dense(3, name="inner"), shared])
    decision = Decision(2)
    choice = Choice(
        [inner, layers.Dense(3, name="plain")], decision, name="choice"
    )
    inputs = keras.Input((3,))
    model = keras.Model(inputs, shared(choice(inputs)))
    found = find_layers(model, layers.Dense)
    assert sorted(layer.name for layer in found) == ["inner", "plain", "shared"]
    assert find_layers(model, Choice) == [choice]
    assert find_decisions(model) == [decision]
    assert find_layers(shared, layers.Dense) == [shared]
    assert find_layers(model, keras.Model)[0] is model


def test_the_layer_that_gives_each_output():
    inputs = keras.Input((3,))
    first, second = (layers.Dense(2, name=name) for name in "ab")
    x = first(inputs)
    model = keras.Model(inputs, [second(x), keras.ops.softmax(x), x])
    found = output_layers(model)
    assert found[0] is second
    assert found[1].name.startswith("softmax")
    assert found[2] is first
    chain = keras.Sequential([inputs, layers.ReLU(), first])
    assert output_layers(chain) == [first]


def test_each_call_of_a_model():
    dense, relu = layers.Dense(3), layers.ReLU()
    inputs = keras.Input((3,))
    x = dense(relu(dense(inputs)))
    # Of another model; this one does not see it.
    dense(x)
    for model in (
        keras.Model(inputs, x),
        keras.Sequential([inputs, dense, relu, dense]),
    ):
        called = called_layers(model)
        assert [called.count(layer) for layer in (dense, relu)] == [2, 1]
