"""The benchmarks: too long to run here, but they must fit the library."""

import importlib.util
import json
import pathlib
import pkgutil
import sys
import time
import types

import keras
import numpy as np
import pytest

import benchmarks
import keras_dha
from benchmarks import ablation
from benchmarks import arms
from benchmarks import fine_tuning
from benchmarks import images
from benchmarks import joint_run
from benchmarks import rankings
from benchmarks import tables
from benchmarks.planted import policies
from benchmarks.record import RESULTS
from benchmarks.record import Record
from keras_dha import base_schedule
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.datasets import Dataset
from tests.auto_model import small_runs

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
)


def source(name):
    path = importlib.util.find_spec(name).origin
    return pathlib.Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_imports(name):
    importlib.import_module(name)


@pytest.mark.parametrize(
    "name", [name for name in MODULES if "def main():" in source(name)]
)
def test_scripts_say_how_they_are_run(name, monkeypatch, capsys):
    """`--help` measures nothing; what grows run by run has `--anew`."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(name).main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "usage:" in said
    grows = any(f" = {word}(" in source(name) for word in ("Record", "compare"))
    assert "--anew" in said or not grows


def test_a_record_goes_on_where_it_was(tmp_path):
    path = tmp_path / "record.json"
    record = Record(path, "some", {"epochs": 2})
    record.add("one", 0, {"accuracy": 0.5})
    record.add("other", 10, {"accuracy": 0.3})
    record.add("other", 2, {"accuracy": 0.2})
    again = Record(path, "some", {"epochs": 2})
    assert again.has("one", 0)
    assert not again.has("one", 1)
    assert again.values("other") == [0.2, 0.3]
    assert again.means() == {"one": 0.5, "other": pytest.approx(0.25)}
    again.write(best=0.5)
    assert json.loads(path.read_text())["summary"] == {"best": 0.5}


def test_runs_say_what_they_ran_on(tmp_path, monkeypatch):
    from benchmarks import machine

    path = tmp_path / "record.json"
    monkeypatch.setattr(machine, "describe", lambda: {"cpus": 1})
    Record(path, "some", {}).add("one", 0, {"accuracy": 0.5})
    before = path.read_text()
    monkeypatch.setattr(machine, "describe", lambda: {"cpus": 2})
    again = Record(path, "some", {})
    again.write()
    assert path.read_text() == before
    again.add("one", 1, {"accuracy": 0.5})
    found = json.loads(path.read_text())
    assert found["machine"] == {"cpus": 1}
    assert [r["machine"]["cpus"] for r in found["runs"]["one"].values()] == [
        1,
        2,
    ]


def test_an_arm_is_measured_anew(tmp_path):
    path = tmp_path / "record.json"
    record = Record(path, "some", {})
    record.add("fixed 1", 0, {"accuracy": 0.5})
    record.add("learned", 0, {"accuracy": 0.3})
    again = Record(path, "some", {}, anew=("learned",))
    assert again.has("fixed 1", 0)
    assert not again.has("learned", 0)


def test_runs_of_other_settings_are_not_mixed(tmp_path):
    path = tmp_path / "record.json"
    Record(path, "some", {"epochs": 2}).add("one", 0, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="other settings"):
        Record(path, "some", {"epochs": 3})


def numbered(count, classes=2):
    """Returns a dataset whose images are their numbers."""
    x, y = np.arange(count)[:, None, None, None], np.arange(count) % classes
    rest = count - count // 4
    names = tuple(str(k) for k in range(classes))
    return Dataset("some", x[:rest], y[:rest], x[rest:], y[rest:], names)


def test_each_image_is_a_test_image_once():
    data = numbered(40)
    dealt = [images.dealt(data, 5, k) for k in range(5)]
    tested = np.concatenate([d.x_test for d in dealt]).ravel()
    assert sorted(tested) == list(range(40))
    for each in dealt:
        both = np.concatenate([each.x_train, each.x_test]).ravel()
        assert sorted(both) == list(range(40))
        assert np.bincount(each.y_test).tolist() == [4, 4]
        assert (each.x_train.ravel() % 2 == each.y_train).all()
        assert (each.x_test.ravel() % 2 == each.y_test).all()


def test_few_images_are_a_part_alone():
    data = numbered(40)
    usual, few = images.dealt(data, 5, 3), images.dealt(data, 5, 3, few=True)
    assert few.x_train.tolist() == usual.x_test.tolist()
    assert few.y_test.tolist() == usual.y_train.tolist()


def test_classes_that_come_second_are_learned_from_few_images(monkeypatch):
    monkeypatch.setattr(fine_tuning, "FEW", 8)
    known, new = fine_tuning.halves(numbered(40, classes=5))
    for each, first in ((known, 0), (new, 2)):
        number = len(each.class_names)
        for x, y in (
            (each.x_train, each.y_train),
            (each.x_test, each.y_test),
        ):
            assert (x.ravel() % 5 == y + first).all()
            assert set(y) == set(range(number))
    assert len(known.x_train) + len(known.x_test) == 16
    assert len(new.x_train) == 8


def test_what_was_learned_is_kept_below_a_new_layer():
    network = fine_tuning.new_resnet(numbered(40, classes=5))
    tuned, features = fine_tuning.with_new_layer(
        network, 3, [keras.layers.RandomFlip()]
    )
    x = np.random.default_rng(0).uniform(size=(4, 1, 1, 1))
    last = network.layers[-1]
    np.testing.assert_allclose(
        last(features(x)), network(x), rtol=1e-5, atol=1e-6
    )
    assert tuned(x).shape == (4, 3)
    features.trainable = False
    assert [w.shape for w in tuned.trainable_variables] == [(64, 3), (3,)]


def test_parts_are_dealt_anew_after_the_last():
    data = numbered(40)
    first, sixth = images.dealt(data, 5, 0), images.dealt(data, 5, 5)
    assert sorted(first.x_test.ravel()) != sorted(sixth.x_test.ravel())


def test_a_command_goes_on_with_the_record_of_its_settings():
    peers = importlib.import_module("benchmarks.peers.__main__")
    paths = sorted(RESULTS.glob("peers_*.json"))
    assert len(paths) > 5
    for path in paths:
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        # Of a slower processor beside those of the others.
        assert peers.file_name(settings) == path.name.replace("_avx2", "")


def test_trials_of_so_many_epochs_have_a_cosine_over_their_steps():
    from benchmarks.peers.searches import _CosineOfSteps

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    cosine = _CosineOfSteps(rate=0.5, steps=10, until=float("inf"))
    cosine.set_model(model)
    rates = []
    for step in range(12):
        cosine.on_train_batch_begin(step)
        rates.append(float(model.optimizer.learning_rate))
    expected = [
        0.5 * base_schedule.factor("warmup_cosine", min(step, 9), 10)
        for step in range(12)
    ]
    assert rates == pytest.approx(expected)
    assert max(rates) > 0.4 > 0.1 > rates[-1]


def test_no_trial_waits_for_an_autotuner(monkeypatch):
    from benchmarks.peers import family

    seen = []

    def fit(self, x, validation_data=None, **kwargs):
        seen.extend([x, validation_data])

    monkeypatch.setattr(keras.Model, "fit", fit)
    x, y = np.zeros((8, 4, 4, 1), "float32"), np.arange(8) % 2
    data = family.Data(x, y, (0.0, 1.0))
    family.train(family.BY_HAND, data, 1.0, 0, 4, validation=(x, y))
    assert [s.options().autotune.enabled for s in seen] == [False, False]


def test_random_cells_refuse_what_is_of_searches(capsys):
    from benchmarks import nas_bench_201

    options = nas_bench_201.parsed(["--data", "x", "--outer_every", "4"])
    assert (options.search_split, options.outer_every) == (0.5, 4)
    command = ["--data", "x", "--strategy", "random", "--outer_every", "4"]
    with pytest.raises(SystemExit):
        nas_bench_201.parsed(command)
    assert "--outer_every is of searches" in capsys.readouterr().err


def test_searches_learn_from_most_of_their_trials():
    from benchmarks.peers import searches

    # 60 % of 240 s and of 2,400 s.
    assert searches.num_trials(144) == 10
    assert searches.num_trials(1440) == 24
    assert searches.num_random(144) == 3
    assert searches.num_random(1440) == 8


def test_an_iteration_of_hyperband_fits_into_the_search():
    from benchmarks.peers.searches import hyperband_epochs

    # max_epochs * log3(max_epochs) ** 2: 9 * 4, 27 * 9.
    assert hyperband_epochs(36.0) == 9
    assert hyperband_epochs(35.9) == 8
    assert hyperband_epochs(243.0) == 27
    # Fewer than the factor make no rounds.
    assert hyperband_epochs(1.0) == 3


def test_an_epoch_of_the_hand_made_network_is_timed():
    from benchmarks.peers import family
    from benchmarks.peers import searches

    x = np.zeros((32, 8, 8, 1), "uint8")
    data = family.Data(x, np.arange(32) % 2, (0.0, 255.0))
    seconds = searches.epoch_seconds(data, seed=0, batch_size=8)
    assert 0 < seconds < 600


def test_networks_of_our_space_are_trained_as_the_hand_made_one():
    from benchmarks.peers import contestants
    from benchmarks.peers import family

    layers = keras.layers
    searched = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    generator = np.random.default_rng(0)
    data = family.Data(
        generator.uniform(0, 16, (32, 8, 8, 1)).astype("float32"),
        np.arange(32) % 2,
        (0.0, 16.0),
    )
    trained, history = contestants._plainly(
        searched, data, 2.0, time.monotonic(), seed=0, batch_size=16
    )
    decay = family.BY_HAND["weight_decay"]
    penalties = sum(
        float(np.sum(layer.kernel**2)) * decay / 2
        for layer in trained.layers
        if hasattr(layer, "kernel")
    )
    assert float(sum(trained.losses)) == pytest.approx(penalties, rel=1e-5)
    assert len(trained.losses) == 2
    assert len(history.epoch) >= 1
    # From new weights, and those that are handed over stay as they are.
    assert not np.allclose(
        trained.layers[0].kernel, searched.layers[0].kernel, atol=1e-3
    )


def test_an_outcome_is_plain_data():
    model = small_runs.joint_auto_model(augmentation=None)
    small_runs.fit(model, epochs=4)
    # Labels that are wrong, so that it matters which images are meant.
    tested = small_runs.X_NEW, (small_runs.Y_NEW + 1) % small_runs.CLASSES
    data = Dataset("some", small_runs.X, small_runs.Y, *tested, ("a", "b", "c"))
    found = arms.outcome(model, data)
    assert json.loads(json.dumps(found)) == found
    assert found["accuracy"] == model.evaluate(*tested)[1]
    assert found["epochs"] == 4
    assert found["parameters"] == model.export_model().count_params()
    names = {k: v["choice"] for k, v in model.result.genotype.items()}
    assert found["genotype"] == names
    assert set(names) == {"choice0", "choice1"}


def test_stages_of_a_sequence_have_all_epochs():
    assert ablation.stages(20) == [6, 7, 7]
    assert ablation.stages(30) == [10, 10, 10]


class Untrained:
    """Stands in for an `AutoModel` that learns nothing."""

    def __init__(self, augmentation="auto", **arguments):
        assert isinstance(augmentation, DifferentiableAugmentation)
        self.augmentation = augmentation

    def fit(self, x, y, **arguments):
        self.augmentation.build((None, *x.shape[1:]))

    @property
    def result(self):
        return types.SimpleNamespace(policy=self.augmentation.policy())


@pytest.mark.parametrize("operation", sorted(policies.DESTRUCTIONS))
def test_where_nothing_is_learned_nothing_is_unlearned(operation, monkeypatch):
    """What is destroyed begins where the record says it does."""
    x = np.arange(20 * 64, dtype="float32").reshape(20, 8, 8, 1) % 255
    data = Dataset("some", x, np.arange(20) % 10, x, np.arange(20), ())
    monkeypatch.setattr(keras_dha.datasets, "load", lambda *_, **__: data)
    monkeypatch.setattr(keras_dha, "AutoModel", Untrained, raising=False)
    found = policies.destruction(seeds=1, operation=operation)
    assert found["mean_planted"] == pytest.approx(found["uniform"])


def test_rankings_agree_or_do_not():
    usual = np.array([[0.1, 0.3], [0.5, 0.4], [0.6, 0.8], [0.9, 0.7]])
    found = rankings.agreement(
        {"usual": usual, "same": 2.0 * usual, "turned": 1.0 - usual}
    )
    assert found["same"]["with_usual"] == pytest.approx(1.0)
    assert found["turned"]["with_usual"] == pytest.approx(-1.0)
    assert found["usual"]["lost"] == 0.0
    # The last is the best by the mean of `usual`, 0.8, and the worst turned.
    assert found["turned"]["lost"] == pytest.approx(100 * (0.8 - 0.2))
    # Seeds differ by a swap: 0.8, and for two of them 2 * 0.8 / 1.8.
    assert found["usual"]["with_itself"] == pytest.approx(1.6 / 1.8)


def runs(*accuracies, **further):
    return {
        str(k): {"accuracy": a, **further} for k, a in enumerate(accuracies)
    }


def test_a_table_has_means_spreads_and_numbers_of_seeds(monkeypatch):
    records = {
        "peers_fashion_mnist_10000": {
            "keras_dha": runs(0.4, 0.5, 0.6, plain_step_ms=21.0),
            "optuna_tpe": runs(0.5, 0.52),
        },
        "peers_digits_1438": {"keras_dha": runs(0.75), "optuna_tpe": {}},
    }
    monkeypatch.setattr(tables, "_runs", lambda name: records[name])
    monkeypatch.setattr(
        tables,
        "PEERS",
        {"shoes": "peers_fashion_mnist_10000", "digits": "peers_digits_1438"},
    )
    assert tables.peers() == (
        "| contestant | shoes | digits |\n"
        "|---|---|---|\n"
        "| `AutoModel`, untouched | 50.00 ± 10.00 | **75.0 (1)** † |\n"
        "| Optuna, TPE and pruning | **51.00 ± 1.41 (2)** † | – |\n"
    )


def test_tables_of_equal_means_have_two_winners(monkeypatch):
    records = {"ablation_a": {"none": runs(0.5), "DA": runs(0.4, 0.6)}}
    monkeypatch.setattr(tables, "_runs", lambda name: records[name])
    monkeypatch.setattr(tables, "SETS", {"A": "a"})
    assert tables.ablation(("none", "DA")).splitlines()[-1] == (
        "| A | **50.0** | **50.0** |"
    )


def test_a_document_keeps_what_is_around_its_tables():
    old = "| a | b |\n|---|---|\n| 1 | 2 |\n| 7 | 8 |\n| 9 | 0 |\n"
    text = f"Before:\n\n{old}\nAfter.\n"
    table = "| a | b |\n|---|---|\n| 3 | 4 |\n| 5 | 6 |\n"
    assert tables._filled(text, [table]) == f"Before:\n\n{table}\nAfter.\n"
    for wrong in ("", text + text):
        with pytest.raises(ValueError, match="one table that begins with"):
            tables._filled(wrong, [table])


def test_steps_of_a_joint_run_are_held_against_steps_alone(monkeypatch):
    """Neither side has its tracing, or what a whole fit has around steps."""
    clock = iter((0.0, 5.0, 7.0, 7.02, 9.0, 9.04))
    monkeypatch.setattr(joint_run.time, "monotonic", lambda: next(clock))
    watch = joint_run.StepTimes()
    for batch in range(3):
        watch.on_train_batch_begin(batch)
        watch.on_train_batch_end(batch)
    assert watch.mean_ms == pytest.approx(30.0)
    phases = {
        "tracing": {"seconds": 9.0, "steps": 2},
        "search": {"seconds": 0.3, "steps": 6},
        "settle": {"seconds": 0.3, "steps": 4},
        "train": {"seconds": 0.18, "steps": 10},
    }
    runs = {
        "joint": {"seconds": 12.0, "cost": {"phases": phases}},
        "plain": {"seconds": 8.0, "steps": 20, "step_ms": watch.mean_ms},
    }
    found = joint_run.ratios(runs, ("joint", "plain"))
    assert found == pytest.approx(
        {
            "fit_over_plain": 1.5,
            "search_step_over_plain": 2.0,
            "train_step_over_plain": 0.6,
        }
    )
    assert joint_run.ratios(runs, ("joint",)) == {}
