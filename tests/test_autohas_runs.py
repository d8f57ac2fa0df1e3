"""AutoHAS in whole runs of `AutoModel`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha import AutoModel
from keras_dha import Range
from keras_dha import compiled
from keras_dha.architecture import strategies
from keras_dha.architecture.choice import Choice
from keras_dha.assembly import assemble
from keras_dha.batches import ArrayBatches
from keras_dha.hyperparameters.autohas import SampledHyperparameters
from keras_dha.hyperparameters.learned import LearnedHyperparameters
from keras_dha.pace import StepPace
from tests.test_pace import Clock
from tests.test_pace import set_clock

CLASSES = 3
_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(120, 6)).astype("float32")
Y = (X @ _RNG.normal(size=(6, CLASSES))).argmax(axis=1)
RATE = Range(1e-3, 0.1, start=0.03)
RANGES = {
    "learning_rate": Range(1e-3, 1.0, start=0.1),
    "weight_decay": Range(1e-5, 1e-2),
}


def space(shape=(6,), num_classes=CLASSES):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape)
    x = layers.Dense(8, activation="relu", name="body")(x)
    branch = Choice(
        [
            layers.Dense(8, "relu", name="dense"),
            layers.Dense(8, "tanh", name="other"),
        ],
        name="branch",
    )(x)
    x = layers.Add()([x, branch])
    x = keras_dha.Dropout(0.2, seed=1)(x)
    return keras.Model(inputs, layers.Dense(num_classes, "softmax")(x))


def made(**arguments):
    arguments = {"method": "autohas", "seed": 1, **arguments}
    return AutoModel(space, **arguments)


def fitted(epochs=4, batch_size=20, **arguments):
    model = made(**arguments)
    model.fit(X, Y, epochs=epochs, batch_size=batch_size, verbose=0)
    return model


@pytest.fixture(scope="module")
def run():
    """Architecture and values, by reward; tests must not train it further."""
    return fitted(
        hyperparameters=RANGES, strategy=strategies.Reinforce(until=0.6)
    )


def test_what_a_run_leaves(run):
    assert type(run.joint.hyperparameters) is SampledHyperparameters
    found = json.loads(run.result.to_json())
    for name, asked in RANGES.items():
        path, entropy = (
            found["history"][key] for key in (name, f"{name}/entropy")
        )
        assert len(set(path)) == 4 and len(path) == 4
        assert all(asked.low < value < asked.high for value in path)
        assert all(0 < value <= 1 for value in entropy)
        kept = found["hyperparameters"][name]
        assert kept["learned"] and kept["value"] == pytest.approx(path[-1])
        assert len(kept["basis"]) == len(kept["probabilities"]) == 5
        expected = np.exp(np.log(kept["basis"]) @ kept["probabilities"])
        assert kept["value"] == pytest.approx(expected, rel=1e-4)
    assert kept["start"] == pytest.approx(1e-5**0.5 * 1e-2**0.5)
    assert set(run.result.genotype) == {"branch"}
    assert keras_dha.SearchResult.from_json(run.result.to_json()) == run.result
    assert "learning_rate" in run.result.summary()


def test_the_found_schedule_replays(run):
    schedule = run.result.learning_rate_schedule()
    assert type(schedule).__module__.startswith("keras.")
    found = run.result.hyperparameters["learning_rate"]
    for step, rate in zip(found["steps"], found["rates"], strict=True):
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


def test_weights_are_trained_by_samples_while_an_architecture_is_searched(
    monkeypatch,
):
    model = made(
        hyperparameters=RANGES,
        strategy=strategies.Reinforce(warmup=0.3, until=0.6, margin=None),
        base_schedule="constant",
    )
    seen = []

    def step_functions(joint, distribution):
        del distribution

        def step(*arguments):
            loss = joint.train_step(*arguments)
            weights = joint.hyperparameters.combination.numpy()
            seen.append(bool(np.all(weights.max(axis=1) == 1.0)))
            return loss

        return step, step

    monkeypatch.setattr(compiled, "step_functions", step_functions)
    model.fit(X, Y, epochs=2, batch_size=20, verbose=0)
    # 10 steps: warm-up, search, and the plain network.
    assert seen == [False] * 3 + [True] * 3 + [False] * 4


@pytest.mark.parametrize(
    "strategy",
    [
        None,
        strategies.DSNAS(until=0.5),
        strategies.ISTA(until=0.5),
    ],
    ids=lambda s: type(s).__name__,
)
def test_values_by_reward_with_any_strategy(strategy):
    model = fitted(
        method="dsnas",
        strategy=strategy,
        hyperparameters=keras_dha.AutoHAS(RANGES, basis=3, reward="loss"),
        outer_every=2,
        epochs=2,
    )
    learned = model.joint.hyperparameters
    assert (learned.basis, learned.reward) == (3, "loss")
    assert float(learned.count) == 5  # every other step
    assert float(model.joint.reward.count) == 5
    assert np.all(np.ptp(learned.logits.numpy(), axis=1) > 0)


@pytest.mark.parametrize("hyperparameters", [None, RANGES])
def test_an_architecture_by_reward_with_any_values(hyperparameters):
    model = fitted(
        method="dsnas",
        strategy=strategies.Reinforce(until=0.6, margin=None),
        hyperparameters=hyperparameters,
        outer_every=2,
    )
    assert type(model.joint.hyperparameters) is LearnedHyperparameters
    (gene,) = model.result.genotype.values()
    assert abs(np.diff(list(gene["probabilities"].values()))[0]) > 1e-3
    if hyperparameters:
        assert len(set(model.result.history["learning_rate"])) == 4


def test_everything_that_can_have_a_range(tmp_path):
    """Groups and the loss side too; saved and loaded it does the same."""
    values = {
        "learning_rate": {"body": Range(0.01, 1.0), "*": 0.05},
        "momentum": Range(0.5, 0.95, "linear"),
        "label_smoothing": Range(0.0, 0.4, "linear"),
        "mixup": Range(0.05, 2.0),
        "dropout_rate": Range(0.05, 0.6),
    }
    model = fitted(
        hyperparameters=keras_dha.AutoHAS(values),
        strategy=strategies.Reinforce(until=0.6),
        epochs=2,
    )
    for name in ("learning_rate[body]", *list(values)[1:]):
        assert len(set(model.result.history[name])) == 2, name
    drops = [
        x for x in model.export_model().layers if isinstance(x, layers.Dropout)
    ]
    assert drops[0].rate == pytest.approx(
        model.result.history["dropout_rate"][-1]
    )
    path = tmp_path / "run.keras"
    model.save(path)
    loaded = AutoModel.load(path)
    assert type(loaded.joint.hyperparameters) is SampledHyperparameters
    histories = [
        m.fit(X, Y, epochs=2, batch_size=20, verbose=0).history
        for m in (model, loaded)
    ]
    assert histories[0] == histories[1]


def test_a_run_saved_in_its_search_goes_on_to_the_same_steps(tmp_path):
    model = fitted(hyperparameters=RANGES, epochs=2)
    path = tmp_path / "joint.keras"
    joint, _ = assemble(
        *(made(hyperparameters=RANGES).settings, model._spec),
        *(tf.distribute.get_strategy(), StepPace(1, 1)),
        ArrayBatches(X, Y, 20, seed=0),
    )
    joint.architecture.start()
    batch, search = (
        (tf.constant(X[k : k + 20]), tf.constant(Y[k : k + 20]))
        for k in (0, 20)
    )
    for _ in range(3):
        joint.train_step(batch, 1.0, search)
    joint.save(path)
    copy = keras.saving.load_model(path)
    for _ in range(3):
        one, two = (j.train_step(batch, 1.0, search) for j in (joint, copy))
        assert float(one) == float(two)
    for ours, theirs in zip(joint.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(theirs, ours, err_msg=ours.path)


def test_without_a_start_the_range_test_finds_one():
    model = fitted(hyperparameters={"learning_rate": Range(1e-5, 10.0)})
    found = model.result.hyperparameters["learning_rate"]
    assert "range test" in model.result.cost["phases"]
    assert 1e-3 < found["start"] < 3.0
    # Its upper bound is that of the basis.
    assert found["basis"][0] == pytest.approx(1e-5, rel=1e-3)
    assert found["basis"][-1] == pytest.approx(32 * found["start"], rel=1e-2)


def test_a_run_that_diverges_ends_well():
    with pytest.warns(UserWarning, match="diverged"):
        model = fitted(
            hyperparameters={"learning_rate": Range(1e-3, 1e6, start=1e5)},
            strategy=None,
            epochs=6,
            batch_size=5,
        )
    assert model.result.cost["undone"] >= 1
    assert model.result.history["loss"][-1] < np.log(CLASSES)
    assert model.result.hyperparameters["learning_rate"]["value"] < 5.0


def test_a_time_limit(monkeypatch):
    # Each look at the clock takes a second.
    set_clock(monkeypatch, Clock(each=1.0))
    model = made(hyperparameters={"learning_rate": RATE})
    model.fit(X, Y, time_limit=100, batch_size=20, verbose=0)
    assert model.result.genotype["branch"]["choice"]
    phases = model.result.cost["phases"]
    assert 100 / 8 < sum(p["steps"] for p in phases.values()) < 100


def test_the_engine_is_the_methods_unless_another_is_given():
    values = {"learning_rate": Range(0.01, 0.5)}
    kept = made(hyperparameters=values).settings.parts.hyperparameters
    assert type(kept) is keras_dha.AutoHAS and kept.values == values
    assert made(hyperparameters=None).settings.parts.hyperparameters is None
    given = keras_dha.AutoHAS(values, basis=9)
    assert made(hyperparameters=given).settings.parts.hyperparameters is given
    with pytest.raises(ValueError, match="has no horizon.*'one_step'"):
        made(horizon="one_step")
    with pytest.raises(ValueError, match="AutoHAS`. Received"):
        made(hyperparameters=3)
