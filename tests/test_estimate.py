"""What a run is said to take before it is begun."""

import math

import keras
import numpy as np
import pytest

import keras_dha
from keras_dha import estimate
from keras_dha.architecture import spaces
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.spaces.darts import darts
from keras_dha.architecture.strategies import DARTS
from keras_dha.hyperparameters.ranges import Range
from tests.auto_model.small_runs import BATCH
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.auto_model.small_runs import space

# Inner and outer steps of a supernet, of a plain network, and compiling.
SEARCHING = estimate._Times(2.0, 5.0, 100.0)
TRAINING = estimate._Times(1.0, 3.0, 30.0)


def test_architectures_are_counted_as_in_the_papers():
    cells = spaces.nas_bench_201((8, 8, 3), 10, channels=4, cells=1)
    assert estimate.number_of_architectures(cells) == 15_625
    # Two cells of four nodes: two inputs of 2 to 5, seven operations each.
    cell = math.prod(math.comb(n, 2) * 7**2 for n in (2, 3, 4, 5))
    for none in (False, True):  # which takes part, and is never kept
        network = darts((8, 8, 3), 10, channels=4, cells=3, none=none)
        assert estimate.number_of_architectures(network) == cell**2
    blocks = spaces.resnet((8, 8, 1), 10, width=4, blocks=2)
    assert estimate.number_of_architectures(blocks) == 3**3 * 4**3
    first, *_ = find_decisions(blocks)
    first.freeze(0)
    left = 3**3 * 4**3 // first.num_candidates
    assert estimate.number_of_architectures(blocks) == left
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert estimate.number_of_architectures(plain) == 1


def fixed_times(monkeypatch):
    def timed(stepper, joint):
        searched = joint.architecture.is_searched
        return SEARCHING if searched else TRAINING

    monkeypatch.setattr(estimate, "_timed", timed)


def test_seconds_are_those_of_all_steps(monkeypatch):
    fixed_times(monkeypatch)
    model = joint_auto_model()
    found = model.estimate(X, Y, batch_size=BATCH, epochs=4)
    # Five a pass, the first half of search, and every second an outer one.
    assert (found.steps, found.search_steps, found.outer_steps) == (20, 10, 10)
    searching, training = 10 * 2 + 5 * (5 - 2), 10 * 1 + 5 * (3 - 1)
    assert found.compile_seconds == 130
    assert found.seconds == 130 + searching + training
    assert found.search_step == pytest.approx(searching / 10)
    assert found.train_step == pytest.approx(training / 10)
    assert found.architectures == 4
    network = space((8, 8, 1), 3)
    kept = [3 * 3 * 4 * 4 + 4, 4 * 4 + 4]
    # A plain network, and what both choices have of candidates.
    derived = quick_auto_model(strategy=None)
    fit(derived, epochs=1)
    plain = derived.export_model().count_params()
    assert found.parameters == plain + 2 * kept[1]
    assert network.count_params() > found.parameters


def test_a_rate_without_a_start_is_tested_for_first(monkeypatch):
    fixed_times(monkeypatch)
    model = quick_auto_model(
        strategy=None,
        hyperparameters={"learning_rate": Range(1e-3, 1.0)},
        outer_every=5,
    )
    found = model.estimate(X, Y, batch_size=BATCH, epochs=4)
    assert found.search_steps == 0
    assert found.outer_steps == 3  # none in the last six
    assert found.seconds == 30 + 60 * 1 + 20 * 1 + 3 * (3 - 1)
    assert "search" not in found.summary().replace("of search,", "")


def test_as_many_outer_steps_as_a_run_has(monkeypatch):
    fixed_times(monkeypatch)
    found = joint_auto_model().estimate(X, Y, batch_size=BATCH, epochs=3)
    model = joint_auto_model()
    fit(model, epochs=3)
    assert found.outer_steps == int(model.joint.policy.count.numpy())
    assert found.steps == int(model.joint.step.numpy())


def test_what_is_derived_may_take_no_outer_steps(monkeypatch):
    fixed_times(monkeypatch)
    darts = {"strategy": DARTS(warmup=0.0, until=0.5), "outer_every": 1}
    found = quick_auto_model(**darts).estimate(X, Y, batch_size=BATCH, epochs=4)
    assert found.outer_steps == found.search_steps == 10


def own_network():
    keras.utils.set_random_seed(0)
    return space((8, 8, 1), 3)


@pytest.mark.slow
def test_an_estimate_leaves_no_trace():
    network = own_network()
    before = network.get_weights()
    model = joint_auto_model(network)
    found = model.estimate(X, Y, batch_size=BATCH, epochs=2)
    assert found.search_step > 0 and found.train_step > 0
    assert found.compile_seconds > found.search_step
    assert found.memory is None or found.memory > 1e8
    assert model.joint is None
    for ours, theirs in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    # Nor in what is random, or in the layer that augments.
    losses = fit(model, epochs=2).history["loss"]
    other = fit(joint_auto_model(own_network()), epochs=2).history["loss"]
    np.testing.assert_array_equal(losses, other)
    with pytest.raises(ValueError, match="was fitted"):
        model.estimate(X, Y)


def test_an_estimate_leaves_what_a_network_was_compiled_with():
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )

    def estimate():
        model = keras_dha.AutoModel(network, augmentation=None, seed=1)
        model.estimate(X, Y, batch_size=BATCH, epochs=1)
        return model

    estimate()
    assert not network.compiled
    adam, loss = keras.optimizers.Adam(), keras.losses.MeanSquaredError()
    network.compile(adam, loss, metrics=["mae"])
    model = estimate()
    assert network.optimizer is adam and network.loss is loss
    network.fit(X, np.eye(3)[Y], verbose=0)
    with pytest.warns(UserWarning, match="loss of its own"):
        fit(model, epochs=1)


def test_an_estimate_of_a_search_by_codes_leaves_none_of_them():
    network = own_network()
    names = [weight.path for weight in network.weights]
    coded = joint_auto_model(network, strategy=keras_dha.strategies.ISTA())
    coded.estimate(X, Y, batch_size=BATCH, epochs=2)
    assert [weight.path for weight in network.weights] == names
    for decision in find_decisions(network):
        assert decision.code is None and decision.strategy is None
    # Else another strategy would be refused, and ISTA have old codes.
    losses = fit(joint_auto_model(network), epochs=1).history["loss"]
    other = fit(joint_auto_model(own_network()), epochs=1).history["loss"]
    np.testing.assert_array_equal(losses, other)


def test_what_is_no_estimate_is_refused():
    with pytest.raises(TypeError, match="`estimate` does not take `time_limit"):
        quick_auto_model().estimate(X, Y, time_limit=60)
    with pytest.raises(ValueError, match="epochs"):
        quick_auto_model().estimate(X, Y, epochs=0)
