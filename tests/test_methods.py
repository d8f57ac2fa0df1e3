import functools
from unittest.mock import ANY

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_dha import data
from keras_dha import methods
from keras_dha.architecture import strategies
from keras_dha.architecture.choice import Choice
from keras_dha.assembly import assemble
from keras_dha.augmentation import estimators
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.auto_model import AutoModel
from keras_dha.batches import ArrayBatches
from keras_dha.hyperparameters import learned
from keras_dha.hyperparameters.autohas import AutoHAS
from keras_dha.hyperparameters.hypergradient import FORWARD
from keras_dha.hyperparameters.hypergradient import ONE_STEP
from keras_dha.hyperparameters.ranges import Range
from keras_dha.pace import StepPace
from tests.architecture.test_own_models import tabular
from tests.auto_model import small_runs


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


@pytest.mark.parametrize(
    "name, held_out", [("dsnas", 0), ("gdas", 20), ("darts", 20)]
)
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


PAPERS = {
    "autohas": (strategies.Reinforce, AutoHAS, False),
    "dha": (strategies.ISTA, str, True),
    "diffautoml": (strategies.DSNAS, str, True),
}


@pytest.mark.parametrize("name", PAPERS)
def test_methods_of_papers(name):
    strategy, hyperparameters, augments = PAPERS[name]
    row = methods.parts(name, "auto", "auto", "auto")
    assert type(row.strategy) is strategy
    assert type(row.hyperparameters) is hyperparameters
    assert row.values == "auto"
    assert (row.augmentation is not None) is augments
    assert row.outer_every == 1
    assert methods.parts(name, "auto", "auto", "auto", "auto", 4) == (
        row._replace(outer_every=4, strategy=ANY, hyperparameters=ANY)
    )
    if augments:
        assert row.horizon == ONE_STEP


def test_only_what_is_ours_to_say_fades_out():
    """A paper's method augments to the end, and so does the user's layer."""
    assert methods.parts("auto", "auto", "auto", "auto").refinement == 0.3
    mine = DifferentiableAugmentation()
    assert methods.parts("auto", "auto", mine, "auto").refinement == 0.0
    assert methods.parts("auto", "auto", None, "auto").refinement == 0.3
    for name in set(methods.METHODS) - {"auto"}:
        assert methods.parts(name, "auto", "auto", "auto").refinement == 0.0


def test_the_policy_of_dha():
    joint, _ = fitted("dha")
    layer = joint.policy.augmentation
    # Fourteen operations of the paper, less the one that needs colours.
    assert len(layer.active_operations) == 13
    assert layer.distribution.variables.sub_policy.shape == (13 * 13,)
    assert (layer.clean, layer.shift, layer.flip) == (0.0, None, 0.5)
    assert type(layer.estimator) is estimators.DHA
    assert layer.estimator.adversarial
    # Magnitudes are not learned.
    assert np.ptp(layer.distribution.variables.magnitude.numpy()) == 0
    assert np.any(layer.distribution.variables.sub_policy.numpy())
    rgb = methods.METHODS["dha"]().augmentation
    assert len(rgb["operations"]) == 14


@pytest.mark.parametrize(
    "name, clean", [("auto", "auto"), ("dha", 0.0), ("diffautoml", 0.1)]
)
def test_how_many_images_a_method_leaves_clean(name, clean):
    # Bright columns, which are elsewhere in a mirror image.
    x, y = np.swapaxes(small_runs.X, 1, 2), small_runs.Y
    joint, _ = assemble(
        AutoModel(small_runs.space, method=name, seed=0).settings,
        data.inspect(x, y),
        *(tf.distribute.get_strategy(), StepPace(1, 6)),
        ArrayBatches(x, y, 16, seed=0),
    )
    layer = joint.policy.augmentation
    assert layer.get_config()["clean"] == clean
    # Flips are read from the images for no paper's method.
    assert (layer.flip == 0.5) == (name != "auto")


@functools.cache
def fitted(name):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.uniform(0, 60, (60, 8, 8)) + 60.0 * y[:, None, None]

    def space(shape, classes):
        keras.utils.set_random_seed(0)
        x = inputs = keras.Input(shape)
        x = layers.Rescaling(1 / 128, offset=-1)(x)
        x = layers.Reshape((8, 8, 1))(x)
        x = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
        branch = Choice(
            [layers.Conv2D(4, k, padding="same", name=f"c{k}") for k in (1, 3)],
            name="branch",
        )(x)
        x = layers.BatchNormalization()(layers.Add()([x, branch]))
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
        return keras.Model(inputs, layers.Dense(classes, "softmax")(x))

    model = AutoModel(space, method=name, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        # Decay falls in so short a run, to where weights remember several.
        patch.setattr(learned, "_LONGEST_MEMORY", np.inf)
        model.fit(x.astype("uint8"), y, epochs=3, batch_size=18, verbose=0)
    return model.joint, model.result


@pytest.mark.parametrize(
    "name",
    ["autohas", "dha", pytest.param("diffautoml", marks=pytest.mark.slow)],
)
def test_methods_of_papers_run(name):
    joint, result = fitted(name)
    assert set(result.genotype) == {"branch"}
    for key in ("learning_rate", "weight_decay"):
        assert result.hyperparameters[key]["learned"]
        path = [result.hyperparameters[key]["start"], *result.history[key]]
        assert len(set(path)) > 2, key
    assert (result.policy is not None) == PAPERS[name][2]
    if result.policy:
        assert len(set(result.history["policy_entropy"])) == 3
    assert type(joint.network).__module__.startswith("keras.")


@pytest.mark.parametrize(
    "strategy",
    [strategies.DSNAS(until=0.5), strategies.GDAS(), strategies.ISTA()],
)
def test_mixed_precision_is_searched_in_full(strategy):
    """Logits and their like keep their precision in layers of bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_runs.quick_auto_model(strategy=strategy)
        small_runs.fit(model, epochs=2)
        layers_of = model.export_model().layers
        assert "bfloat16" in {layer.compute_dtype for layer in layers_of}
    finally:
        keras.config.set_dtype_policy("float32")
    assert set(model.result.genotype) == {"choice0", "choice1"}
    assert np.isfinite(model.result.history["loss"]).all()


def test_the_table_of_the_command_line_is_complete():
    from keras_dha import cli

    text = cli.COMMANDS["fit"].flags().help()
    for name in methods.METHODS:
        assert name in text


class Steps(keras.callbacks.Callback):
    """Counts the steps of an epoch."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)


def test_forward_mode_has_outer_steps_where_it_began():
    rate = {"learning_rate": Range(1e-3, 1.0)}

    def outer_every(*arguments):
        return methods.parts("auto", None, None, rate, *arguments).outer_every

    assert outer_every("forward") == FORWARD.restart
    assert outer_every(FORWARD._replace(restart=5)) == 5
    assert outer_every("forward", 3) == 3
    assert outer_every("one_step") == "auto"


def test_a_horizon_is_of_what_is_learned():
    fixed = {"learning_rate": 0.1, "weight_decay": {"*": 1e-4}}
    with pytest.raises(ValueError, match="Range.*hyperparameters={'learn"):
        methods.parts("auto", None, None, fixed, "one_step")
