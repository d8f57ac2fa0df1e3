"""The derived model against the supernet restricted to the same choices."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha import search_space
from keras_dha import sharing
from keras_dha.architecture import spaces
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import Decision
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.derive import derive
from keras_dha.architecture.derive import derive_first
from keras_dha.architecture.derive import derive_with_copies
from keras_dha.architecture.health import gives_zeros
from keras_dha.architecture.node_choice import NodeChoice
from keras_dha.architecture.strategies import ISTA
from keras_dha.form import Form
from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.nested_layers import find_layers

SHAPE = (8, 8, 2)


def images(count=4, shape=SHAPE):
    rng = np.random.default_rng(0)
    return rng.uniform(0.0, 255.0, (count, *shape)).astype("float32")


def kernels(name, filters=2):
    """Two candidates with weights of their own and a nested one."""
    return [
        layers.Conv2D(filters, 3, padding="same", name=f"{name}_three"),
        keras.Sequential(
            [layers.Conv2D(filters, 1), layers.BatchNormalization()],
            name=f"{name}_one",
        ),
        layers.Conv2D(filters, 5, padding="same", name=f"{name}_five"),
    ]


def all_layers(model):
    return find_layers(model, layers.Layer)


def is_plain(layer):
    """Whether a layer is Keras' own, or normalises as Keras' own does."""
    is_stock = type(layer).__module__.startswith("keras.")
    return is_stock or type(layer) is FusedBatchNormalization


def assert_derived(model, inputs):
    """Equal outputs, no layers of the search, the same weights.

    Those of slices of a superkernel are copies.
    """
    expected = np.asarray(model(inputs, training=False))
    derived, copies = derive_with_copies(model)
    np.testing.assert_allclose(
        derived(inputs, training=False), expected, rtol=1e-5, atol=1e-5
    )
    assert find_layers(derived, Choice) == []
    assert find_decisions(derived) == []
    for layer in all_layers(derived):
        assert is_plain(layer), layer
    ours = {id(v) for v in model.variables}
    made = {id(copy.kernel) for _, copy in copies}
    assert made.isdisjoint(ours)
    assert made <= {id(v) for v in derived.variables} <= ours | made
    assert np.ptp(expected) > 1e-3
    return derived, expected


SPACES = {
    "resnet": {"width": 4, "stages": 2, "blocks": 2},
    "nas_bench_201": {"channels": 2, "cells": 1},
    "shufflenet": {
        "repeats": (2, 2),
        "widths": (8, 16),
        "stem": 4,
        "head": 8,
    },
    "mobile": {"width": 0.1, "depth": 0.5, "kernels": (3, 5)},
}


def searched(name):
    """A space whose every candidate has statistics of some kind."""
    keras.utils.set_random_seed(0)
    supernet = getattr(spaces, name)(SHAPE, 3, **SPACES[name])
    decisions = find_decisions(supernet)
    for index in range(max(d.num_candidates for d in decisions)):
        for decision in decisions:
            decision.sampled.assign(min(index, decision.num_candidates - 1))
        supernet(images(16), training=True)
    return supernet


@pytest.fixture(scope="module")
def resnet():
    return searched("resnet")


@pytest.fixture(scope="module", params=sorted(SPACES))
def space(request):
    return searched(request.param)


def test_every_space_is_in_the_table():
    # The cells of DARTS have tests of their own, test_darts_space.py.
    assert {*SPACES, "darts", "auto"} == set(search_space.SPACES)


def test_every_candidate_of_every_space(space):
    decisions = find_decisions(space)
    most = max(d.num_candidates for d in decisions)
    seen = set()
    for number in range(most):
        for decision in decisions:
            decision.freeze(min(number, decision.num_candidates - 1))
        if number == 0 and space.name == "nas_bench_201":
            continue  # nothing on all edges: all images are one
        derived, _ = assert_derived(space, images())
        names = {layer.name for layer in all_layers(derived)}
        for choice in find_layers(space, Choice):
            chosen = choice.chosen_candidate()
            seen.add(chosen.name)
            assert chosen.name in names
            for candidate in choice.candidates:
                assert candidate is chosen or candidate.name not in names
    every = {
        c.name
        for choice in find_layers(space, Choice)
        for c in choice.candidates
    }
    if space.name != "nas_bench_201":
        assert seen == every


def test_mixed_and_free_decisions_of_every_space(space):
    rng = np.random.default_rng(1)
    outputs = []
    for _ in range(2):
        for decision in find_decisions(space):
            decision.chosen.assign(-1)
            decision.logits.assign(rng.normal(size=decision.num_candidates))
        outputs.append(assert_derived(space, images())[1])
    assert np.max(np.abs(outputs[0] - outputs[1])) > 1e-3


def test_the_layers_are_the_very_same_objects(resnet):
    theirs = {id(layer) for layer in all_layers(resnet)}
    derived, copies = derive_with_copies(resnet)
    # But for the two convolutions of each block.
    assert len(copies) == 2 * len(find_layers(resnet, Choice))
    theirs |= {id(copy) for _, copy in copies}
    for layer in all_layers(derived):
        assert id(layer) in theirs or isinstance(
            layer, (keras.Model, layers.InputLayer)
        )


def test_a_model_without_choices_is_derived_already():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    assert derive(model) is model


def test_sequential_model():
    keras.utils.set_random_seed(0)
    choice = Choice(kernels("kernel"), name="kernel")
    model = keras.Sequential(
        [keras.Input(SHAPE), choice, layers.Flatten(), layers.Dense(3)],
        name="mine",
    )
    choice.decision.freeze(2)
    derived, _ = assert_derived(model, images())
    assert isinstance(derived, keras.Sequential)
    assert derived.name == "mine"
    assert derived.layers[0] is choice.candidates[2]


def test_choices_in_nested_models_and_in_candidates():
    keras.utils.set_random_seed(0)
    inner = Choice(kernels("inner"), name="inner")
    inside = keras.Input(SHAPE)
    nested = keras.Model(
        inside, layers.Add()([inside, inner(inside)]), name="nested"
    )
    deepest = Choice(kernels("deepest"), name="deepest")
    around = Choice(
        [
            layers.Conv2D(2, 1, name="plain"),
            keras.Sequential([deepest, layers.ReLU()], name="sequence"),
        ],
        name="around",
    )
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, around(nested(inputs)))
    inner.decision.freeze(1)
    around.decision.freeze(1)
    for index in (0, 2):
        deepest.decision.freeze(index)
        assert_derived(model, images())
    around.decision.freeze(0)
    assert_derived(model, images())


def test_a_choice_as_the_candidate_of_a_choice():
    keras.utils.set_random_seed(0)
    inner = Choice(kernels("inner"), name="inner")
    outer = Choice([layers.Conv2D(2, 1, name="plain"), inner], name="outer")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, outer(inputs))
    outer.decision.freeze(1)
    inner.decision.freeze(2)
    derived, _ = assert_derived(model, images())
    assert derived.layers[1] is inner.candidates[2]


def test_a_choice_called_twice_stays_one_layer():
    keras.utils.set_random_seed(0)
    choice = Choice(kernels("twice"), name="twice")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, choice(layers.ReLU()(choice(inputs))))
    choice.decision.freeze(0)
    derived, _ = assert_derived(model, images())
    assert derived.count_params() == choice.candidates[0].count_params()


def test_a_shared_decision():
    keras.utils.set_random_seed(0)
    decision = Decision(3)
    inputs = x = keras.Input(SHAPE)
    for name in "ab":
        x = Choice(kernels(name), decision=decision, name=name)(x)
    model = keras.Model(inputs, x)
    for index in range(3):
        decision.freeze(index)
        assert_derived(model, images())


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_candidates_of_different_choices_may_bear_one_name(kind):
    keras.utils.set_random_seed(0)
    choices = [
        Choice(
            [
                layers.Conv2D(2, 3, padding="same", name="conv"),
                layers.Conv2D(2, 1, name="other"),
            ],
            name=f"choice{k}",
        )
        for k in range(3)
    ]
    # A name that the derived model has already, and one it may come to.
    rest = [layers.ReLU(name="conv_2"), layers.ReLU(name="conv_3")]
    inputs = x = keras.Input(SHAPE, name="conv_1")
    if kind == "sequential":
        model = keras.Sequential([inputs, *rest, *choices])
    else:
        for layer in [*rest, *choices]:
            x = layer(x)
        model = keras.Model(inputs, x)
    for choice in choices:
        choice.decision.freeze(0)
    derived, _ = assert_derived(model, images())
    names = [layer.name for layer in derived.layers]
    assert len(set(names)) == len(names)
    kept = {id(v) for c in choices for v in c.candidates[0].variables}
    assert {id(v) for v in derived.variables} == kept


def test_several_inputs_and_outputs():
    keras.utils.set_random_seed(0)
    choice = Choice(kernels("kernel"), name="kernel")
    first, second = keras.Input(SHAPE), keras.Input(SHAPE)
    x = choice(layers.Add()([first, second]))
    model = keras.Model([first, second], [x, layers.Flatten()(x)])
    choice.decision.freeze(1)
    given = [images(), 1.0 + images()]
    expected = model(given)
    for ours, theirs in zip(derive(model)(given), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("number", [0, 2])
def test_supernet_and_derived_model_survive_saving(number, tmp_path):
    keras.utils.set_random_seed(0)
    supernet = spaces.resnet(SHAPE, 3, width=4, stages=1, blocks=2)
    supernet(images(16), training=True)
    for decision in find_decisions(supernet):
        decision.freeze(number)
    derived = derive(supernet)
    expected = derived(images())
    for name, model in (("super", supernet), ("derived", derived)):
        model.save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_allclose(loaded(images()), expected, rtol=1e-5)
    supernet_again = keras.saving.load_model(tmp_path / "super.keras")
    np.testing.assert_allclose(
        derive(supernet_again)(images()), expected, rtol=1e-5
    )


def test_deriving_leaves_the_supernet_searchable(resnet):
    before = [v.numpy() for v in resnet.variables]
    derive(resnet)
    assert len(find_layers(resnet, Choice)) == 4
    for variable, old in zip(resnet.variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


@pytest.mark.parametrize(
    ("space", "arguments"),
    [
        (spaces.darts, {"channels": 2, "cells": 1}),
        (spaces.darts, {"channels": 2, "cells": 1, "none": True}),
        (spaces.nas_bench_201, {"channels": 2, "cells": 1}),
    ],
)
def test_the_first_candidates_that_do_not_give_zeros(space, arguments):
    keras.utils.set_random_seed(0)
    network = derive_first(space(SHAPE, 3, **arguments))
    assert find_decisions(network) == []
    assert not [x for x in all_layers(network) if gives_zeros(x)]
    outputs = np.asarray(network(images()))
    assert np.max(np.ptp(outputs, axis=0)) > 1e-3


def test_candidates_that_all_give_zeros_are_first_as_well():
    choice = Choice([layers.Rescaling(0.0), layers.Rescaling(0.0)])
    inputs = keras.Input(SHAPE)
    derived = derive_first(keras.Model(inputs, choice(inputs)))
    assert derived.layers[1] is choice.candidates[0]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_node_that_is_one_of_several_outputs_keeps_its_name(keep):
    inputs = keras.Input((2,), name="x")
    edges = [
        [layers.Dense(2, name=f"{end}{edge}") for end in ("one", "two")]
        for edge in range(2)
    ]
    node = NodeChoice(edges, keep=keep, name="node")
    outputs = [node([inputs, inputs]), layers.Dense(2, name="plain")(inputs)]
    model = keras.Model(inputs, outputs)
    derived = derive(model)
    assert Form.of(derived) == Form.of(model)
    x = np.ones((1, 2), "float32")
    for found, expected in zip(derived(x), model(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_candidate_may_have_the_name_of_an_operation():
    inputs = keras.Input((2,))
    x = keras.ops.relu(inputs)
    # Keras calls it `relu`, and numbers those that follow.
    name = x._keras_history.operation.name
    choice = Choice(
        [
            layers.Activation("relu", name=name),
            layers.Activation("tanh", name="tanh"),
        ]
    )
    model = keras.Model(inputs, choice(x))
    choice.decision.freeze(0)
    derived = derive(model)
    x = np.array([[-1.0, 2.0]], "float32")
    np.testing.assert_array_equal(derived(x), [[0.0, 2.0]])


def test_the_input_of_a_sequential_model_keeps_name_and_dtype():
    inputs = keras.Input((8, 8, 1), dtype="uint8", name="image")
    choice = Choice(
        # One of them has the input's name.
        [layers.Rescaling(2.0, name="image"), layers.Rescaling(3.0)],
    )
    model = keras.Sequential([inputs, choice, layers.Flatten()])
    choice.decision.freeze(0)
    derived = derive(model)
    (theirs,) = derived.inputs
    assert (theirs.name, theirs.dtype) == ("image", "uint8")
    assert theirs.shape == (None, 8, 8, 1)
    np.testing.assert_array_equal(
        derived(np.ones((1, 8, 8, 1), "uint8")), np.full((1, 64), 2.0)
    )


# Bad input


@keras.saving.register_keras_serializable("tests")
class Wrapped(layers.Layer):
    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)


def test_a_choice_inside_a_custom_layer():
    choice = Choice(kernels("hidden"), name="hidden")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, Wrapped(choice)(inputs))
    with pytest.raises(ValueError, match="custom layer.*'hidden'"):
        derive(model)


def test_a_choice_inside_a_subclassed_model():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.choice = Choice(kernels("hidden"), name="hidden")

        def call(self, inputs):
            return self.choice(inputs)

    model = Mine()
    model(images())
    with pytest.raises(ValueError, match="Sequential and functional.*mine"):
        derive(model)


def test_a_model_with_a_call_of_its_own():
    class Cooled(keras.Model):
        def call(self, inputs, training=None):
            return super().call(inputs, training=training) / 2.0

    class Made(Cooled):
        def __init__(self):
            inputs = keras.Input(SHAPE)
            super().__init__(inputs, Choice(kernels("b"), name="d")(inputs))

    inputs = keras.Input(SHAPE)
    model = Cooled(inputs, Choice(kernels("a"), name="c")(inputs))
    derived = derive(model)
    np.testing.assert_allclose(derived(images()), model(images()), rtol=1e-5)
    assert not find_layers(derived, Choice)
    # Keras rebuilds no other one as what it is.
    for each in (Made(), keras.Sequential([keras.Input(SHAPE), Made()])):
        with pytest.raises(ValueError, match="its own is lost.*Made"):
            derive(each)


def test_a_nested_model_that_is_called_twice_in_a_row():
    block = keras.Sequential(
        [keras.Input(SHAPE), Choice(kernels("twice"), name="c")], name="block"
    )
    model = keras.Sequential([keras.Input(SHAPE), block, block])
    assert_derived(model, images())
    assert len({id(layer) for layer in derive(model).layers}) == 1


def test_what_is_frozen_by_hand_stays_where_nothing_is_searched():
    inputs = keras.Input(SHAPE)
    by_hand, free = (Choice(kernels(n), name=n) for n in "ab")
    model = keras.Model(inputs, free(by_hand(inputs)))
    by_hand.decision.freeze(2)
    found = {layer.name for layer in derive_first(model).layers}
    assert {"a_five", "b_three"} <= found


@pytest.mark.parametrize("holder", ["model", "candidate"])
def test_a_nested_model_in_two_places_stays_one(holder):
    inputs = keras.Input((3,))
    choice = Choice([layers.Dense(3, name=n) for n in "ab"], name="choice")
    x = choice(inputs)
    block = keras.Model(inputs, layers.Dense(3, name="behind")(x), name="block")
    towers = [block, block]
    if holder == "candidate":
        towers = [
            Choice([block, layers.Dense(3, name=f"other{k}")], name=f"tower{k}")
            for k in range(2)
        ]
    towers = [keras.Sequential([keras.Input((3,)), t]) for t in towers]
    x = keras.Input((3,))
    model = keras.Model(x, layers.Add()([t(x) for t in towers]))
    plain = derive(model)
    held = find_layers(plain, keras.layers.Dense)
    assert sorted(layer.name for layer in held) == ["a", "behind"]
    assert len([m for m in find_layers(plain, keras.Model) if is_block(m)]) == 1
    # Two of them would share layers, and a file of that could not be read.
    sharing.check(plain)


def is_block(model):
    return any(layer.name == "behind" for layer in model.layers)


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_added_computes_as_the_choice_did(keep):
    """By a policy of its own, whatever layers have by default meanwhile."""
    inputs = keras.Input((3,), dtype="float64")
    edges = [
        [layers.Dense(3, dtype="float64", name=f"d{e}{k}") for k in range(2)]
        for e in range(2)
    ]
    node = NodeChoice(edges, keep=keep, dtype="float64", name="node")
    candidates = [
        layers.Dense(3, dtype="float64", name=f"c{k}") for k in range(2)
    ]
    choice = Choice(candidates, dtype="float64", name="choice")
    model = keras.Model(inputs, choice(node([inputs, inputs])))
    for k, decision in enumerate(find_decisions(model)):
        ISTA().prepare(decision, (0, k))
        decision.freeze([0, 2][: decision.keep])
        decision.code.scales.assign(
            np.linspace(0.3, 0.7, decision.num_candidates)
        )
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        derived = derive(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert derived.outputs[0].dtype == "float64"
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose(derived(x), model(x), rtol=1e-6)
