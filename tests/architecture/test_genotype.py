import json

import keras
import numpy as np
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.genotype import genotype
from keras_dha.architecture.node_choice import NodeChoice


def test_genotype_names_choices_candidates_and_probabilities():
    inputs = keras.Input((4,))
    first = Choice(
        [layers.Dense(4, name="a"), layers.Dense(4, name="b")], name="first"
    )
    second = Choice(
        [layers.Dense(4, name=f"c{k}") for k in range(3)], name="second"
    )
    nested = keras.Sequential([keras.Input((4,)), second], name="nested")
    model = keras.Model(inputs, nested(first(inputs)))
    first.decision.logits.assign(np.log([0.25, 0.75]))
    second.decision.freeze(2)
    found = genotype(model)
    assert json.loads(json.dumps(found)) == found
    p = found["first"].pop("probabilities")
    np.testing.assert_allclose([p["a"], p["b"]], [0.25, 0.75], rtol=1e-6)
    assert found == {
        "first": {"choice": "b", "frozen": False},
        "second": {
            "choice": "c2",
            "frozen": True,
            "probabilities": {"c0": 0.0, "c1": 0.0, "c2": 1.0},
        },
    }


def test_names_that_several_edges_have_are_told_apart():
    inputs = keras.Input((4,))
    node = NodeChoice(
        [
            [layers.Dense(4, name="dense"), layers.ReLU(name=f"relu{edge}")]
            for edge in range(2)
        ],
        keep=1,
        name="node",
    )
    model = keras.Model(inputs, node([inputs, inputs]))
    node.decision.logits.assign(np.log([0.9, 0.1, 0.4, 0.6]))
    found = genotype(model)["node"]
    assert found["choice"] == ["edge0_dense"]
    p = [found["probabilities"][f"edge{k}_dense"] for k in range(2)]
    np.testing.assert_allclose(p, [0.9, 0.4], rtol=1e-6)
    p = [found["probabilities"][f"edge{k}_relu{k}"] for k in range(2)]
    np.testing.assert_allclose(p, [0.1, 0.6], rtol=1e-6)


def test_a_plain_model_has_an_empty_genotype():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert genotype(model) == {}
