import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.architecture import health
from keras_dha.architecture.choice import Choice
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel


def network():
    image = keras.Input((4, 4, 2))
    x = image
    for k in range(2):
        x = Choice(
            [
                layers.Conv2D(2, 3, padding="same", name=f"conv{k}"),
                layers.Identity(name=f"skip{k}"),
                keras.Sequential([layers.Rescaling(0.0)], name=f"none{k}"),
            ],
            name=f"choice{k}",
        )(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def test_the_trajectory_of_a_decision():
    model = network()
    first, second = find_decisions(model)
    p = np.array([0.5, 0.3, 0.2])
    first.logits.assign(np.log(p))
    second.freeze(0)
    logs = health.trajectory([first, second], model)
    name = first.name
    entropy = -np.sum(p * np.log(p)) / np.log(3)
    assert logs[f"{name}/entropy"] == pytest.approx(entropy, rel=1e-5)
    assert logs[f"{name}/margin"] == pytest.approx(0.2, rel=1e-5)
    assert logs[f"{name}/idle"] == pytest.approx(0.5, rel=1e-5)
    assert logs[f"{second.name}/entropy"] == pytest.approx(0.0, abs=1e-9)
    assert logs[f"{second.name}/idle"] == 0.0
    assert logs["decision_margin"] == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize(
    "layer, expected",
    [
        (layers.Identity(), True),
        (layers.Rescaling(0.0), True),
        (layers.Rescaling(2.0), False),
        (keras.Sequential([layers.ReLU(), layers.Rescaling(0.0)]), True),
        (layers.MaxPooling2D(), False),
        (layers.Conv2D(2, 1), False),
        (keras.Sequential([layers.Identity(), layers.Identity()]), True),
        (keras.Sequential([layers.Dense(2), layers.Identity()]), False),
        (keras.Sequential([layers.Identity(), layers.Dense(2)]), False),
        (
            keras.Sequential(
                [keras.Sequential([layers.Dense(2)]), layers.Identity()]
            ),
            False,
        ),
        (keras.Sequential([layers.Rescaling(0.0), layers.Identity()]), True),
    ],
)
def test_what_is_idle(layer, expected):
    assert health.is_idle(layer) == expected


@pytest.mark.parametrize("kept, warns", [((1, 2), True), ((0, 2), False)])
def test_a_collapse_is_said(kept, warns, recwarn):
    model = network()
    for decision, index in zip(find_decisions(model), kept, strict=True):
        decision.freeze(index)
    health.warn_of_collapse(model)
    messages = [str(w.message) for w in recwarn]
    assert len(messages) == warns
    if warns:
        assert "collapsed" in messages[0] and "warmup" in messages[0]
        assert "'none1', 'skip0'" in messages[0]


@pytest.mark.parametrize(
    "outer, inner, warns", [(0, 0, 1), (1, 1, 1), (0, 1, 0)]
)
def test_only_what_runs_collapses(outer, inner, warns, recwarn):
    """A choice within a candidate counts where that one is kept."""
    inside = Choice([layers.Identity(), layers.Conv2D(2, 3, padding="same")])
    choice = Choice([inside, layers.Identity()])
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, choice(inputs))
    choice.decision.freeze(outer)
    inside.decision.freeze(inner)
    health.warn_of_collapse(model)
    assert len(recwarn) == warns


def test_a_run_logs_every_decision_and_warns_once():
    rng = np.random.default_rng(0)
    x = rng.random((60, 4, 4, 2)).astype("float32")
    y = rng.integers(0, 3, 60)

    class Forced(DSNAS):
        def harden(self, decisions):
            for decision in decisions:
                decision.freeze(1)
            return decisions

    model = AutoModel(
        lambda *_: network(), method="dsnas", strategy=Forced(until=0.6), seed=0
    )
    with pytest.warns(UserWarning, match="collapsed") as warned:
        history = model.fit(x, y, epochs=3, batch_size=20, verbose=0).history
    assert len([w for w in warned if "collapsed" in str(w.message)]) == 1
    for name in ("choice0_decision", "choice1_decision"):
        for quantity in ("entropy", "margin", "idle"):
            assert len(history[f"{name}/{quantity}"]) == 3
        assert history[f"{name}/idle"][-1] == 1.0
        assert history[f"{name}/margin"][-1] == 1.0
