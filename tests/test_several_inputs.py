"""Networks with several inputs and outputs, against those with one.

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
from keras_dha.architecture.strategies import GDAS
from keras_dha.architecture.strategies import ISTA
from keras_dha.architecture.strategies import Reinforce
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.dropout import Dropout
from keras_dha.hyperparameters.ranges import Range
from tests.auto_model.small_runs import RATES
from tests.auto_model.small_runs import assert_plain

N = 96


def numbers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 7)).astype("float32")
    third = np.digitize(x[:, 1], [-0.5, 0.5])
    return x, (x[:, 0] + x[:, 4] > 0).astype(int), third


X, Y, OTHER = numbers()
LEFT, RIGHT = X[:, :3], X[:, 3:]


def dense(units, seed, **kwargs):
    start = keras.initializers.GlorotUniform(seed)
    return layers.Dense(units, kernel_initializer=start, **kwargs)


def on_the_whole(shape, num_classes):
    inputs = keras.Input(shape, name="whole")
    x = dense(6, 1, activation="relu")(inputs)
    return keras.Model(inputs, dense(num_classes, 2)(x))


def on_halves(shape, num_classes):
    """In whatever form the shapes come."""
    if isinstance(shape, dict):
        inputs = {n: keras.Input(shape[n], name=n) for n in ("right", "left")}
        parts = [inputs["left"], inputs["right"]]
    else:
        inputs = parts = [keras.Input(each) for each in shape]
    x = dense(6, 1, activation="relu")(layers.Concatenate()(parts))
    return keras.Model(inputs, dense(num_classes, 2)(x))


def with_another_output(shape, num_classes):
    """Their names sort otherwise than the network has them."""
    if isinstance(num_classes, list):
        num_classes = dict(zip(["first", "extra"], num_classes, strict=True))
    inputs = keras.Input(shape, name="whole")
    x = dense(6, 1, activation="relu")(inputs)
    first = dense(num_classes["first"], 2, name="first")(x)
    extra = dense(num_classes["extra"], 3, name="extra")(x)
    return keras.Model(inputs, [first, extra])


def run(space, x, y=None, epochs=2, compiled=None, fit=None, **kwargs):
    arguments = {
        "augmentation": None,
        "hyperparameters": {**RATES, "mixup": 0.2, "label_smoothing": 0.1},
        "outer_every": 2,
        "seed": 1,
        **kwargs,
    }
    model = AutoModel(space, **arguments)
    if compiled:
        model.compile(**compiled)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, **(fit or {}))
    return model


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


def by_name():
    """An image and a vector, two outputs, a choice before and at the end."""
    image = keras.Input((8, 8, 1), name="image")
    vector = keras.Input((7,), name="vector")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    x = layers.GlobalAveragePooling2D()(x)
    branch = Choice(
        [
            layers.Dense(4, activation="tanh", name="tanh"),
            layers.Dense(4, activation="relu", name="relu"),
        ],
        name="branch",
    )(vector)
    x = Dropout(0.2)(layers.Concatenate()([x, branch]))
    softmax = {"activation": "softmax"}
    first = Choice(
        [
            layers.Dense(2, name="short", **softmax),
            keras.Sequential(
                [layers.Dense(3), layers.Dense(2, **softmax)], name="long"
            ),
        ],
        name="first",
    )(x)
    return {"image": image, "vector": vector}, {
        "first": first,
        "other": layers.Dense(3, name="other")(x),
    }


def in_order():
    inputs, outputs = by_name()
    return list(inputs.values()), list(outputs.values())


IMAGES = np.random.default_rng(2).uniform(0, 1, (N, 8, 8, 1)).astype("float32")
NAMED = {"image": IMAGES, "vector": X}, {"first": Y, "other": OTHER}
ORDERED = (IMAGES, X), (Y, OTHER)
QUICK = {"hyperparameters": {"learning_rate": 0.05, "dropout_rate": 0.2}}


@pytest.fixture(scope="module", params=[by_name, in_order])
def fitted(request):
    return run(
        keras.Model(*request.param()),
        *NAMED,
        compiled={"loss_weights": {"first": 0.3, "other": 2.0}},
        fit={"validation_data": ORDERED},
        **QUICK,
    )


def outputs_of(model, x):
    found = model.predict(x)
    if isinstance(found, dict):
        assert list(model.joint.network.output) == list(found)
        return found["first"], found["other"]
    assert isinstance(found, list)
    return found


def test_losses_and_metrics_are_those_of_the_outputs(fitted):
    first, other = outputs_of(fitted, NAMED[0])
    powers = np.exp(other)
    other = powers / powers.sum(axis=1, keepdims=True)
    rows = np.arange(N)
    losses = {
        "first": -np.mean(np.log(first[rows, Y])),
        "other": -np.mean(np.log(other[rows, OTHER])),
    }
    found = fitted.evaluate(*ORDERED, return_dict=True)
    assert found["loss"] == pytest.approx(
        0.3 * losses["first"] + 2.0 * losses["other"], rel=1e-4
    )
    for name, loss in losses.items():
        assert found[f"{name}_loss"] == pytest.approx(loss, rel=1e-4)
    assert found["other_accuracy"] == pytest.approx(
        np.mean(other.argmax(axis=1) == OTHER)
    )
    history = fitted.history.history
    for name, value in found.items():
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-5)
        assert len(history[name]) == 2 and history[name][0] > 0


def test_a_saved_run_goes_on(fitted, tmp_path):
    fitted.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    expected = outputs_of(fitted, ORDERED[0])
    for ours, theirs in zip(
        outputs_of(loaded, NAMED[0]), expected, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    loaded.fit(*ORDERED, batch_size=16, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="keys"):
        loaded.fit({"image": IMAGES, "x": X}, NAMED[1], verbose=0)


def test_what_is_exported_is_plain_and_keeps_its_names(fitted, tmp_path):
    plain = fitted.export_model()
    assert_plain(plain)
    assert set(plain.output_names) == {"first", "other"}
    assert [tensor.name for tensor in plain.inputs] == ["image", "vector"]
    fitted.export(tmp_path / "1")
    served = tf.saved_model.load(tmp_path / "1").signatures["serving_default"]
    found = served(image=tf.constant(IMAGES), vector=tf.constant(X))
    expected = outputs_of(fitted, ORDERED[0])
    by_width = {tensor.shape[1]: tensor for tensor in found.values()}
    for theirs in expected:
        ours = by_width[theirs.shape[1]]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_litert_file_has_all_inputs_and_outputs(fitted, tmp_path):
    path = tmp_path / "model.tflite"
    fitted.export(path, format="litert")
    with pytest.warns(UserWarning, match="deprecated"):
        interpreter = tf.lite.Interpreter(str(path))
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == ["image", "vector"]
    assert len(signature["outputs"]) == 2
    with pytest.raises(ValueError, match="one input"):
        fitted.export(
            tmp_path / "int8.tflite",
            format="litert",
            quantize="int8",
            representative_data=IMAGES,
        )


def test_datasets_batched_or_not_are_predicted_and_evaluated(fitted):
    dataset = tf.data.Dataset.from_tensor_slices(NAMED)
    expected = outputs_of(fitted, ORDERED[0])
    for given in (
        dataset,
        dataset.batch(10),
        dataset.map(lambda x, y: x),
        tf.data.Dataset.from_tensor_slices(ORDERED),
    ):
        found = outputs_of(fitted, given)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(
        fitted.evaluate(dataset), fitted.evaluate(*ORDERED), atol=1e-5
    )


def test_datasets_are_trained_on():
    dataset = tf.data.Dataset.from_tensor_slices(NAMED).batch(16)
    model = run(keras.Model(*in_order()), dataset, **QUICK, epochs=6)
    losses = model.history.history["loss"]
    assert losses[-1] < losses[0]


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
        epochs=12,
        strategy=DSNAS(),
        hyperparameters={"learning_rate": 0.1},
    )
    assert model.result.genotype["branch"]["choice"] == "sees"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": DSNAS()},
        {"strategy": GDAS()},
        {"strategy": DARTS()},
        {"strategy": DARTS(order=2)},
        {"strategy": ISTA()},
        {"strategy": Reinforce()},
        {
            "method": "autohas",
            "hyperparameters": {"learning_rate": Range(1e-3, 0.05)},
        },
        {"strategy": None, "horizon": "one_step"},
        {"strategy": None, "horizon": "forward"},
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
    for name, cost in model.result.cost.get("target", {}).items():
        assert 0 < cost["reached"] <= cost["limit"], name
    if "params" in arguments.get("target", {}):
        assert model.export_model().count_params() <= 160


def test_a_learned_dropout_rate_stays_in_the_exported_model(fitted):
    plain = fitted.export_model()
    (found,) = [x for x in plain.layers if isinstance(x, layers.Dropout)]
    assert found.rate == pytest.approx(0.2)


def test_replicas_share_batches_of_several_parts():
    devices = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with devices.scope():
        model = AutoModel(
            keras.Model(*by_name()),
            augmentation=None,
            hyperparameters=RATES,
            seed=1,
        )
    model.fit(*ORDERED, batch_size=16, epochs=2, verbose=0)
    losses = model.history.history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_only_the_image_is_augmented():
    layer = DifferentiableAugmentation(
        ["Invert"], levels=1, flip=None, shift=None
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


def test_several_images_are_not_augmented_by_themselves():
    def space(shape, num_classes):
        images = [keras.Input(each) for each in shape]
        x = layers.Concatenate()([layers.Flatten()(x) for x in images])
        return keras.Model(images, layers.Dense(num_classes)(x))

    x = (IMAGES, IMAGES)
    model = run(space, x, Y, augmentation="auto", epochs=1, **NO_DROPOUT)
    assert model.joint.policy.augmentation is None
    layer = DifferentiableAugmentation(["Invert"], levels=1)
    with pytest.raises(ValueError, match="one input that is an image"):
        run(space, x, Y, augmentation=layer)


NO_DROPOUT = {"hyperparameters": {"learning_rate": 0.05}}


def test_mixers_leave_no_input_behind():
    layer = DifferentiableAugmentation(["Invert"], levels=1, cutmix=0.5)
    with pytest.raises(ValueError, match="hyperparameter `mixup`"):
        run(keras.Model(*in_order()), *ORDERED, augmentation=layer)


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


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ({"image": IMAGES}, NAMED[1], r"keys \['image', 'vector'\]"),
        ({"image": IMAGES, "words": X}, NAMED[1], r"keys \['image', 'vector'"),
        ((IMAGES, X, X), ORDERED[1], "Received: inputs 3 in order"),
        (IMAGES, NAMED[1], "Received: inputs one without a name"),
        (NAMED[0], Y, "Received: outputs one without a name"),
        (NAMED[0], {"first": Y}, r"keys \['first', 'other'\]"),
        ((IMAGES, X[:50]), ORDERED[1], "as long as there are labels"),
        (NAMED[0], (Y, OTHER[:50]), "same number of examples"),
        ((X, IMAGES), ORDERED[1], "must map examples of shape"),
        (NAMED[0], (OTHER, Y), "must map examples of shape"),
        ({"image": IMAGES, "vector": X * np.nan}, NAMED[1], "NaN"),
        ({"image": IMAGES, "vector": X[:, 0]}, NAMED[1], "axis of their own"),
    ],
)
def test_data_that_do_not_fit_are_refused_at_once(x, y, match):
    network = keras.Model(*in_order())
    before = network.get_weights()
    with pytest.raises(ValueError, match=match):
        run(network, x, y, **QUICK)
    for ours, theirs in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_built_in_spaces_have_one_input():
    with pytest.raises(ValueError, match="one input and one output"):
        run("auto", *ORDERED, **NO_DROPOUT)


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
