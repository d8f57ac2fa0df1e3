"""Form: what is one array and what are several, and which is which."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import form
from keras_dha.form import Form

A, B = np.zeros((6, 3)), np.ones((6, 4))
LABELS = np.arange(6) % 2


def network(by_name=False):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    x = layers.Concatenate()([a, b])
    one = layers.Dense(2, name="one")(x)
    two = layers.Dense(3, name="two")(x)
    if by_name:
        # Not in the order of the names, and not under those of the layers.
        return keras.Model({"b": b, "a": a}, {"z": one, "y": two})
    return keras.Model([b, a], [one, two])


@pytest.mark.parametrize(
    ("given", "several"),
    [
        ([A, B], True),
        ((A, B), True),
        (list(A), False),  # six examples of three numbers
        (tuple(A), False),
        ([row.tolist() for row in A], False),
        (A.tolist(), False),
        ([A[:5], B], None),  # lengths differ: NumPy has no array of these
    ],
)
def test_a_list_is_several_if_it_holds_arrays_as_long_as_the_labels(
    given, several
):
    if several is None:
        with pytest.raises(ValueError, match="as long as there are labels"):
            form.structured(given, LABELS)
        return
    x, y = form.structured(given, LABELS)
    if several:
        assert x[0] is A and x[1] is B
    else:
        np.testing.assert_array_equal(x, A)
    assert y is LABELS


def test_as_many_arrays_as_labels_are_one_array_of_examples():
    square = [np.zeros(6) for _ in range(6)]
    x, _ = form.structured(square, LABELS)
    assert x.shape == (6, 6)


def test_labels_of_several_outputs_are_told_from_rows():
    rows = [row for row in np.eye(2)[LABELS]]
    assert form.structured(A, rows)[1].shape == (6, 2)
    two = [LABELS, LABELS]
    assert isinstance(form.structured(A, two)[1], tuple)
    assert isinstance(form.structured([A, B], two)[1], tuple)
    assert form.structured(A, LABELS.tolist())[1].shape == (6,)


def test_parts_go_to_the_network_by_name_or_in_its_order():
    in_order = Form.of(network())
    assert in_order.inputs.names == ["b", "a"]
    assert in_order.outputs.names == ["one", "two"]
    for given in [{"a": A, "b": B}, (B, A)]:
        arranged = in_order.inputs.arranged(given)
        assert arranged[0] is B and arranged[1] is A
    by_name = Form.of(network(by_name=True))
    assert by_name.inputs.names == ["a", "b"]
    assert by_name.outputs.names == ["y", "z"]
    arranged = by_name.inputs.arranged((A, B))
    assert arranged["a"] is A and arranged["b"] is B
    assert by_name.inputs.arranged(arranged) == arranged


def test_keras_agrees_on_the_order():
    for made in (network(), network(by_name=True)):
        found = Form.of(made)
        x = found.inputs.arranged({"a": A, "b": B})
        parts = keras.tree.flatten(made(x))
        order = ["one", "two"] if not found.outputs.by_name else ["two", "one"]
        assert [p.shape[1] for p in parts] == [
            made.get_layer(name).units for name in order
        ]


def test_one_input_alone_may_have_its_name():
    single = keras.Sequential([keras.Input((3,), name="a"), layers.Dense(2)])
    found = Form.of(single)
    assert found.inputs.arranged({"a": A}) is A
    assert found.arranged(A, LABELS) == (A, LABELS)


@pytest.mark.parametrize(
    "given",
    [{"a": A}, {"a": A, "c": B}, (A,), (A, B, B), A],
)
def test_other_names_or_numbers_are_refused(given):
    with pytest.raises(ValueError, match=r"inputs.*'b', 'a'.*Received"):
        Form.of(network()).inputs.arranged(given)


def test_facts_are_arranged_as_data_are_with_lists_for_tuples():
    ports = Form.of(network()).inputs
    assert ports.arranged({"a": (3,), "b": (4,)}, list) == [(4,), (3,)]
    alone = Form.of(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
    assert alone.inputs.arranged((3,), list) == (3,)


def test_networks_that_cannot_be_matched_are_refused():
    a = keras.Input((3,), name="a")
    dense = layers.Dense(2)
    with pytest.raises(ValueError, match="name of its own"):
        Form.of(keras.Model(a, [dense(a), dense(layers.ReLU()(a))]))
    b = keras.Input((3,), name="b")
    c = keras.Input((3,), name="c")
    nested = keras.Model([a, [b, c]], dense(layers.Add()([a, b, c])))
    with pytest.raises(ValueError, match="a list or a dict"):
        Form.of(nested)


def test_a_dataset_in_the_networks_form_is_left_as_it_is():
    found = Form.of(network())
    given = tf.data.Dataset.from_tensor_slices(((B, A), (LABELS, LABELS)))
    assert found.arranged(given, None)[0] is given
    named = tf.data.Dataset.from_tensor_slices(
        ({"a": A, "b": B}, (LABELS, LABELS))
    )
    x, y = next(iter(found.arranged(named, None)[0]))
    assert [part.shape for part in x] == [(4,), (3,)]
    assert len(y) == 2
