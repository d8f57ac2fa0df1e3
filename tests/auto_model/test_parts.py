"""Any subset of the three searches, on one code path."""

import itertools

import keras
import numpy as np
import pytest

from keras_dha import assembly
from keras_dha import data
from keras_dha.architecture.choice import Choice
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.result import operations
from tests.auto_model.small_runs import BATCH
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import RATES
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import assert_plain
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model


def assert_policy_was_learned(result):
    uniform = [1 / 3] * 3
    assert not np.allclose(result.policy.probabilities, uniform, rtol=1e-3)
    found = operations(result.history)
    for name, (share, magnitude) in result.policy.usage().items():
        assert found[name]["probability"][-1] == share
        assert found[name]["magnitude"][-1] == magnitude
    # Outer steps were taken in every epoch, and images counted.
    shares = [values["share"] for values in found.values()]
    assert np.sum(shares, axis=0) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    "strategy, augmentation, hyperparameters",
    list(itertools.product((True, False), repeat=3)),
    ids=lambda on: "on" if on else "off",
)
def test_any_subset_of_the_searches(strategy, augmentation, hyperparameters):
    off = {}
    if not strategy:
        off["strategy"] = None
    if not augmentation:
        off["augmentation"] = None
    if not hyperparameters:
        off["hyperparameters"] = None
    model = joint_auto_model(**off)
    history = fit(model).history
    plain, result = model.export_model(), model.result
    assert_plain(plain)
    np.testing.assert_array_equal(
        plain.predict(X, batch_size=256, verbose=0), model.predict(X)
    )
    assert set(result.genotype) == (
        {"choice0", "choice1"} if strategy else set()
    )
    assert ("decision_margin" in history) == strategy
    if not strategy:
        names = {layer.name for layer in plain.layers}
        assert {"three0", "three1"} <= names  # the first candidates
    assert (result.policy is not None) == augmentation
    if augmentation:
        assert_policy_was_learned(result)
    # What callbacks get.
    assert bool(operations(history)) == augmentation
    for name, found in result.hyperparameters.items():
        is_learned = hyperparameters and name in RATES
        assert found["learned"] == is_learned
        moved = abs(found["value"] / found["start"] - 1) > 1e-3
        # In so short a run decay does not fall: it could do nothing below.
        stays = name == "weight_decay" and found["value"] == found["start"]
        assert moved == is_learned or (is_learned and stays)
        if is_learned:
            assert history[name][-1] == found["value"]
        assert len(history.get(name, [])) == (3 if is_learned else 0)
    assert len(history["loss"]) == len(history["accuracy"]) == 3


def test_flips_begin_as_mirror_images_are_like_the_images(capsys):
    def start(x):
        model = joint_auto_model(strategy=None, augmentation="auto")
        model.fit(x, Y, epochs=1, batch_size=BATCH, verbose=2)
        return model.joint.policy.augmentation.flip, capsys.readouterr().out

    # Rows that are bright are so in mirror images, columns are not.
    flip, said = start(X)
    assert flip == pytest.approx(0.5, abs=0.03) and "Mirror" not in said
    flip, said = start(np.swapaxes(X, 1, 2))
    assert flip < 0.1 and "Mirror images are unlike the images" in said


class Stop(keras.callbacks.Callback):
    """Ends a run before its first step."""

    def on_train_begin(self, logs=None):
        raise KeyboardInterrupt


def begin(x, **arguments):
    """What is said and warned of before the first step."""
    arguments = {"strategy": None, "hyperparameters": None, **arguments}
    model = joint_auto_model(**arguments)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, verbose=2, callbacks=[Stop()])


@pytest.mark.parametrize(
    "x, augmentation, is_said",
    [
        (X[:, :7, :, 0], "auto", True),
        (X[:, :7, :, 0], None, False),
        (X[..., 0], "auto", False),
        (X[:, :7], "auto", False),
    ],
)
def test_what_may_be_a_sequence_is_said_to_be_an_image(
    x, augmentation, is_said, capsys
):
    begin(x, augmentation=augmentation)
    out = capsys.readouterr().out
    assert ("taken for grey images" in out) == is_said
    if is_said:
        assert "shape (7, 8) are taken for" in out
        assert "give augmentation=None" in out


def of_flat_examples(*between):
    """A network of examples of two axes."""
    inputs = x = keras.Input((7, 8))
    for layer in between:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(
        inputs, keras.layers.Dense(CLASSES, activation="softmax")(x)
    )


SEQUENTIAL = {
    "convolution": lambda: keras.layers.Conv1D(4, 3),
    "recurrent": lambda: keras.layers.Bidirectional(keras.layers.GRU(4)),
    "candidate": lambda: Choice(
        [keras.layers.Conv1D(4, 1), keras.layers.Conv1D(4, 1, use_bias=False)]
    ),
}


@pytest.mark.parametrize("made_by", ["model", "function"])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_layers_of_a_network_say_that_examples_are_sequences(
    name, made_by, capsys
):
    network = of_flat_examples(SEQUENTIAL[name]())
    given = network if made_by == "model" else lambda *_: network
    model = AutoModel(given, strategy=None, hyperparameters=None)
    fit(model, X[:, :7, :, 0], epochs=1, verbose=2)
    out = capsys.readouterr().out
    assert "shape (7, 8) are taken for sequences" in out
    assert "grey images" not in out and "Mirror images" not in out
    assert model.result.policy is None
    # Nothing is held out of what is known to learn nothing.
    steps = len(X) // BATCH - (made_by == "function")
    assert model.result.cost["phases"]["train"]["steps"] == steps - 1


def test_what_is_in_the_plane_is_an_image(capsys):
    begin(
        X[:, :7, :, 0],
        search_space=of_flat_examples(
            keras.layers.Reshape((7, 8, 1)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Reshape((5, 24)),
            keras.layers.Conv1D(4, 1),
        ),
        augmentation="auto",
    )
    assert "taken for grey images" in capsys.readouterr().out


def test_a_layer_that_was_given_augments_what_may_be_sequences():
    model = joint_auto_model(
        of_flat_examples(keras.layers.Conv1D(4, 3)),
        strategy=None,
        hyperparameters=None,
    )
    fit(model, X[:, :7, :, 0], epochs=1)
    assert "Rotate" in model.result.policy.operations


def test_a_layer_that_was_given_for_what_is_no_image_is_refused():
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(inputs)
    model = joint_auto_model(keras.Model(inputs, outputs), strategy=None)
    with pytest.raises(ValueError, match=r"one input that is an im.*\(8,\)"):
        fit(model, X[:, 0, :, 0], epochs=1)
    assert model.joint is None


def test_a_layer_for_other_pixels_is_warned_of():
    begin(X)
    with pytest.warns(UserWarning, match=r"value_range=\(0.0, 1.0\). Received"):
        begin(X / 255)


@pytest.mark.parametrize(
    "low, high, given, is_warned",
    [
        (0, 1, (0, 255), True),
        (0, 16, (0, 255), True),
        (0, 255, (0, 1), True),
        (-2.1, 2.6, (0, 1), True),
        (-2.1, 2.6, (-2, 2), False),
        (-2.1, 2.6, (-1, 1), True),
        # Dark images.
        (0, 40, (0, 255), False),
        (0, 0.3, (0, 1), False),
        # What is measured is wider: (0, 16).
        (0, 10, (0, 10), False),
        (-0.01, 0.99, (0, 1), False),
        # Black is clipped to grey, or there is no black.
        (-1, 1, (0, 1), True),
        (0, 1, (-1, 1), True),
        (-1, 1, (-1, 1), False),
    ],
)
def test_which_ranges_are_grossly_unlike(low, high, given, is_warned, recwarn):
    x = np.linspace(low, high, 40).reshape(10, 2, 2)
    spec = data.inspect(x, np.arange(10) % 2)
    layer = DifferentiableAugmentation(["Invert"], value_range=given)
    assembly._augmentation(layer, spec)
    assert len(recwarn) == is_warned


def test_images_are_not_mixed_twice():
    layer = DifferentiableAugmentation(["Invert"], levels=1, cutmix=0.3)
    model = joint_auto_model(augmentation=layer, hyperparameters={"mixup": 0.2})
    with pytest.raises(ValueError, match=r"mixed once.*\('cutmix',\)"):
        fit(model, epochs=1)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_layer_that_was_built_for_other_channels_is_refused(channels):
    """Its operations were chosen then: Color is among them, or is not."""
    spec = data.inspect(np.arange(96).reshape(2, 4, 4, 3), [0, 1])
    layer = DifferentiableAugmentation()
    layer.build((None, 8, 8, channels))
    told = f"to_layer.*channels=3 and an augmentation of channels={channels}"
    with pytest.raises(ValueError, match=told):
        assembly._augmentation(layer, spec)
    again = layer.policy().to_layer(trainable=True)
    assert assembly._augmentation(again, spec).channels == 3
    # A second run goes on with the layer of the first.
    assert assembly._augmentation(again, spec) is again


@pytest.mark.parametrize(
    "values, is_said",
    [
        ({"label_smoothing": 0.1}, True),
        ({"learning_rate": 0.05}, False),
        ("auto", False),
        (None, False),
    ],
)
def test_a_rate_that_others_beside_it_fix_is_said(values, is_said, capsys):
    begin(X, hyperparameters=values)
    said = "learning rate is fixed at 0.1" in capsys.readouterr().out
    assert said == is_said


def test_a_policy_in_the_network_is_refused():
    def network(**arguments):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                DifferentiableAugmentation(**arguments),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )

    with pytest.raises(ValueError, match="give the layer as `augmentation=`"):
        begin(X, search_space=network())
    # One that is fixed is a layer as others are.
    begin(X, search_space=network(trainable=False))


def test_derivatives_by_images_of_integers_are_refused():
    def network(dtype):
        inputs = keras.Input((8, 8, 1), dtype=dtype)
        x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    arguments = {"operations": ["Rotate"], "estimator": "relaxed"}
    layer = DifferentiableAugmentation(**arguments)
    with pytest.raises(ValueError, match="give it float inputs.*'uint8'"):
        begin(X, search_space=network("uint8"), augmentation=layer)
    layer = DifferentiableAugmentation(**arguments)
    begin(X, search_space=network("float32"), augmentation=layer)
