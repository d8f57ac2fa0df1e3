"""What `compile` takes, matched with the outputs of a network."""

import warnings

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


def mean_of_heads(inputs, activation, units=3):
    x = layers.Rescaling(0.1, offset=0.3)(inputs)
    heads = [layers.Dense(units, activation=activation)(x) for _ in range(2)]
    return layers.Average()(heads)


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize(
    ("activation", "from_logits"),
    [("softmax", False), (None, True), ("sigmoid", True)],
)
def test_what_no_layer_says_is_seen(activation, from_logits, dtype):
    inputs = keras.Input((4,), dtype=dtype)
    model = keras.Model(inputs, mean_of_heads(inputs, activation))
    spec = DataSpec((4,), 3, False, (0.0, 16.0), 10)
    (loss,) = compile_arguments.losses(None, None, model, spec).losses
    assert loss.get_config()["from_logits"] == from_logits


def test_what_is_neither_probabilities_nor_logits_needs_a_loss():
    inputs = keras.Input((4,))
    outputs = layers.Dense(3, activation="sigmoid", name="head")(inputs)
    model = keras.Model(inputs, outputs)
    spec = DataSpec((4,), 3, False, (0.0, 16.0), 10)
    with pytest.raises(ValueError, match="softmax.*'sigmoid'.*'head'"):
        compile_arguments.losses(None, None, model, spec)
    given = compile_arguments.losses("poisson", None, model, spec)
    assert isinstance(given.losses[0], keras.losses.Poisson)


def test_it_is_seen_of_each_output_and_with_several_inputs():
    shapes = {"b": (5,), "a": (4,)}
    inputs = {name: keras.Input(shapes[name], name=name) for name in shapes}
    outputs = {
        "z": mean_of_heads(inputs["a"], "softmax"),
        "y": mean_of_heads(inputs["b"], None),
        "x": layers.Dense(3)(inputs["b"]),
    }
    spec = DataSpec(
        shapes,
        {name: 3 for name in outputs},
        {name: False for name in outputs},
        {"b": (0.0, 1.0), "a": (-1.0, 1.0)},
        10,
    )
    found = compile_arguments.losses(
        None, None, keras.Model(inputs, outputs), spec
    )
    logits = [loss.get_config()["from_logits"] for loss in found.losses]
    assert logits == [True, True, False]


def test_a_network_whose_layers_say_it_is_not_run(monkeypatch):
    def run(*args, **kwargs):
        raise AssertionError("it was run")

    monkeypatch.setattr(compile_arguments, "_outputs", run)
    compile_arguments.losses(None, None, network(), SPEC)


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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kl_divergence", keras.losses.KLDivergence),
        ("poisson", keras.losses.Poisson),
        ("Huber", keras.losses.Huber),
        ("mean_squared_error", keras.losses.MeanSquaredError),
    ],
)
def test_every_name_of_a_keras_loss_is_one(name, kind):
    found = compile_arguments.losses(name, None, network(), SPEC)
    assert [type(loss) for loss in found.losses] == [kind, kind]


def test_names_that_are_none_of_a_loss():
    for name in ("mse", "categorical_crossentrop"):
        with pytest.raises(ValueError, match=name):
            compile_arguments.losses(name, None, network(), SPEC)


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


@pytest.mark.parametrize("ends", [("softmax", None), (None, "softmax")])
def test_candidates_of_an_output_end_alike(ends):
    def model(*activations):
        inputs = keras.Input((4,))
        heads = [
            layers.Dense(3, activation=activation, name=f"head{k}")
            for k, activation in enumerate(activations)
        ]
        return keras.Model(inputs, Choice(heads, name="heads")(inputs))

    spec = DataSpec((4,), 3, False, (0.0, 16.0), 10)
    with pytest.raises(ValueError, match="all end in a softmax.*'heads'"):
        compile_arguments.losses(None, None, model(*ends), spec)
    for activation, from_logits in (("softmax", False), (None, True)):
        (loss,) = compile_arguments.losses(
            None, None, model(activation, activation), spec
        ).losses
        assert loss.get_config()["from_logits"] == from_logits


def compiled(loss, **arguments):
    made = network()
    made.compile("adam", loss, **arguments)
    return made


@pytest.mark.parametrize(
    "loss, weights",
    [
        (FOCAL(), None),
        ("mse", None),
        (CATEGORICAL(label_smoothing=0.1), None),
        (["sparse_categorical_crossentropy", "kl_divergence"], None),
        ("categorical_crossentropy", [1.0, 0.3]),
    ],
)
def test_a_loss_of_the_model_that_does_not_train_it(loss, weights):
    given = compiled(loss, loss_weights=weights)
    with pytest.warns(
        UserWarning, match="`AutoModel.compile`.*Received: loss=.*of the model"
    ):
        compile_arguments.warn_of_another_loss(given, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_arguments.warn_of_another_loss(given, SPARSE())


@pytest.mark.parametrize(
    "given",
    [
        compiled("sparse_categorical_crossentropy"),
        compiled("SparseCategoricalCrossentropy"),
        compiled([SPARSE(), CATEGORICAL(from_logits=True)]),
        compiled(keras.losses.categorical_crossentropy, loss_weights=[1, 1]),
        compiled(None),
        network(),
        "auto",
    ],
)
def test_a_model_that_is_trained_by_the_loss_that_it_has(given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_arguments.warn_of_another_loss(given, None)
