import keras
import numpy as np
import pytest

from keras_dha import methods
from keras_dha.architecture import strategies
from keras_dha.auto_model import AutoModel
from tests.architecture.test_own_models import tabular


@pytest.mark.parametrize(
    "name, kind",
    [
        ("dsnas", strategies.DSNAS),
        ("gdas", strategies.GDAS),
        ("darts", strategies.DARTS),
    ],
)
def test_methods_that_search_the_architecture_alone(name, kind):
    row = methods.parts(name, "auto", "auto", "auto")
    assert type(row.strategy) is kind
    assert row.augmentation is None
    assert row.hyperparameters is None


@pytest.mark.parametrize("name, held_out", [("gdas", 0), ("darts", 20)])
def test_a_two_level_method_holds_out_what_it_learns_from(name, held_out):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 5)).astype("float32")
    y = np.repeat(np.arange(3), 34)[:100]
    model = AutoModel(
        lambda *_: tabular(),
        method=name,
        search_split=0.2,
        outer_every=1,
        seed=0,
    )
    seen = []
    model.fit(
        x,
        y,
        epochs=1,
        batch_size=10,
        verbose=0,
        callbacks=[Steps(seen)],
    )
    assert len(seen) == (100 - held_out) // 10
    genes = model.result.genotype.values()
    probabilities = [p for g in genes for p in g["probabilities"].values()]
    assert np.ptp(probabilities) > 1e-3  # the search went somewhere


class Steps(keras.callbacks.Callback):
    """Counts the steps of an epoch."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)
