"""Hyperparameters in whole runs of `AutoModel`."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_dha
from keras_dha import AutoModel
from keras_dha import Range
from keras_dha import trust
from keras_dha.hyperparameters.hypergradient import Horizon
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.update_rules import AdamW

CLASSES = 3
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(120, 6)).astype("float32")
Y = (X @ _RNG.normal(size=(6, CLASSES))).argmax(axis=1)
RATE = Range(1e-3, 1.0, start=0.05)


def network(dropout=False, constraint=None):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    x = layers.Dense(
        8, activation="relu", name="body", kernel_constraint=constraint
    )(x)
    if dropout:
        x = keras_dha.Dropout(0.2, seed=1)(x)
    x = layers.Dense(CLASSES, activation="softmax", name="head")(x)
    return keras.Model(inputs, x)


def fitted(space=None, epochs=2, compiled=None, verbose=0, **arguments):
    arguments = {"seed": 1, "outer_every": 2, **arguments}
    model = AutoModel(space or network(), augmentation=None, **arguments)
    if compiled:
        model.compile(**compiled)
    model.fit(X, Y, epochs=epochs, batch_size=20, verbose=verbose)
    return model


def has_learned(model, name):
    """Whether a value was to be learned, and moved from where it began."""
    found = model.result.hyperparameters[name]
    moved = found["value"] != pytest.approx(found["start"], rel=1e-3)
    return found["learned"] and moved


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw"])
def test_defaults_of_each_optimizer_learn(name):
    model = fitted(epochs=4, compiled={"optimizer": name})
    assert has_learned(model, "learning_rate")
    assert has_learned(model, "weight_decay")
    loss = model.result.history["loss"]
    assert loss[-1] < loss[0]


def test_decay_forgets_no_weight_within_a_pass():
    model = AutoModel(
        network(),
        augmentation=None,
        hyperparameters={"weight_decay": Range(5e-3, 0.5)},
        outer_every=2,
        seed=1,
    )
    # A pass has more steps than those after which nothing lasts.
    model.fit(X, Y, epochs=1, batch_size=1, verbose=0)
    steps = len(X) - round(0.05 * len(X))
    found = model.result.hyperparameters
    rate, momentum = (found[k]["value"] for k in ("learning_rate", "momentum"))
    most = (1 - momentum) / (rate * steps)
    # The range's middle draws it up to there.
    assert found["weight_decay"]["value"] == pytest.approx(most, rel=0.02)


def test_horizons_know_where_in_a_run_they_are(monkeypatch):
    seen = []
    expect = LearnedHyperparameters.expect_run

    def expect_run(self, step, steps):
        seen.append((step, steps))
        expect(self, step, steps)

    monkeypatch.setattr(LearnedHyperparameters, "expect_run", expect_run)
    model = fitted(epochs=3, horizon=Horizon(averaging=0.0, window=0.5))
    # Three passes of five steps; what is not learned in the last three tenths
    # is learned at every second one.
    assert seen == [(step, 15) for step in (0, 2, 4, 6, 8, 10)]
    assert has_learned(model, "learning_rate")


def keras_run(optimizer, steps, constraint=None):
    """What Keras' own optimizer makes of the batches of a run."""
    model = network(constraint=constraint)
    model.compile(
        optimizer, "sparse_categorical_crossentropy", jit_compile=False
    )
    for x, y in steps:
        model.train_on_batch(x, y)
    return model.get_weights()


@pytest.mark.parametrize("constraint", [None, keras.constraints.MaxNorm(0.3)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(
            0.05, momentum=0.8, nesterov=True, weight_decay=0.02
        ),
        lambda: keras.optimizers.AdamW(
            0.01, weight_decay=0.1, beta_1=0.8, global_clipnorm=0.3
        ),
    ],
    ids=["sgd", "adamw"],
)
def test_an_optimizer_object_trains_as_in_keras(make, constraint, monkeypatch):
    seen = []
    model = AutoModel(
        network(constraint=constraint),
        augmentation=None,
        seed=1,
        base_schedule="constant",
    )
    model.compile(optimizer=make())
    original = keras_dha.joint_model.JointModel.train_step

    def step(self, batch, *args):
        if not hasattr(batch[0], "numpy"):  # while it is compiled
            return original(self, batch, *args)
        seen.append([x.numpy() for x in batch])
        return original(self, batch, *args)

    monkeypatch.setattr(keras_dha.joint_model.JointModel, "train_step", step)
    from keras_dha import compiled

    monkeypatch.setattr(
        compiled,
        "step_functions",
        lambda joint, distribution: (joint.train_step,) * 2,
    )
    model.fit(X, Y, epochs=1, batch_size=20, verbose=0)
    assert len(seen) == 6
    expected = keras_run(make(), seen, constraint)
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    if constraint:
        norms = np.linalg.norm(model.get_weights()[0], axis=0)
        assert norms.max() == pytest.approx(0.3, rel=1e-5)


def test_an_objects_schedule_is_the_base_schedule(tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.2, 6, 0.5)
    model = fitted(compiled={"optimizer": keras.optimizers.SGD(schedule)})
    rates = model.result.hyperparameters["learning_rate"]["rates"]
    np.testing.assert_allclose(
        rates, [float(schedule(k)) for k in range(12)], rtol=1e-6
    )
    assert model.result.hyperparameters["learning_rate"]["value"] == 1.0
    model.save(tmp_path / "run.keras")
    loaded = AutoModel.load(tmp_path / "run.keras")
    assert loaded.settings.base_schedule.get_config() == schedule.get_config()
    loaded.fit(X, Y, epochs=1, batch_size=20, verbose=0)
    np.testing.assert_allclose(
        loaded.result.hyperparameters["learning_rate"]["rates"],
        [float(schedule(k)) for k in range(6)],
        rtol=1e-6,
    )


@pytest.mark.parametrize("named", ["constant", "cosine"])
def test_base_schedules(named):
    model = fitted(base_schedule=named, hyperparameters={"learning_rate": 0.1})
    rates = model.result.hyperparameters["learning_rate"]["rates"]
    expected = np.full(12, 0.1)
    if named == "cosine":
        expected *= 0.5 + 0.5 * np.cos(np.pi * np.arange(12) / 12)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_the_found_schedule_is_a_stock_one():
    model = fitted(hyperparameters={"learning_rate": RATE}, epochs=3)
    found = model.result.hyperparameters["learning_rate"]
    schedule = model.result.learning_rate_schedule()
    assert type(schedule).__module__.startswith("keras.")
    for step, rate in zip(found["steps"], found["rates"], strict=True):
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)
    copy = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(schedule)
    )
    assert float(copy(4)) == pytest.approx(float(schedule(4)))
    read = keras_dha.SearchResult.from_json(model.result.to_json())
    assert float(read.learning_rate_schedule()(4)) == pytest.approx(
        float(schedule(4))
    )
    with pytest.raises(ValueError, match="one of .'learning_rate'."):
        model.result.learning_rate_schedule("momentum")


def test_groups_in_a_run():
    model = fitted(
        hyperparameters={
            "learning_rate": {"head": RATE, "*": 0.0001},
            "weight_decay": 0.0,
        },
        epochs=3,
    )
    result = model.result
    assert "learning_rate[head]" in result.history
    assert result.hyperparameters["learning_rate[*]"]["value"] == (
        pytest.approx(1e-4)
    )
    start = network().get_weights()
    moved = [
        np.abs(a - b).mean()
        for a, b in zip(model.get_weights(), start, strict=True)
    ]
    assert moved[2] > 20 * moved[0]
    result.learning_rate_schedule("learning_rate[head]")
    with pytest.raises(ValueError, match="must fit a layer"):
        fitted(hyperparameters={"learning_rate": {"tail": 0.1, "*": 0.1}})


def test_groups_are_the_same_in_a_run_that_was_loaded(tmp_path):
    """A candidate's path names its choice only where that has built it."""
    saved = []

    class Saving(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            joint = self.model.joint
            path = tmp_path / f"{epoch}.keras"
            self.model.save(path)
            saved.append((path, joint.architecture.is_searched, joint.paths))

    x = inputs = keras.Input((6,))
    candidates = [layers.Dense(8, name="one"), layers.Dense(8, name="other")]
    x = keras_dha.Choice(candidates, name="body")(x)
    x = layers.Dense(CLASSES, activation="softmax", name="head")(x)
    model = AutoModel(
        keras.Model(inputs, x),
        strategy=keras_dha.strategies.DSNAS(until=0.5),
        augmentation=None,
        hyperparameters={"learning_rate": {"body": RATE, "head": RATE}},
        outer_every=2,
        seed=1,
    )
    model.fit(X, Y, epochs=4, batch_size=20, verbose=0, callbacks=[Saving()])
    assert [searched for _, searched, _ in saved][0]
    for path, is_searched, paths in saved:
        loaded = AutoModel.load(path)
        assert loaded.joint.paths == paths
        if is_searched:
            loaded.fit(X, Y, epochs=2, batch_size=20, verbose=0)
            left = [p.split("/")[0] for p in loaded.joint.paths]
            assert left == ["body", "body", "head", "head"]
            assert set(loaded.joint.hyperparameters.learned) == {
                "learning_rate[body]",
                "learning_rate[head]",
            }


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rates_of_a_keras_schedule_are_taken_as_they_are(optimizer):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.02, 10, 0.5)

    def weights(**rate):
        model = fitted(
            base_schedule=schedule,
            hyperparameters={"weight_decay": 0.0, **rate},
            compiled={"optimizer": optimizer},
        )
        return model.get_weights()

    for ours, theirs in zip(weights(), weights(learning_rate=1.0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_decay_is_learned_alike_at_rates_of_a_keras_schedule():
    """Its bounds are of the rates, whatever they are a factor of."""

    def decays(rate, schedule):
        model = fitted(
            base_schedule=schedule,
            epochs=10,
            hyperparameters={
                "learning_rate": rate,
                "weight_decay": Range(1e-8, 0.02, start=0.01),
            },
        )
        return model.result.history["weight_decay"]

    flat = keras.optimizers.schedules.ExponentialDecay(0.1, 6, 1.0)
    ours = decays(0.1, "constant")
    np.testing.assert_allclose(decays(1.0, flat), ours, rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("asked", ["auto", {"learning_rate": Range(0.1, 20)}])
def test_what_is_learned_is_a_factor_of_a_keras_schedule(optimizer, asked):
    model = fitted(
        base_schedule=keras.optimizers.schedules.CosineDecay(0.02, 12),
        hyperparameters=asked,
        compiled={"optimizer": optimizer},
    )
    learned = model.joint.hyperparameters
    assert learned.quantities["learning_rate"].value.start == 1.0
    assert has_learned(model, "learning_rate")


@pytest.mark.parametrize("horizon", ["one_step", "forward", "implicit"])
def test_horizons_in_a_run(horizon):
    values = {"weight_decay": Range(1e-5, 0.1, start=1e-3)}
    if horizon != "implicit":
        values["learning_rate"] = RATE
    model = fitted(horizon=horizon, hyperparameters=values)
    for name, scale in values.items():
        found = model.result.history[name]
        # As NaN is not.
        low, high = 0.999 * scale.low, 1.001 * scale.high
        assert all(low <= value <= high for value in found), name
        assert found[-1] != pytest.approx(scale.start), name
    assert np.all(np.isfinite(model.result.history["loss"]))
    with pytest.raises(ValueError, match="`horizon` must be 'auto' or one"):
        AutoModel(horizon="far")


def test_everything_through_the_loss_saved_and_gone_on_with(tmp_path):
    values = {
        "learning_rate": RATE,
        "label_smoothing": Range(0.0, 0.4, "linear", start=0.1),
        "mixup": Range(0.05, 2.0, start=0.3),
        "dropout_rate": Range(0.05, 0.6, start=0.2),
    }

    def start():
        return fitted(
            network(dropout=True),
            hyperparameters=values,
            compiled={"optimizer": "adamw"},
            base_schedule="cosine",
        )

    model = start()
    for name in values:
        assert len(set(model.result.history[name])) == 2, name
    exported = model.export_model()
    origins = {type(x).__module__.split(".")[0] for x in exported.layers}
    assert origins == {"keras"}
    drops = [x for x in exported.layers if isinstance(x, layers.Dropout)]
    assert [type(x) for x in drops] == [layers.Dropout]
    assert drops[0].rate == pytest.approx(
        model.result.history["dropout_rate"][-1]
    )
    path = tmp_path / "run.keras"
    model.save(path)
    loaded = AutoModel.load(path)
    histories = [
        m.fit(X, Y, epochs=1, batch_size=20, verbose=0).history
        for m in (model, loaded)
    ]
    assert histories[0] == histories[1]


def test_a_name_that_nothing_reads():
    with pytest.raises(ValueError, match="must be read by a loss or a layer"):
        fitted(hyperparameters={"my_weight": Range(0.1, 1.0)})


class ByRate(keras.losses.Loss):
    """Code of the user's own may read the name as well."""

    def call(self, y_true, y_pred):
        loss = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        return loss * keras_dha.hyperparameter("dropout_rate", default=1.0)


@pytest.mark.parametrize("rate", [0.2, Range(0.1, 0.5)])
def test_a_rate_of_dropout_without_dropout_is_refused_before_a_step(
    rate, monkeypatch
):
    monkeypatch.setattr("keras_dha.auto_model.Run", None)
    with pytest.raises(ValueError, match="put one into the network.*without"):
        fitted(hyperparameters={"dropout_rate": rate})


def test_a_rate_of_dropout_may_be_read_by_a_loss():
    fitted(
        epochs=1,
        compiled={"loss": ByRate()},
        hyperparameters={"dropout_rate": 0.2},
    )


def test_a_run_that_diverges_ends_well():
    with pytest.warns(UserWarning, match="diverged"):
        model = fitted(
            hyperparameters={"learning_rate": Range(1e-3, 1e6, start=1e5)},
            epochs=6,
        )
    assert model.result.cost["undone"] >= 1
    assert model.result.history["loss"][-1] < np.log(CLASSES)
    assert model.result.hyperparameters["learning_rate"]["value"] < 5.0


@pytest.mark.parametrize("start, again", [(None, False), (0.1, True)])
def test_a_range_test_that_was_made_is_not_made_again(
    monkeypatch, start, again
):
    given = []

    class Guard(trust.Guard):
        def __init__(self, joint, test=None, **arguments):
            given.append(test)
            super().__init__(joint, test=test, **arguments)

    monkeypatch.setattr(trust, "Guard", Guard)
    rate = Range(1e-3, 1.0, start=start)
    fitted(epochs=1, hyperparameters={"learning_rate": rate})
    assert [callable(test) for test in given] == [again]


def test_a_network_without_normalisation_is_trained_by_adamw(capsys):
    model = fitted(epochs=4, verbose=2)
    assert "AdamW trains it" in capsys.readouterr().out
    assert type(model.joint.rule) is AdamW
    assert has_learned(model, "learning_rate")
    assert model.result.hyperparameters["learning_rate"]["value"] < 0.1
    loss = model.result.history["loss"]
    assert loss[-1] < loss[0]


def test_the_rate_that_is_said_to_be_fixed_is_that_of_the_network(capsys):
    model = fitted(
        epochs=1, hyperparameters={"label_smoothing": 0.1}, verbose=2
    )
    said = capsys.readouterr().out
    assert "AdamW trains it" in said
    assert "learning rate is fixed at 0.001" in said
    found = model.result.hyperparameters["learning_rate"]
    assert (found["value"], found["learned"]) == (pytest.approx(1e-3), False)
