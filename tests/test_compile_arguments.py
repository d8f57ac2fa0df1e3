"""What `compile` takes, matched with the outputs of a network."""

import keras
import pytest
from keras import layers

from keras_dha import compile_arguments
from keras_dha.architecture.choice import Choice
from keras_dha.data_spec import DataSpec

SPEC = DataSpec((4,), [2, 3], [False, True], (0.0, 1.0), 10)
SPARSE = keras.losses.SparseCategoricalCrossentropy
CATEGORICAL = keras.losses.CategoricalCrossentropy
FOCAL = keras.losses.CategoricalFocalCrossentropy


def network(by_name=False):
    inputs = keras.Input((4,))
    softmax = Choice(
        [
            layers.Dense(2, activation="softmax", name="plain"),
            layers.Dense(2, activation="softmax", name="other"),
        ],
        name="z",
    )(inputs)
    logits = layers.Dense(3, name="y")(inputs)
    if by_name:
        return keras.Model(inputs, {"z": softmax, "y": logits})
    return keras.Model(inputs, [softmax, logits])


def test_defaults_fit_labels_and_last_layer_of_each_output():
    found = compile_arguments.losses(None, None, network(), SPEC)
    assert [type(loss) for loss in found.losses] == [SPARSE, CATEGORICAL]
    logits = [loss.get_config()["from_logits"] for loss in found.losses]
    assert logits == [False, True]
    assert found.weights == [1.0, 1.0]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("categorical_crossentropy", [CATEGORICAL, CATEGORICAL]),
        ([None, FOCAL()], [SPARSE, FOCAL]),
        (
            {"y": FOCAL(), "z": "sparse_categorical_crossentropy"},
            [SPARSE, FOCAL],
        ),
    ],
)
def test_losses_are_given_for_all_or_for_each(loss, expected):
    found = compile_arguments.losses(loss, {"y": 2, "z": 0}, network(), SPEC)
    assert [type(loss) for loss in found.losses] == expected
    assert found.weights == [0.0, 2.0]


def test_outputs_by_name_are_in_the_order_of_keras():
    found = compile_arguments.losses(
        {"z": SPARSE(), "y": FOCAL()},
        {"z": 3, "y": 5},
        network(by_name=True),
        SPEC._replace(num_classes={"z": 2, "y": 3}, one_hot={"z": 0, "y": 1}),
    )
    assert [type(loss) for loss in found.losses] == [FOCAL, SPARSE]
    assert found.weights == [5.0, 3.0]


@pytest.mark.parametrize(
    ("loss", "weights", "match"),
    [
        ({"z": SPARSE()}, None, r"`loss` must be given for each.*'z', 'y'"),
        ([SPARSE()], None, "`loss` must be given for each"),
        (None, [1.0], "`loss_weights` must be given for each"),
        (None, {"z": 1.0, "x": 2.0}, "`loss_weights` must be given for each"),
        (None, [1.0, -1.0], "at least 0"),
        (None, [1.0, "2"], "at least 0"),
    ],
)
def test_what_does_not_fit_the_outputs_is_refused(loss, weights, match):
    with pytest.raises(ValueError, match=match):
        compile_arguments.losses(loss, weights, network(), SPEC)


def test_metrics_are_those_of_each_output():
    accuracy = ["accuracy"]
    cases = [
        (None, [accuracy, accuracy]),
        ({"y": "accuracy"}, [[], accuracy]),
        (["accuracy", []], [accuracy, []]),
    ]
    for asked, expected in cases:
        assert compile_arguments.metrics(asked, network()) == expected
    by_name = compile_arguments.metrics({"z": accuracy}, network(by_name=True))
    assert by_name == {"z": accuracy, "y": []}
    for wrong in (["accuracy"], {"x": "accuracy"}, "accuracy"):
        with pytest.raises(ValueError, match="metrics"):
            compile_arguments.metrics(wrong, network())
