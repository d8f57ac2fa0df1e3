import keras
import pytest
from keras import layers

from keras_dha import optimizers
from keras_dha.auto_model import AutoModel
from keras_dha.fused_normalization import FusedBatchNormalization
from keras_dha.hyperparameters.engine import AUTO
from keras_dha.hyperparameters.engine import DEFAULTS
from keras_dha.hyperparameters.ranges import Range
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW


@pytest.mark.parametrize(
    "name, kind, nesterov",
    [("sgd", SGD, False), ("nesterov", SGD, True), ("adamw", AdamW, None)],
)
def test_names(name, kind, nesterov):
    found = optimizers.read(name)
    assert type(found.rule) is kind
    assert found.rule.get_config().get("nesterov") is nesterov
    assert not found.rule.decays_all
    assert set(found.values) == set(DEFAULTS)
    for key, scale in found.auto.items():
        assert scale.low < found.values[key] < scale.high


def test_an_sgd_object_is_taken_over():
    found = optimizers.read(
        keras.optimizers.SGD(
            0.03,
            momentum=0.7,
            nesterov=True,
            weight_decay=1e-3,
            global_clipnorm=2.0,
        )
    )
    assert found.rule.get_config() == {
        "nesterov": True,
        "decoupled": True,
        "clipnorm": None,
        "global_clipnorm": 2.0,
        "decays_all": True,
    }
    assert found.values == pytest.approx(
        {"learning_rate": 0.03, "weight_decay": 1e-3, "momentum": 0.7}
    )
    # All of it is fixed, unless a range says otherwise.
    assert optimizers.resolved(found, "auto") == found.values
    assert optimizers.resolved(found, None) == found.values


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_an_adam_object_is_taken_over(kind):
    found = optimizers.read(
        getattr(keras.optimizers, kind)(
            0.002, beta_1=0.8, beta_2=0.95, epsilon=1e-5, clipnorm=3.0
        )
    )
    decay = {"Adam": 0.0, "AdamW": 0.004}[kind]
    assert found.rule.get_config() == {
        "beta_2": 0.95,
        "epsilon": 1e-5,
        "clipnorm": 3.0,
        "global_clipnorm": None,
        "decays_all": kind == "AdamW",
    }
    assert found.values == pytest.approx(
        {"learning_rate": 0.002, "weight_decay": decay, "momentum": 0.8}
    )


def test_a_schedule_is_taken_over():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.2, 50)
    found = optimizers.read(keras.optimizers.SGD(schedule))
    assert [float(found.schedule(k)) for k in (0, 25, 50)] == pytest.approx(
        [float(schedule(k)) for k in (0, 25, 50)]
    )
    assert found.values["learning_rate"] == 1.0


def test_a_dict_comes_first():
    found = optimizers.read(keras.optimizers.SGD(0.03, momentum=0.7))
    values = optimizers.resolved(
        found, {"learning_rate": Range(1e-3, 1.0), "weight_decay": 0.1}
    )
    assert values["learning_rate"] == Range(1e-3, 1.0, start=0.03)
    assert (values["weight_decay"], values["momentum"]) == (0.1, 0.7)
    given = {"learning_rate": Range(1e-3, 1.0, start=0.5)}
    assert optimizers.resolved(found, given)["learning_rate"].start == 0.5


def test_names_leave_the_start_to_the_range_test():
    sgd = optimizers.read("sgd")
    assert optimizers.resolved(sgd, "auto") == {**DEFAULTS, **AUTO}
    assert optimizers.resolved(sgd, None) == DEFAULTS


def test_a_start_outside_the_range():
    found = optimizers.read(keras.optimizers.SGD(0.03))
    with pytest.raises(ValueError, match="within the range.*=0.03"):
        optimizers.resolved(found, {"learning_rate": Range(0.1, 1.0)})


def test_ranges_of_groups_begin_there_as_well():
    found = optimizers.read(keras.optimizers.SGD(0.03, weight_decay=1e-3))
    groups = {
        "head": Range(1e-3, 1.0),
        "stem": Range(1e-3, 1.0, start=0.5),
        "*": 0.2,
    }
    decays = {"head": 0.0, "*": Range(1e-4, 1e-2)}
    values = optimizers.resolved(
        found, {"learning_rate": groups, "weight_decay": decays}
    )
    assert values["learning_rate"] == {
        **groups,
        "head": Range(1e-3, 1.0, start=0.03),
    }
    assert values["weight_decay"]["*"].start == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="within the range.*=0.03"):
        optimizers.resolved(found, {"learning_rate": {"*": Range(0.1, 1.0)}})


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(1, 9))],
    ids=["name", "object"],
)
def test_factors_of_groups_begin_at_1(optimizer):
    groups = {"head": Range(0.1, 20.0), "*": Range(0.5, 2.0, start=0.7)}
    values = optimizers.resolved(
        optimizers.read(optimizer), {"learning_rate": groups}, is_factor=True
    )
    assert values["learning_rate"] == {
        **groups,
        "head": Range(0.1, 20.0, start=1.0),
    }


RATES = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.2, 0.02])


def test_rates_are_of_the_optimizer_or_of_the_base_schedule():
    model = AutoModel(base_schedule=RATES)
    with pytest.raises(ValueError, match="of one thing.*learning_rate=0.05"):
        model.compile(keras.optimizers.SGD(0.05))
    assert model.settings.optimizer.is_default
    model.compile(keras.optimizers.SGD(RATES))
    model.compile("sgd")
    # Said: a factor of the schedule's, of which the optimizer says nothing.
    said = {"learning_rate": 0.5}
    AutoModel(base_schedule=RATES, hyperparameters=said).compile(
        keras.optimizers.SGD(0.05)
    )


@pytest.mark.parametrize("scale", [Range(0.1, 20.0), Range(1e-3, 0.5)])
def test_a_range_of_factors_need_not_have_any_number(scale):
    model = AutoModel(hyperparameters={"learning_rate": scale})
    model.compile(keras.optimizers.SGD(RATES))
    settings = model.settings
    assert settings.learns_from_search_data(is_augmented=False)
    found = settings.values_for(settings.optimizer)["learning_rate"]
    assert found.start == (1.0 if scale.high > 1 else None)


def excluding():
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


@pytest.mark.parametrize(
    "optimizer, message",
    [
        (lambda: "adam", "must be one of .*'adam'"),
        (lambda: 0.1, "must be one of .*0.1"),
        (lambda: keras.optimizers.RMSprop(), "must be one of .*RMSprop"),
        (lambda: keras.optimizers.Adam(amsgrad=True), "`amsgrad`.*True"),
        (lambda: keras.optimizers.SGD(use_ema=True), "`use_ema`.*True"),
        (lambda: keras.optimizers.SGD(clipvalue=0.5), "`clipvalue`.*0.5"),
        (
            lambda: keras.optimizers.SGD(gradient_accumulation_steps=4),
            "`gradient_accumulation_steps`.*4",
        ),
        (
            lambda: keras.optimizers.SGD(loss_scale_factor=8.0),
            "`loss_scale_factor`.*8",
        ),
        (excluding, "exclude_from_weight_decay"),
    ],
)
def test_what_is_refused(optimizer, message):
    with pytest.raises(ValueError, match=message):
        optimizers.read(optimizer())


def test_functions_of_the_step_are_refused():
    def rate(step):
        return 0.1 / (1 + step)

    with pytest.raises(ValueError, match="must be a number or a `keras.*SGD"):
        optimizers.read(keras.optimizers.SGD(rate))


def network(normalisation):
    parts = [keras.Input((4, 4, 1)), layers.Conv2D(2, 3), normalisation]
    return keras.Sequential(
        [
            *(p for p in parts if p is not None),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize(
    "normalisation, kind",
    [
        (None, AdamW),
        (layers.LayerNormalization(), AdamW),
        (layers.BatchNormalization(), SGD),
        (FusedBatchNormalization(), SGD),
        (keras.Sequential([layers.BatchNormalization()]), SGD),
        # By statistics that are given, it normalises nothing.
        (layers.BatchNormalization(trainable=False), AdamW),
    ],
)
def test_a_network_has_a_default_of_its_own(normalisation, kind):
    found = optimizers.fitting(optimizers.read(None), network(normalisation))
    assert type(found.rule) is kind
    assert found.auto == optimizers.read(kind.__name__.lower()).auto


@pytest.mark.parametrize(
    "arguments, compiled",
    [
        ({}, {"optimizer": "sgd"}),
        ({"method": "dsnas"}, {}),
        ({"horizon": "one_step"}, {}),
        ({"hyperparameters": {"learning_rate": Range(1e-3, 1.0)}}, {}),
        ({"hyperparameters": {"weight_decay": 0.0}}, {}),
        (
            {"base_schedule": keras.optimizers.schedules.CosineDecay(0.1, 100)},
            {},
        ),
    ],
)
def test_what_goes_with_sgd_is_trained_by_it(arguments, compiled):
    model = AutoModel(**arguments)
    model.compile(**compiled)
    assert type(model.settings.optimizer_for(network(None)).rule) is SGD


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"hyperparameters": None},
        {"hyperparameters": {"label_smoothing": 0.1}},
    ],
)
def test_what_is_left_open_is_the_networks_to_choose(arguments):
    model = AutoModel(**arguments)
    model.compile(metrics=[])
    for normalisation, kind in (
        (None, AdamW),
        (layers.BatchNormalization(), SGD),
    ):
        chosen = model.settings.optimizer_for(network(normalisation))
        assert type(chosen.rule) is kind
