"""What is refused, before anything is done."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_dha.architecture.strategies import DSNAS
from keras_dha.auto_model import AutoModel
from tests.auto_model.small_runs import CLASSES
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import X
from tests.auto_model.small_runs import Y
from tests.auto_model.small_runs import as_dataset
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import quick_auto_model
from tests.auto_model.small_runs import space

ENDLESS = as_dataset(X_NEW, Y_NEW, 8)[0].repeat()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"max_trials": 3}, TypeError, "`max_trials`.*no trials.*`epochs`"),
        ({"tuner": "greedy"}, TypeError, "`tuner`.*no trials"),
        ({"objective": "val_loss"}, TypeError, "`objective`.*search split"),
        (
            {"optimizer": "adam"},
            TypeError,
            "`optimizer`.*`compile.*`hyperparameters`",
        ),
        ({"spam": 1}, TypeError, "`AutoModel` does not take `spam`.*spam=1"),
        ({"method": "magic"}, ValueError, "`method`.*'auto'.*'magic'"),
        ({"search_space": "vit"}, ValueError, "`search_space`.*'vit'"),
        ({"search_space": 3}, ValueError, "`search_space`.*3"),
        ({"strategy": "dsnas"}, ValueError, "`strategy`.*'dsnas'"),
        ({"strategy": DSNAS}, ValueError, "`strategy` must be.*object"),
        ({"augmentation": "rand"}, ValueError, "`augmentation`.*'rand'"),
        (
            {"augmentation": layers.RandomFlip()},
            ValueError,
            "`augmentation`.*DifferentiableAugmentation",
        ),
        ({"hyperparameters": "best"}, ValueError, "`hyperparameters`.*'best'"),
        ({"hyperparameters": {"lr": 0.1}}, ValueError, "one of.*'lr'"),
        ({"target": {"size": 1}}, ValueError, "`target`.*size"),
        ({"directory": 3}, ValueError, "`directory` must be a path.*3"),
        ({"overwrite": True}, ValueError, "`overwrite`.*directory=None"),
        (
            {"directory": "x", "overwrite": 1},
            ValueError,
            "`overwrite` must be True or False.*overwrite=1",
        ),
        ({"search_split": 0.0}, ValueError, "`search_split`.*0.0"),
        ({"search_split": 0.6}, ValueError, "`search_split`.*0.6"),
        ({"outer_every": 0}, ValueError, "`outer_every`.*0"),
        ({"outer_every": 2.5}, ValueError, "`outer_every`.*2.5"),
        ({"outer_every": "often"}, ValueError, "'auto' or an integer.*'often'"),
        ({"seed": "one"}, ValueError, "`seed`.*'one'"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0.*-1"),
        ({"seed": 2**31}, ValueError, "`seed`.*less than 2.*2147483648"),
    ],
)
def test_bad_constructor_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        AutoModel(**arguments)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"max_trials": 3}, TypeError, "`fit` does not take `max_trials`"),
        ({"validation_split": 1.0}, ValueError, r"`validation_split`.*1\.0"),
        ({"validation_split": True}, ValueError, "`validation_split`.*True"),
        ({"validation_split": 0.995}, ValueError, "both sides.*96 examples"),
        (
            {"validation_split": 0.1, "validation_data": (X_NEW, Y_NEW)},
            ValueError,
            "not both",
        ),
        (
            {"x": ENDLESS, "y": None, "validation_split": 0.1},
            ValueError,
            r"`dataset.skip\(n\)`",
        ),
        ({"sample_weight": Y}, TypeError, "`sample_weight`.*`class_weight`"),
        ({"class_weight": [1, 1, 2]}, ValueError, r"a dict.*\[1, 1, 2\]"),
        ({"class_weight": {3: 1.0}}, ValueError, r"classes 0\.\.2.*\{3: 1"),
        ({"class_weight": {0: -1.0}}, ValueError, "at least 0.*-1"),
        ({"class_weight": {0: np.nan}}, ValueError, "at least 0.*nan"),
        ({"class_weight": {"0": 2.0}}, ValueError, "class numbers.*'0'"),
        (
            {"class_weight": {0: 0, 1: 0, 2: 0}},
            ValueError,
            "one at least must be above 0",
        ),
        ({"epochs": 0}, ValueError, "`epochs`.*of at least 1.*epochs=0"),
        ({"epochs": -1}, ValueError, "`epochs`.*of at least 1.*-1"),
        ({"epochs": 1.5}, ValueError, "`epochs` must be an integer.*1.5"),
        ({"epochs": "3"}, ValueError, "`epochs` must be an integer.*'3'"),
        ({"epochs": True}, ValueError, "`epochs` must be an integer"),
        ({"batch_size": 0}, ValueError, "`batch_size`.*of at least 1"),
        ({"batch_size": 2.5}, ValueError, "`batch_size` must be an integer"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch`.*at least 1"),
        ({"verbose": 3}, ValueError, "`verbose`.*3"),
        ({"validation_data": X_NEW}, ValueError, r"pair \(x, y\)"),
        ({"validation_data": (X_NEW, Y)}, ValueError, "same number"),
        (
            {"validation_data": (X_NEW, Y_NEW + 1)},
            ValueError,
            r"classes 0\.\.2.*up to 3",
        ),
        (
            {"validation_data": (X_NEW[:, :4], Y_NEW)},
            ValueError,
            r"must look like.*\(4, 8, 1\)",
        ),
        ({"validation_data": ENDLESS}, ValueError, r"must end.*take\(n\)"),
        ({"validation_steps": 3}, TypeError, r"`dataset.take\(steps\)`"),
        ({"validation_freq": 2}, TypeError, "after each epoch.*`steps_per"),
        (
            {"validation_batch_size": 9},
            TypeError,
            "`batch_size`.*batched dataset as `validation_data`",
        ),
        ({"search_data": X_NEW}, ValueError, r"pair \(x, y\)"),
        ({"search_data": ENDLESS}, ValueError, r"must end.*take\(n\)"),
        ({"y": None}, ValueError, "Expected arrays `x` and `y`"),
        ({"x": None}, ValueError, "Expected arrays `x` and `y`"),
        (
            {"x": iter([(X, Y)]), "y": None},
            ValueError,
            r"pairs. Make one of it by `tf.data.Dataset.from_generator`. Rec",
        ),
        (
            {"x": keras.utils.PyDataset(), "y": None},
            ValueError,
            "from_generator.*PyDataset",
        ),
        ({"x": X[:5]}, ValueError, "same number of examples"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "no examples"),
        ({"y": 0 * Y}, ValueError, "at least two classes"),
        ({"y": Y - 1}, ValueError, "Labels must be integers from 0"),
        ({"x": X * np.nan}, ValueError, "NaN"),
        ({"x": X[:, 0, 0], "y": Y}, ValueError, "for images.*search_space"),
    ],
)
def test_bad_fit_arguments_leave_the_model_as_it_was(arguments, error, message):
    model = AutoModel(seed=0)
    with pytest.raises(error, match=message):
        fit(model, **{"epochs": 1, **arguments})
    with pytest.raises(ValueError, match="call `fit` first"):
        model.predict(X)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.evaluate(X, Y),
        lambda model: model.predict(X),
        lambda model: model.summary(),
        lambda model: model.result,
        lambda model: model.genotype,
        lambda model: model.export_model(),
        lambda model: model.export("nowhere"),
        lambda model: model.save("nowhere.keras"),
        lambda model: model.get_weights(),
        lambda model: model.set_weights([]),
    ],
)
def test_before_fit_there_is_nothing_to_use(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="call `fit` first"):
        call(AutoModel())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            {"optimizer": "adam"},
            ValueError,
            "one of .*'adamw'.*optimizer='adam'",
        ),
        (
            {"run_eagerly": True},
            TypeError,
            "`compile` does not take `run_eagerly` .*always compiled.*=True",
        ),
    ],
)
def test_compile_refuses_what_it_cannot_honour(arguments, error, message):
    with pytest.raises(error, match=message):
        AutoModel().compile(**arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda model: model.evaluate(X, Y, sample_weight=Y),
            "`evaluate` does not take `sample_weight` .*resample",
        ),
        (
            lambda model: model.predict(X, spam=1),
            "`predict` does not take `spam`. Received: spam=1",
        ),
        (
            lambda model: model.estimate(X, Y, time_limit=60),
            "`estimate` does not take `time_limit` .*for `fit`.*=60",
        ),
    ],
)
def test_other_methods_refuse_what_they_do_not_take(call, message):
    with pytest.raises(TypeError, match=message):
        call(AutoModel())


@pytest.mark.parametrize("steps", [0, 1.5])
def test_steps_that_are_none(fitted, steps):
    for call in (
        lambda: fitted.evaluate(X, Y, steps=steps),
        lambda: fitted.predict(X, steps=steps),
    ):
        with pytest.raises(ValueError, match="`steps` must be"):
            call()


def test_a_metric_of_more_than_a_number_is_refused_before_the_first_step():
    model, seen = quick_auto_model(strategy=None), []
    model.compile(metrics=["accuracy", keras.metrics.F1Score()])
    steps = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(batch)
    )
    one_hot = np.eye(CLASSES)[Y]
    with pytest.raises(ValueError, match=r'average="macro".*score.: \(3,\)'):
        fit(model, y=one_hot, epochs=1, callbacks=[steps])
    assert seen == [] and model.joint is None
    model.compile(metrics=[keras.metrics.F1Score(average="macro")])
    assert "f1_score" in fit(model, y=one_hot, epochs=1).history


def test_layers_in_float16_are_refused():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(3, dtype="mixed_float16", name="half")(x)
    x = keras.layers.Activation("softmax", dtype="float32")(x)
    model = AutoModel(keras.Model(inputs, x), augmentation=None)
    with pytest.raises(ValueError, match="mixed_bfloat16.*'half'"):
        model.fit(X, Y, epochs=1)
    assert model.joint is None


def test_compile_after_fit(fitted):
    with pytest.raises(ValueError, match="fixed by the first `fit`"):
        fitted.compile(metrics=["accuracy"])


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X[:, :4], Y, r"must look like.*\(4, 8, 1\).*\(8, 8, 1\)"),
        (X[..., 0], Y, r"must look like.*\(8, 8\)"),
        (X, np.eye(CLASSES)[Y], "must look like.*one_hot=True"),
        (X, Y + 1, r"classes 0\.\.2"),
    ],
)
def test_a_further_fit_with_data_of_another_kind(fitted, x, y, message):
    with pytest.raises(ValueError, match=message):
        fit(fitted, x, y)


def test_after_a_fit_that_was_refused_other_data_may_come():
    model = quick_auto_model(search_space_for((8, 8, 1), CLASSES))
    with pytest.raises(ValueError, match="must map examples of shape"):
        fit(model, X[..., 0], epochs=1)
    fit(model, epochs=1)
    assert model.predict(X).shape == (len(X), CLASSES)


def search_space_for(shape, num_classes):
    return lambda *_: space(shape, num_classes)


class Subclassed(keras.Model):
    pass


class WithAStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class WithALoss(keras.Model):
    def compute_loss(self, *args, **kwargs):
        return 2.0 * super().compute_loss(*args, **kwargs)


def of_class(kind, shape, num_classes):
    network = space(shape, num_classes)
    return kind(network.inputs, network.outputs)


def two_outputs(shape, num_classes):
    inputs = keras.Input(shape)
    x = layers.Flatten()(inputs)
    return keras.Model(inputs, [layers.Dense(num_classes)(x) for _ in "ab"])


@pytest.mark.parametrize(
    "search_space, message",
    [
        (search_space_for((8, 8, 1), 4), r"to 3 classes.*to \(4,\)"),
        (search_space_for((6, 8, 1), 3), r"\(8, 8, 1\).*from \(6, 8, 1\)"),
        (search_space_for((8, 8), 3), r"\(8, 8, 1\).*from \(8, 8\)"),
        (two_outputs, "outputs of the network.*one without"),
        (lambda *_: Subclassed(), "functional or Sequential.*Subclassed"),
        (of_class(WithAStep, (8, 8, 1), CLASSES), "'train_step'.*WithAStep"),
        (
            functools.partial(of_class, WithALoss),
            "'compute_loss'.*by `compile`.*WithALoss",
        ),
        (lambda *_: keras.Sequential(), "functional or Sequential"),
        (lambda *_: None, "functional or Sequential.*NoneType"),
        (space((6, 8, 1), 3), r"\(8, 8, 1\).*from \(6, 8, 1\)"),
    ],
)
def test_a_search_space_that_does_not_fit(search_space, message):
    with pytest.raises(ValueError, match=message):
        fit(quick_auto_model(search_space), epochs=1)


def test_one_unit_for_two_classes():
    inputs = keras.Input((8, 8, 1))
    x = layers.Dense(1, activation="sigmoid")(layers.Flatten()(inputs))
    with pytest.raises(ValueError, match=r'Dense\(2, activation="softmax"\)'):
        fit(quick_auto_model(keras.Model(inputs, x)), y=Y % 2, epochs=1)


def test_a_loss_that_leaves_the_numbers_is_reported():
    model = quick_auto_model(strategy=None, hyperparameters=None)
    model.compile(loss=Infinite())
    with pytest.raises(FloatingPointError, match="not finite.*at step"):
        fit(model, epochs=1)


class Fails(keras.callbacks.Callback):
    """Ends a run as its guard does where it gives up."""

    def on_epoch_end(self, epoch, logs=None):
        raise FloatingPointError


def test_weights_that_are_good_outlive_a_run_that_is_given_up():
    model = quick_auto_model(strategy=None)
    with pytest.raises(FloatingPointError):
        fit(model, epochs=2, callbacks=[Fails()])
    assert np.all(np.isfinite(model.predict(X_NEW)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "dsnas"},
        {
            "strategy": None,
            "augmentation": None,
            "hyperparameters": {"learning_rate": 0.05},
        },
    ],
)
def test_search_data_that_nothing_learns_from(arguments):
    model = AutoModel(space, seed=0, **arguments)
    given = r"tuple, method=.*strategy=.*augmentation=.*hyperparameters="
    with pytest.raises(ValueError, match=f"leave it out.*{given}"):
        fit(model, epochs=1, search_data=(X_NEW, Y_NEW))
    assert model.joint is None


def test_search_data_in_a_further_fit_that_trains_weights_alone():
    model = quick_auto_model(strategy=None)
    fit(model, epochs=1)
    with pytest.raises(ValueError, match="Nothing learns.*a further `fit`"):
        fit(model, epochs=1, search_data=(X_NEW, Y_NEW))


@pytest.mark.parametrize("instead", ["nothing", "search_data", "weights"])
def test_one_example_of_each_class(instead):
    first = [np.flatnonzero(k == Y)[0] for k in range(CLASSES)]
    x, y = X[first], Y[first]
    model = joint_auto_model(hyperparameters={"learning_rate": 0.01})
    if instead == "weights":
        model = joint_auto_model(augmentation=None, hyperparameters=None)
    given = (X_NEW, Y_NEW) if instead == "search_data" else None
    if instead == "nothing":
        told = "one example.*`search_data`.*augmentation=None.*: 3 examples"
        with pytest.raises(ValueError, match=told):
            fit(model, x, y, batch_size=None, epochs=2)
        return
    fit(model, x, y, batch_size=None, epochs=2, search_data=given)
    assert model.predict(X_NEW).shape == (len(X_NEW), CLASSES)


def test_a_layer_that_assigns_its_trained_weights():
    inputs = keras.Input(X.shape[1:])
    x = layers.Flatten()(inputs)
    x = layers.SpectralNormalization(layers.Dense(4, name="inner"))(x)
    x = layers.Dense(CLASSES, activation="softmax")(x)
    model = AutoModel(keras.Model(inputs, x), augmentation=None)
    with pytest.raises(
        ValueError, match="no layer may assign them.*kernel_constraint.*inner"
    ):
        fit(model, epochs=1)


class Infinite(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return float("inf") * keras.ops.sum(y_pred, axis=-1)
