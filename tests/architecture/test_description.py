"""Texts of layers: equal for what does the same, whatever it is called."""

import keras
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.description import USED
from keras_dha.architecture.description import described
from keras_dha.architecture.strategies import ISTA


def network(units=3, shared=True):
    decision = Decision(2)
    x = inputs = keras.Input((4,))
    for k in range(2):
        x = Choice(
            [layers.Dense(4, name=f"a{k}"), layers.Identity()],
            decision=decision if shared or k == 0 else Decision(2),
        )(x)
    return keras.Model(inputs, layers.Dense(units)(x))


def test_names_that_keras_counts_do_not_matter():
    assert described(network()) == described(network())
    assert described(layers.Dense(3)) == described(layers.Dense(3, name="b"))


def test_what_is_other_is_described_otherwise():
    texts = {
        described(network()),
        described(network(units=5)),
        described(network(shared=False)),
        described(layers.Dense(3)),
        described(layers.Dense(3, "relu")),
    }
    assert len(texts) == 5


def test_only_names_of_layers_are_left_out():
    same = [
        layers.Activation("relu", name="relu"),
        layers.Activation("gelu", name="gelu"),
        layers.Activation("relu", name="Activation"),
        layers.Dense(3, name="keras"),
        layers.Dense(3, dtype="mixed_float16"),
        layers.Dense(3, dtype="mixed_bfloat16"),
    ]
    assert len({described(layer) for layer in same}) == 5
    assert described(same[0]) == described(same[2])
    assert described(same[3]) == described(layers.Dense(3))


def test_names_in_the_graph_do_not_matter():
    def graph(first, second):
        inputs = keras.Input((4,), name=f"in_{first}")
        x = layers.Dense(4, name=first)(inputs)
        y = layers.Dense(4, name=second)(x)
        x = keras.ops.relu(layers.Add(name=f"add_{first}")([x, y]))
        return keras.Model([inputs], [x, y], name=f"graph_{first}")

    def crossed():
        inputs = keras.Input((4,))
        y = layers.Dense(4)(inputs)
        x = layers.Dense(4)(inputs)
        x = keras.ops.relu(layers.Add()([x, y]))
        return keras.Model([inputs], [x, y])

    assert described(graph("a", "b")) == described(graph("linear", "Dense"))
    assert described(graph("a", "b")) != described(crossed())


def test_what_is_left_out_makes_no_difference():
    plain, compiled = network(), network()
    compiled.compile("sgd", keras.losses.Huber(name="loss"))
    assert described(plain) != described(compiled)
    left = ("compile_config",)
    assert described(plain, left) == described(compiled, left)


def test_what_was_used_can_be_described_as_if_it_were_new():
    def nested():
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(2)(network()(inputs)))

    used, layer = nested(), layers.Dense(3)
    used.layers[1].compile("sgd", "mse")
    for decision in find_decisions(used):
        ISTA().prepare(decision, (0, 0))
    layer.build((None, 4))
    assert described(used, USED) == described(nested(), USED)
    assert described(layer, USED) == described(layers.Dense(3), USED)
    assert described(layer) != described(layers.Dense(3))


def own(name):
    """A layer of a user's, of a class that is made anew each time."""
    return type(name, (layers.Layer,), {"__module__": "mine"})()


def own_function(name):
    def function(x):
        return x

    function.__name__ = name
    return function


def test_what_is_registered_later_is_the_same():
    register = keras.saving.register_keras_serializable
    later, other = own("Block"), own("Other")
    before = [described(own("Block")), described(other)]
    assert before[0] != before[1]
    register("a")(type(later))
    register("b", "Known")(type(other))
    assert [described(later), described(other)] == before
    known, unknown = own_function("squash"), own_function("squash")
    register("a")(known)
    dense = [
        described(layers.Dense(3, activation=function))
        for function in (known, unknown, own_function("other"))
    ]
    assert dense[0] == dense[1] != dense[2]
    # What this library registers stays what it is called.
    assert "keras_dha>Decision" in described(Decision(2))


def test_plain_data_is_itself():
    assert described({"b": [1, None], "a": "x"}) == '{"a": "x", "b": [1, null]}'
    assert described({"name": "x"}) == '{"name": "x"}'
