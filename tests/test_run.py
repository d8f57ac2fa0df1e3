"""What a run does at its end, apart from what `AutoModel` shows."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import calibration
from keras_dha import outer_steps
from keras_dha import pace
from keras_dha import scale
from keras_dha import stepping
from keras_dha import trust
from keras_dha.architecture.strategies import DARTS
from keras_dha.architecture.strategies import DSNAS
from keras_dha.architecture.strategies import GDAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.hyperparameters.ranges import Range
from keras_dha.nested_layers import find_layers
from tests.auto_model.small_runs import RATES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.auto_model.small_runs import space
from tests.test_pace import Clock
from tests.test_pace import set_clock


def final_statistics():
    model = joint_auto_model(strategy=None)
    fit(model, epochs=1)
    network = model.export_model()
    return [
        v.numpy()
        for layer in find_layers(network, keras.layers.BatchNormalization)
        for v in layer.non_trainable_variables
    ]


@pytest.mark.parametrize("clean_is_better", [True, False])
def test_the_search_split_chooses_the_statistics(monkeypatch, clean_is_better):
    losses = iter([1.0, 0.5] if clean_is_better else [0.5, 1.0])
    with monkeypatch.context() as patched:
        patched.setattr(calibration, "search_loss", lambda *_: next(losses))
        chosen = final_statistics()
    # Without the choice, the statistics are those of augmented images.
    monkeypatch.setattr(calibration, "choose_statistics", lambda *_: None)
    augmented = final_statistics()
    same = [
        np.allclose(a, b, rtol=1e-3)
        for a, b in zip(chosen, augmented, strict=True)
    ]
    assert all(same) != clean_is_better


class Clean(keras.callbacks.Callback):
    """Notes after each step what share of the images nothing is done to.

    And how many outer steps there have been.
    """

    def __init__(self):
        super().__init__()
        self.shares, self.outer_steps = [], []

    def on_train_batch_end(self, batch, logs=None):
        policy = self.model.joint.policy
        self.shares.append(float(policy.clean.numpy()))
        self.outer_steps.append(int(policy.count.numpy()))


def test_augmentation_fades_out_at_the_end_of_a_run(tmp_path):
    model = AutoModel(space, strategy=None, seed=1)
    for passes in (4, 8):
        # So does the second run, from a file as well; by then there are more.
        noted = Clean()
        fit(model, epochs=4, callbacks=[noted])
        shares = np.array(noted.shares)
        # Of 20 steps the last six, in each as much less as in the last one.
        clean = 1 - passes / 20
        np.testing.assert_allclose(shares[:15], clean, atol=1e-6)
        np.testing.assert_allclose(
            np.diff(shares[14:]), (1 - clean) / 6, atol=0.01
        )
        model.save(tmp_path / "run.keras", overwrite=True)
        model = AutoModel.load(tmp_path / "run.keras")


def test_what_faded_out_leaves_statistics_of_clean_images(monkeypatch):
    seen = []
    monkeypatch.setattr(
        calibration,
        "recalibrate",
        lambda _, images, count: seen.append((next(images), count)),
    )
    fit(AutoModel(space, strategy=None, seed=1), epochs=2)
    # Once: there are none of augmented images to compare them with.
    ((images, count),) = seen
    assert count == calibration.BATCHES
    assert {image.numpy().tobytes() for image in images} <= {
        image.tobytes() for image in X
    }


def test_while_augmentation_fades_out_nothing_is_learned_but_weights():
    model = AutoModel(space, strategy=None, outer_every=1, seed=1)
    noted = Clean()
    logs = fit(model, epochs=4, callbacks=[noted]).history
    assert noted.outer_steps == [*range(1, 15)] + [14] * 6
    # Of the last five steps none is an outer one, of the five before four are.
    assert logs["weight_decay"][-1] == logs["weight_decay"][-2]
    assert logs["weight_decay"][-2] != logs["weight_decay"][-3]


def test_outer_steps_are_spread_over_what_comes_before(monkeypatch):
    monkeypatch.setattr(outer_steps, "ENOUGH", 7)
    monkeypatch.setattr(outer_steps, "CLOSEST", 1)
    model = AutoModel(space, strategy=None, seed=1)
    noted = Clean()
    fit(model, epochs=4, callbacks=[noted])
    # Of 20 steps every second one of the first 14.
    assert np.flatnonzero(np.diff([0, *noted.outer_steps])).tolist() == [
        *range(0, 14, 2)
    ]


def test_a_layer_of_the_user_is_carried_out_to_the_end():
    model = joint_auto_model(strategy=None, outer_every=1)
    noted = Clean()
    fit(model, epochs=2, callbacks=[noted])
    assert set(noted.shares) == {0.0}
    assert noted.outer_steps == [*range(1, 11)]


def test_images_to_be_judged_by_may_be_unlike_clean_ones():
    model = AutoModel(space, strategy=None, outer_every=1, seed=1)
    noted = Clean()
    fit(model, epochs=2, callbacks=[noted], search_data=(X_NEW, Y_NEW))
    np.testing.assert_allclose(noted.shares, 0.9, atol=1e-6)
    assert noted.outer_steps == [*range(1, 1 + len(noted.shares))]


class Temperatures(keras.callbacks.Callback):
    """Notes the strategy's temperature after each step of the search."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        architecture = self.model.joint.architecture
        if architecture.is_searched:
            self.seen.append(float(architecture.strategy.temperature()))


def test_the_search_gets_on_with_the_steps_of_its_plan():
    noted = Temperatures()
    strategy = GDAS(warmup=0.2, until=0.6, levels=1)
    model = quick_auto_model(strategy=strategy)
    fit(model, X[:80], Y[:80], epochs=2, callbacks=[noted])
    # Of 10 steps two are the warm-up, and the sixth is the last of the search.
    expected = np.interp(range(1, 7), [2, 6], [10.0, 0.1])
    np.testing.assert_allclose(noted.seen, expected, rtol=1e-5)


class Poison(keras.callbacks.Callback):
    """Makes a weight a NaN before one step of the first run."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        if self.left == 0:
            weight = self.model.joint.network.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.nan))
        self.left -= 1


def test_no_state_is_derived_that_nobody_has_looked_at():
    # Of 15 steps the seventh is the last of the search; losses are looked at
    # every ten steps and after an epoch, of five.
    model = joint_auto_model(strategy=DSNAS(warmup=0.1, until=7 / 15))
    with pytest.warns(UserWarning, match="diverged"):
        history = fit(model, callbacks=[Poison(6)]).history
    assert model.result.cost["undone"] == 1
    assert np.all(np.isfinite(history["loss"]))
    assert np.all(np.isfinite(model.predict(X_NEW)))


def test_what_diverges_behind_the_derivation_goes_back_to_it():
    """Not to the start of the supernet, whose weights the network has."""
    # Of 15 steps the seventh is the last of the search. Losses are looked at
    # when it is derived and after an epoch, of five.
    model = quick_auto_model(
        strategy=DSNAS(warmup=0.1, until=7 / 15),
        hyperparameters=RATES,
        outer_every=20,
    )
    seen = []
    noted = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(
            model.joint.weight_vector.read().numpy()
        )
    )
    with pytest.warns(UserWarning, match="diverged"):
        fit(model, callbacks=[noted, Poison(8)])
    assert model.result.cost["undone"] == 1
    derived, moved, undone = seen[7], seen[8], seen[10]
    assert np.all(np.isfinite(moved)) and np.any(moved != derived)
    np.testing.assert_array_equal(undone, derived)


def test_the_cost_is_that_of_all_of_fit():
    def slow(shape, num_classes):
        time.sleep(0.5)
        return space(shape, num_classes)

    def spent(network):
        model = quick_auto_model(network, strategy=None)
        begun = time.monotonic()
        fit(model, epochs=1, validation_data=(X_NEW, Y_NEW))
        return time.monotonic() - begun - model.result.cost["seconds"]

    # All but what is done when the result is there.
    assert spent(slow) < 0.5


def test_time_is_kept_for_the_last_validation(monkeypatch):
    kept = []
    monkeypatch.setattr(
        pace.ClockPace, "reserve", lambda self, *what: kept.append(what)
    )
    set_clock(monkeypatch, Clock(each=1.0))
    fit(
        quick_auto_model(strategy=None),
        epochs=None,
        time_limit=100.0,
        validation_data=(X_NEW, Y_NEW),
    )
    seconds = [s for purpose, s in kept if purpose == "validation"]
    assert seconds and all(0 < s < 10 for s in seconds)


def set_all_clocks(monkeypatch):
    """Lets time go by only where the test says so."""
    clock = set_clock(monkeypatch, Clock())
    for name in ("run", "run_record", "stepping"):
        monkeypatch.setattr(f"keras_dha.{name}.time", pace.time)
    return clock


class Slow(keras.callbacks.Callback):
    """Lets each step take a second."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def on_train_batch_end(self, batch, logs=None):
        self.clock.now += 1.0


def taking(clock, seconds, value=None):
    def function(*args):
        clock.now += seconds
        return value

    return function


@pytest.mark.parametrize("form", ["arrays", "dataset", "batched"])
def test_the_end_is_in_time_where_the_first_epoch_is_not(monkeypatch, form):
    clock = set_all_clocks(monkeypatch)
    model = quick_auto_model(strategy=None)
    # 32 batches of images, and as many images as are in 30.
    calibrated, validated = taking(clock, 30.0), taking(clock, 9.0, {})
    monkeypatch.setattr(calibration, "recalibrate", calibrated)
    monkeypatch.setattr(model, "_validation_logs", validated)
    given = np.repeat(X_NEW, 12, axis=0), np.repeat(Y_NEW, 12)
    if form != "arrays":
        given = as_dataset(*given, 16 if form == "batched" else None)[0]
    told = r"epoch: steps took 1\d\d s. Give.*smaller network.* of 1000 steps"
    with pytest.warns(UserWarning, match=told):
        fit(
            model,
            epochs=None,
            time_limit=200.0,
            steps_per_epoch=1000,
            validation_data=given,
            callbacks=[Slow(clock)],
        )
    assert 190.0 < model.result.cost["seconds"] <= 200.0


def test_a_time_that_was_spent_on_reading_data_is_said(monkeypatch):
    clock = set_all_clocks(monkeypatch)
    batches_from = stepping.Stepper._batches_from

    def slow(self, batches, step):
        for batch in batches_from(self, batches, step):
            clock.now += 2.0
            yield batch

    monkeypatch.setattr(stepping.Stepper, "_batches_from", slow)
    told = r"epoch: reading data took 5\d s, steps took 2\d s. Give.*cache"
    with pytest.warns(UserWarning, match=told):
        fit(
            quick_auto_model(strategy=None),
            epochs=None,
            time_limit=100.0,
            steps_per_epoch=1000,
            callbacks=[Slow(clock)],
        )


def test_a_run_that_a_callback_stops_had_time_enough():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = quick_auto_model(strategy=None)
    # A warning would be an error.
    fit(model, epochs=None, time_limit=1000.0, callbacks=[Stop()])
    assert len(model.result.history["loss"]) == 1


def test_the_range_test_compiles_the_inner_step():
    values = {"learning_rate": Range(1e-3, 0.2)}
    model = quick_auto_model(strategy=None, hyperparameters=values)
    fit(model, epochs=1)
    phases = model.result.cost["phases"]
    assert 10 < phases["range test"]["steps"] <= 60
    # Of the joint step alone.
    assert phases["tracing"]["steps"] == 1


@pytest.mark.parametrize(
    "limit, share",
    [({"epochs": 1}, 0.95), ({"epochs": None, "time_limit": 1000.0}, 0.1)],
)
def test_the_range_test_sees_what_the_first_steps_see(
    limit, share, monkeypatch
):
    """In few passes less is augmented; time may be enough for many."""
    seen, test_range = [], trust.test_range

    def look(joint, *arguments):
        seen.append(float(joint.policy.clean.numpy()))
        return test_range(joint, *arguments)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    monkeypatch.setattr(trust, "test_range", look)
    model = joint_auto_model(
        strategy=None,
        augmentation=DifferentiableAugmentation(["Invert"], clean="auto"),
        hyperparameters={"learning_rate": Range(1e-3, 0.2)},
    )
    noted = Clean()
    fit(model, callbacks=[noted, Stop()], **limit)
    assert seen == noted.shares[:1] == [pytest.approx(share)]


class Optimizes(keras.callbacks.Callback):
    """Notes after each step whether TensorFlow optimizes graphs."""

    def __init__(self, is_interrupted=False):
        super().__init__()
        self.is_interrupted = is_interrupted
        self.noted = []

    def on_train_batch_end(self, batch, logs=None):
        self.noted.append(optimizes())
        if self.is_interrupted:
            raise KeyboardInterrupt


def optimizes():
    options = tf.config.optimizer.get_experimental_options()
    return not options.get("disable_meta_optimizer", False)


@pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="There it is left on."
)
def test_a_run_leaves_tensorflow_to_optimize_graphs_as_before():
    model = quick_auto_model(strategy=DSNAS(until=0.5))
    assert optimizes()
    interrupted = Optimizes(is_interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[interrupted])
    assert interrupted.noted == [False] and optimizes()
    whole = Optimizes()
    fit(model, callbacks=[whole])
    # The supernet's are not, the derived network's are.
    assert not whole.noted[0] and whole.noted[-1] and optimizes()
    model.export_model()
    assert optimizes()


def test_what_is_derived_takes_no_joint_steps_for_nothing():
    model = quick_auto_model(strategy=DARTS(until=0.5), outer_every=1)
    fit(model)
    # The joint step of the supernet, and the derived network's inner one.
    assert model.result.cost["phases"]["tracing"]["steps"] == 2


def test_the_scale_knows_a_pass_from_an_epoch(monkeypatch):
    class Asked(Exception):
        pass

    def found(build, shape, batch_size, steps, *_):
        raise Asked(steps)

    monkeypatch.setattr(scale, "fitting", found)
    with pytest.raises(Asked, match="^5$"):  # 91 images, 16 a batch
        fit(AutoModel(), epochs=None, time_limit=9.0, steps_per_epoch=2)


def test_the_last_compile_counts(monkeypatch):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    model = AutoModel(base_schedule="constant")
    model.compile(optimizer=keras.optimizers.SGD(schedule))
    assert model.settings.base_schedule.decay_steps == 100
    model.compile(optimizer="adamw")
    assert model.settings.base_schedule == "constant"


def test_a_search_that_was_interrupted_warms_up_again():
    class Interrupted(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    class Seen(keras.callbacks.Callback):
        logits = []

        def on_epoch_end(self, epoch, logs=None):
            decisions = model.joint.architecture.decisions
            self.logits.append([d.logits.numpy() for d in decisions])

    strategy = DSNAS(margin=None, warmup=0.5, until=0.95)
    model, seen = quick_auto_model(strategy=strategy), Seen()
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=4, callbacks=[seen, Interrupted()])
    fit(model, epochs=4, callbacks=[seen])
    assert model.result.history["phase"][:2] == ["warm-up"] * 2
    before, *after = seen.logits[2:6]
    assert np.any(before)
    np.testing.assert_array_equal(after[:2], [before, before])
    assert np.any(np.not_equal(after[2], before))


def test_a_network_is_derived_as_soon_as_all_choices_are_made(monkeypatch):
    class OneALook(DSNAS):
        def harden(self, decisions):
            free = [d for d in decisions if not d.is_frozen][:1]
            for decision in free:
                decision.freeze(0)
            return free

    averaged = []
    monkeypatch.setattr(
        calibration,
        "recalibrate",
        lambda network, images, count: averaged.append(count),
    )
    model = quick_auto_model(strategy=OneALook(warmup=0.2, until=0.9))
    fit(model, epochs=2)
    phases = model.result.cost["phases"]
    # Of twelve steps two warm up. The first, and the first of the derived
    # network, compile. One of the two choices is made in each look.
    assert {name: phase["steps"] for name, phase in phases.items()} == {
        "tracing": 2,
        "warm-up": 1,
        "search": 1,
        "settle": 1,
        "train": 7,
    }
    assert averaged == [calibration.BATCHES_BETWEEN, calibration.BATCHES]


def test_choices_are_looked_at_after_a_while_of_moving():
    """A code that took one small step has not come to rest."""
    steps = []

    class Noted(DSNAS):
        def harden(self, decisions):
            steps.append(model.joint.step.numpy())
            return []

    model = quick_auto_model(
        strategy=Noted(warmup=0.1, until=0.5),
        # What does not diverge in so many steps.
        hyperparameters={"learning_rate": 1e-3},
    )
    fit(model, epochs=50)
    # Of 300 steps a hundredth are 3.
    assert steps[:3] == [33, 36, 39]
