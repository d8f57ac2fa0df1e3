"""Two replicas against one device with the same global batch.

The network has no batch normalisation, whose statistics are each replica's
own, and its activations are smooth, so that rounding stays rounding.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha import compiled
from keras_dha.architecture import strategies
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.strategies import DSNAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.ranges import Range
from keras_dha.joint_model import JointModel

CLASSES, COUNT, BATCH = 3, 160, 32
_RNG = np.random.default_rng(0)
X = _RNG.random((COUNT, 8, 8, 1)).astype("float32")
Y = _RNG.integers(0, CLASSES, COUNT)


one_device = tf.distribute.get_strategy


def two_replicas():
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def space(shape, num_classes):
    inputs = x = keras.Input(shape)
    for k in range(2):
        # A penalty is of the whole batch: each replica has a part of it.
        x = layers.Conv2D(
            4,
            3,
            padding="same",
            activation="tanh",
            kernel_regularizer=None if k else "l2",
        )(x)
        branch = Choice(
            [
                layers.Conv2D(
                    4,
                    size,
                    padding="same",
                    activation="tanh",
                    name=f"c{size}{k}",
                )
                for size in (1, 3)
            ],
            name=f"choice{k}",
        )(x)
        x = layers.Add()([x, branch])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(
        inputs, layers.Dense(num_classes, activation="softmax")(x)
    )


def test_two_replicas_get_the_reward_of_one_device():
    """Same samples, same reward, and so the same logits on every replica."""

    def trained(distribution):
        with distribution.scope():
            model = AutoModel(
                space,
                seed=3,
                method="autohas",
                strategy=strategies.Reinforce(until=0.7),
                hyperparameters=AutoHAS(
                    {
                        "learning_rate": Range(0.01, 1.0, start=0.2),
                        "label_smoothing": Range(0.01, 0.4),
                    }
                ),
            )
        model.fit(X, Y, epochs=2, batch_size=BATCH, verbose=0)
        return model

    one, two = trained(one_device()), trained(two_replicas())
    for name, values in one.result.history.items():
        if not isinstance(values[0], float):
            continue  # Phases and probabilities by name.
        np.testing.assert_allclose(
            two.result.history[name], values, rtol=1e-3, err_msg=name
        )
    for name in ("learning_rate", "label_smoothing"):
        ours, theirs = (
            m.result.hyperparameters[name]["probabilities"] for m in (one, two)
        )
        np.testing.assert_allclose(theirs, ours, rtol=1e-3)
        assert np.ptp(np.diff(np.log(ours))) > 1e-2  # it went somewhere
    for variable in two.joint.variables:
        np.testing.assert_array_equal(
            *variable.value.values, err_msg=variable.path
        )


@functools.cache
def run(replicas, augmentation):
    """The model and its history; tests must not train it further."""
    distribution = two_replicas() if replicas == 2 else one_device()
    assert distribution.num_replicas_in_sync == replicas
    with distribution.scope():
        if augmentation:
            augmentation = DifferentiableAugmentation(
                ["Identity", "Rotate", "Invert"],
                levels=2,
                value_range=(0, 1),
                trainable=False,
            )
        model = AutoModel(
            space,
            seed=3,
            strategy=DSNAS(warmup=0.1, until=0.7),
            augmentation=augmentation,
            hyperparameters={
                "learning_rate": Range(1e-3, 1.0, start=0.05),
                "weight_decay": Range(1e-5, 1e-2),
            },
            outer_every=2,
        )
    history = model.fit(
        X,
        Y,
        epochs=3,
        batch_size=BATCH,
        verbose=0,
        validation_data=(X[:50], Y[:50]),
    )
    return model, history.history


@pytest.mark.slow
@pytest.mark.parametrize(
    "augmentation", [None, True], ids=["plain", "augmented"]
)
def test_two_replicas_equal_one_device(augmentation):
    one, losses = run(1, augmentation)
    two, their_losses = run(2, augmentation)

    for name in ("loss", "val_loss", "decision_margin"):
        np.testing.assert_allclose(
            their_losses[name], losses[name], rtol=1e-5, err_msg=name
        )
    np.testing.assert_allclose(
        their_losses["accuracy"], losses["accuracy"], rtol=1e-6
    )
    for name, found in one.result.hyperparameters.items():
        theirs = two.result.hyperparameters[name]["value"]
        assert theirs == pytest.approx(found["value"], rel=1e-3)
    for name, gene in one.result.genotype.items():
        theirs = two.result.genotype[name]
        assert theirs["choice"] == gene["choice"]
    for ours, theirs in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
    np.testing.assert_allclose(two.predict(X), one.predict(X), atol=1e-5)

    # The comparison has something to say: the run went somewhere.
    assert np.ptp(losses["loss"]) > 1e-4
    value = one.result.hyperparameters["learning_rate"]["value"]
    assert abs(value / 0.05 - 1) > 1e-2


def test_every_replica_holds_the_same_weights_and_decisions():
    model, _ = run(2, None)
    for variable in model.joint.variables:
        copies = getattr(variable.value, "values", None)
        assert copies is not None and len(copies) == 2, variable.path
        np.testing.assert_array_equal(*copies, err_msg=variable.path)


def test_a_target_pulls_two_replicas_as_one_device():
    """Its penalty is no sum over replicas: each adds the same."""
    trained = []
    for distribution in (one_device(), two_replicas()):
        with distribution.scope():
            model = AutoModel(
                space,
                seed=3,
                strategy=DSNAS(warmup=0.1, until=0.7),
                augmentation=None,
                hyperparameters=None,
                target={"params": 371},
            )
        model.fit(X, Y, epochs=2, batch_size=BATCH, verbose=0)
        trained.append(model)
    one, two = (model.result for model in trained)
    assert two.cost["target"] == one.cost["target"]
    assert one.cost["target"]["params"]["reached"] <= 371
    for name, gene in one.genotype.items():
        for candidate, probability in gene["probabilities"].items():
            theirs = two.genotype[name]["probabilities"][candidate]
            assert theirs == pytest.approx(probability, abs=1e-4)
    for ours, theirs in zip(
        trained[0].get_weights(), trained[1].get_weights(), strict=True
    ):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_a_batch_must_be_shared_out_evenly():
    with two_replicas().scope():
        model = AutoModel(space, augmentation=None, seed=0)
    with pytest.raises(ValueError, match="multiple of the number of replicas"):
        model.fit(X, Y, epochs=1, batch_size=31, verbose=0)


def test_candidates_that_run_alone_exchange_nothing():
    def synchronised(shape, num_classes):
        x = inputs = keras.Input(shape)
        norm = layers.BatchNormalization(synchronized=True, name="norm")
        x = Choice([norm, layers.Identity()], name="choice")(x)
        x = layers.Dense(num_classes)(layers.Flatten()(x))
        return keras.Model(inputs, x)

    with two_replicas().scope():
        model = AutoModel(synchronised, augmentation=None, seed=0)
    with pytest.raises(ValueError, match=r"synchronized=False.*\['norm'\]"):
        model.fit(X, Y, epochs=1, batch_size=BATCH, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [strategies.DARTS(order=2), strategies.GDAS(), strategies.ISTA()],
    ids=lambda strategy: type(strategy).__name__,
)
def test_every_strategy_takes_the_same_steps_on_two_replicas(strategy):
    found = []
    for distribution in (one_device(), two_replicas()):
        keras.utils.set_random_seed(0)
        with distribution.scope():
            joint = JointModel(
                space((8, 8, 1), CLASSES),
                keras.losses.SparseCategoricalCrossentropy(),
                strategy=strategy,
                seed=5,
            )
        joint.architecture.start()
        joint.architecture.advance_to(0.5)
        batch = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
        stream = iter(distribution.experimental_distribute_dataset(batch))
        _, step = compiled.step_functions(joint, distribution)
        losses = [
            float(step(next(stream), tf.constant(1.0), next(stream)))
            for _ in range(2)
        ]
        parameters = [d.parameter.numpy() for d in joint.architecture.decisions]
        found.append((losses, parameters, joint.network.get_weights()))
    one, two = found
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
    # Adam makes a step of full size of any gradient, however small.
    for ours, theirs in zip(one[1], two[1], strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-3)
        assert np.any(ours != 0)
    for ours, theirs in zip(one[2], two[2], strict=True):
        np.testing.assert_allclose(theirs, ours, atol=2e-3)


def test_what_acts_through_the_loss_on_two_replicas():
    """Smoothing, mixup and Nesterov with clipping, as on one device."""

    def trained(distribution):
        with distribution.scope():
            model = AutoModel(
                space,
                seed=3,
                strategy=None,
                augmentation=None,
                hyperparameters={
                    "learning_rate": 0.05,
                    "label_smoothing": Range(0.01, 0.4, start=0.1),
                    "mixup": Range(0.05, 2.0, start=0.4),
                    "weight_decay": {
                        "conv2d*": Range(1e-4, 0.1, start=1e-3),
                        "*": 0.0,
                    },
                },
                outer_every=2,
            )
        with distribution.scope():
            model.compile(
                optimizer=keras.optimizers.SGD(
                    0.05, momentum=0.9, nesterov=True, global_clipnorm=0.5
                )
            )
        return model, model.fit(X, Y, epochs=2, batch_size=BATCH, verbose=0)

    one, history = trained(one_device())
    two, theirs = trained(two_replicas())
    for name, values in history.history.items():
        np.testing.assert_allclose(
            theirs.history[name], values, rtol=1e-3, err_msg=name
        )
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)
    for name, start in (("mixup", 0.4), ("label_smoothing", 0.1)):
        assert abs(history.history[name][-1] / start - 1) > 1e-2


def test_images_are_mixed_in_pairs_on_each_device():
    with two_replicas().scope():
        model = AutoModel(
            space,
            strategy=None,
            augmentation=None,
            hyperparameters={"mixup": 0.3},
        )
    with pytest.raises(ValueError, match="multiple of twice.*batch_size=6"):
        model.fit(X, Y, epochs=1, batch_size=6, verbose=0)


@pytest.mark.parametrize("rate", [None, Range(0.05, 0.8, start=0.4)])
def test_two_replicas_drop_what_one_device_does(rate):
    """By a rate that is fixed, and by a mask that has a derivative."""

    def dropping(shape, num_classes):
        inputs = keras.Input(shape)
        x = layers.Dense(8, activation="tanh")(layers.Flatten()(inputs))
        x = keras_dha.Dropout(0.4, seed=2)(x)
        return keras.Model(inputs, layers.Dense(num_classes, "softmax")(x))

    def trained(distribution):
        learned = {"dropout_rate": rate} if rate else {}
        with distribution.scope():
            model = AutoModel(
                dropping,
                seed=3,
                strategy=None,
                augmentation=None,
                hyperparameters={"learning_rate": 0.05, **learned},
                outer_every=2,
            )
        model.fit(X, Y, epochs=2, batch_size=BATCH, verbose=0)
        return model

    one, two = trained(one_device()), trained(two_replicas())
    for name in ("loss", *(["dropout_rate"] if rate else [])):
        np.testing.assert_allclose(
            two.result.history[name], one.result.history[name], rtol=1e-4
        )
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)


def test_a_network_of_outside_the_scope_is_refused():
    """Each device would move its logits and statistics by itself."""
    network = space((8, 8, 1), CLASSES)
    with two_replicas().scope():
        model = AutoModel(network, augmentation=None)
    with pytest.raises(ValueError, match="made in the scope.*conv2d"):
        model.fit(X, Y, epochs=1, batch_size=BATCH, verbose=0)


def test_a_policy_of_outside_the_scope_is_refused():
    """Each device would move its logits by itself."""
    layer = DifferentiableAugmentation(
        ["Identity", "Invert"], value_range=(0, 1)
    )
    layer(X[:4])
    with two_replicas().scope():
        model = AutoModel(space, augmentation=layer)
    with pytest.raises(ValueError, match="an augmentation must be made.*logi"):
        model.fit(X, Y, epochs=1, batch_size=BATCH, verbose=0)
