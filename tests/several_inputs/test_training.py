"""Networks with several inputs and outputs train as those with one do.

What is known from outside: a network that joins two halves of an input is the
network on the whole, and an output whose loss has no weight teaches nothing.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.ranges import Range
from tests.auto_model.small_runs import RATES
from tests.several_inputs.networks import IMAGES
from tests.several_inputs.networks import LEFT
from tests.several_inputs.networks import NAMED
from tests.several_inputs.networks import NO_DROPOUT
from tests.several_inputs.networks import ORDERED
from tests.several_inputs.networks import OTHER
from tests.several_inputs.networks import QUICK
from tests.several_inputs.networks import RIGHT
from tests.several_inputs.networks import N
from tests.several_inputs.networks import X
from tests.several_inputs.networks import Y
from tests.several_inputs.networks import by_name
from tests.several_inputs.networks import dense
from tests.several_inputs.networks import in_order
from tests.several_inputs.networks import on_halves
from tests.several_inputs.networks import on_the_whole
from tests.several_inputs.networks import run
from tests.several_inputs.networks import with_another_output


@pytest.fixture(scope="module")
def whole():
    return run(on_the_whole, X, Y)


@pytest.mark.parametrize(
    "halves",
    [(LEFT, RIGHT), [LEFT, RIGHT], {"right": RIGHT, "left": LEFT}],
    ids=["tuple", "list", "dict"],
)
def test_halves_of_an_input_train_as_the_whole_does(whole, halves):
    model = run(on_halves, halves, Y)
    for ours, theirs in zip(
        model.get_weights(), whole.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(
        model.predict(halves), whole.predict(X), atol=1e-6
    )
    np.testing.assert_allclose(
        model.evaluate(halves, Y), whole.evaluate(X, Y), atol=1e-6
    )
    # The rate was learned, from a search split that is the same.
    rates = [
        m.result.hyperparameters["learning_rate"]["value"]
        for m in (model, whole)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-5)
    assert abs(rates[0] - RATES["learning_rate"].start) > 1e-3


def test_an_output_without_weight_changes_nothing(whole):
    model = run(
        with_another_output((7,), {"first": 2, "extra": 3}),
        X,
        {"extra": OTHER, "first": Y},
        compiled={"loss_weights": {"first": 1, "extra": 0}},
    )
    kept = model.get_weights()[:4]
    for ours, theirs in zip(kept, whole.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_function_gets_classes_as_the_labels_are_and_finds_their_output():
    arguments = {"hyperparameters": {"learning_rate": 0.05}}
    named = {"extra": OTHER, "first": Y}
    by_name = run(with_another_output, X, named, **arguments)
    in_order = run(with_another_output, X, [Y, OTHER], **arguments)
    for ours, theirs in zip(
        by_name.get_weights(), in_order.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("is_dict", [False, True])
def test_a_class_may_have_no_example(is_dict):
    network = with_another_output((7,), {"first": 3, "extra": 4})
    y = {"first": Y, "extra": OTHER} if is_dict else (Y, OTHER)
    fixed = {"learning_rate": 0.05}
    model = run(network, X, y, epochs=1, hyperparameters=fixed)
    assert [p.shape[1] for p in model.predict(X)] == [3, 4]


def seeing(shape, num_classes):
    """A choice whose one candidate is blind to the input with the class."""
    noise, telling = keras.Input(shape[0]), keras.Input(shape[1])
    branch = Choice(
        [
            keras.Sequential(
                [layers.Rescaling(0.0), layers.Dense(4)], name="blind"
            ),
            layers.Dense(4, name="sees"),
        ],
        name="branch",
    )(telling)
    x = layers.Concatenate()([layers.Dense(4)(noise), branch])
    return keras.Model([noise, telling], layers.Dense(num_classes)(x))


def test_the_branch_that_carries_the_class_is_found():
    rng = np.random.default_rng(3)
    noise, telling = rng.normal(size=(2, N, 5)).astype("float32")
    model = run(
        seeing,
        (noise, telling),
        (telling[:, 0] > 0).astype(int),
        epochs=40,
        strategy=DSNAS(until=0.5),
        hyperparameters={"learning_rate": 0.1},
    )
    assert model.result.genotype["branch"]["choice"] == "sees"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": DSNAS()},
        {"strategy": DARTS(order=2)},
        {"strategy": ISTA()},
        {
            "method": "autohas",
            "hyperparameters": {"learning_rate": Range(1e-3, 0.05)},
        },
        {
            "strategy": None,
            "horizon": "implicit",
            "hyperparameters": {
                "learning_rate": 0.05,
                "weight_decay": RATES["weight_decay"],
            },
        },
        {"target": {"params": 160, "flops": 30_000}},
        {"target": {"latency_ms": 1e3}},
    ],
    ids=lambda arguments: " ".join(map(str, arguments.values()))[:30],
)
def test_every_strategy_and_horizon_trains_such_a_network(arguments):
    arguments = {"hyperparameters": RATES, **arguments}
    model = run(keras.Model(*by_name()), *NAMED, epochs=6, **arguments)
    losses = model.history.history["loss"]
    assert losses[-1] < losses[0]
    learned = [h for h in model.result.hyperparameters.values() if h["learned"]]
    assert any(
        h["value"] != pytest.approx(h["start"], rel=1e-3) for h in learned
    )
    if arguments.get("strategy", True) is not None:
        for gene in model.result.genotype.values():
            assert np.ptp(list(gene["probabilities"].values())) > 1e-3
    for name, cost in model.result.cost.get("target", {}).items():
        assert 0 < cost["reached"] <= cost["limit"], name
    if "params" in arguments.get("target", {}):
        assert model.export_model().count_params() <= 160


def of_two_parts(shape, num_classes):
    """Smooth, and without statistics of a replica's own."""
    inputs = [keras.Input(each) for each in shape]
    x = dense(6, 1, activation="tanh")(layers.Concatenate()(inputs))
    outputs = [dense(n, 2 + k)(x) for k, n in enumerate(num_classes)]
    return keras.Model(inputs, outputs)


def test_replicas_share_batches_of_several_parts():
    def trained(devices):
        with devices.scope():
            model = AutoModel(
                of_two_parts,
                augmentation=None,
                hyperparameters=RATES,
                outer_every=2,
                # Replicas have as many of these each.
                search_split=0.25,
                seed=1,
            )
        model.fit((LEFT, RIGHT), (Y, OTHER), batch_size=16, epochs=2, verbose=0)
        found = model.result.hyperparameters
        return model.export_model().get_weights(), {
            name: found[name]["value"] for name in RATES
        }

    one, rates_of_one = trained(tf.distribute.get_strategy())
    two, rates_of_two = trained(
        tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)
    assert rates_of_two == pytest.approx(rates_of_one, rel=1e-3)


def test_datasets_are_trained_on():
    dataset = tf.data.Dataset.from_tensor_slices(NAMED).batch(16)
    model = run(keras.Model(*in_order()), dataset, **QUICK, epochs=6)
    losses = model.history.history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_only_the_image_is_augmented():
    layer = DifferentiableAugmentation(
        ["Invert"], 1, (0.0, 1.0), flip=None, shift=None
    )
    model = run(
        keras.Model(*in_order()), *ORDERED, augmentation=layer, epochs=1
    )
    seeds = tf.constant([[1, 2], [3, 4]])
    images, vectors = tf.constant(IMAGES), tf.constant(X)
    _, (seen, same), share = model.joint.augment((images, vectors), seeds)
    assert same is vectors and share is None
    assert not np.allclose(seen, IMAGES)
    assert model.result.policy is not None


def test_integers_are_not_blended():
    words = keras.Input((2,), dtype="int32", name="words")
    other = keras.Input((7,), name="other")
    x = layers.Flatten()(layers.Embedding(5, 3)(words))
    x = layers.Dense(2)(layers.Concatenate()([x, other]))
    network = keras.Model([words, other], x)
    given = np.arange(2 * N).reshape(N, 2) % 5
    run(network, (given, X), Y, epochs=1, **NO_DROPOUT)
    with pytest.raises(ValueError, match="no blend"):
        run(network, (given, X), Y)


def test_words_alone_are_not_blended():
    """Between two of them stands another one; not so with pixels."""
    words = keras.Input((2,), dtype="int32")
    x = layers.Dense(2)(layers.Flatten()(layers.Embedding(5, 3)(words)))
    given = np.arange(2 * N).reshape(N, 2) % 5
    with pytest.raises(ValueError, match="no blend"):
        AutoModel(
            keras.Model(words, x), strategy=None, hyperparameters={"mixup": 0.2}
        ).fit(given, Y, epochs=1, verbose=0)
    pixels = keras.Input((7, 7, 1), dtype="uint8")
    x = layers.Dense(2)(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
    given = np.arange(49 * N).reshape(N, 7, 7, 1).astype("uint8")
    AutoModel(
        keras.Model(pixels, x),
        augmentation=None,
        hyperparameters={"mixup": 0.2},
    ).fit(given, Y, epochs=1, verbose=0)


def test_a_directory_goes_on_to_the_same_losses(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def begun(**fit):
        return run(
            on_halves,
            {"left": LEFT, "right": RIGHT},
            Y,
            epochs=3,
            directory=tmp_path / "run",
            fit=fit,
        )

    expected = run(on_halves, {"left": LEFT, "right": RIGHT}, Y, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        begun(callbacks=[Killed()])
    for _ in range(2):  # goes on, and once more, is only loaded
        found = begun()
        assert found.history.history["loss"] == pytest.approx(
            expected.history.history["loss"], rel=1e-6
        )
        np.testing.assert_allclose(
            found.predict((LEFT, RIGHT)), expected.predict((LEFT, RIGHT))
        )
    with pytest.raises(ValueError, match="asked for otherwise"):
        run(
            on_halves,
            {"left": LEFT, "right": LEFT[:, [0, 1, 2, 2]]},
            Y,
            epochs=3,
            directory=tmp_path / "run",
        )
