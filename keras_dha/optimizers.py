"""Optimizers: from a name or a Keras object to a rule that can be learned.

The update rules are our own (`keras_dha.update_rules`), as hypergradients go
through them. What a Keras object asks for is taken over, or refused.
"""

from typing import NamedTuple

import keras
import numpy as np

from keras_dha.hyperparameters.engine import AUTO
from keras_dha.hyperparameters.engine import DEFAULTS
from keras_dha.hyperparameters.ranges import Range
from keras_dha.nested_layers import trains_normalisation
from keras_dha.update_rules import SGD
from keras_dha.update_rules import AdamW

_ADAMW_DEFAULTS = {
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "momentum": 0.9,
}
_ADAMW_AUTO = {
    "learning_rate": Range(1e-6, 0.1),
    "weight_decay": Range(1e-4, 1.0, start=0.01),
}
# Of a Keras schedule's rates, what is learned is a factor.
_FACTOR = Range(0.01, 10.0, start=1.0)
# What would have to be done beside the step.
_REFUSED = {
    "clipvalue": (None, "use `clipnorm` or `global_clipnorm`"),
    "use_ema": (False, "the averaged weights are not kept for inference"),
    "loss_scale_factor": (None, "there is no loss scaling"),
    "gradient_accumulation_steps": (None, "use a larger `batch_size`"),
    "amsgrad": (False, "use AdamW without it"),
}


class Optimizer(NamedTuple):
    """What a run steps with.

    Attributes:
        rule: `inner_update.UpdateRule`.
        values: Dict of fixed learning rate, weight decay and momentum.
        auto: Dict of what `hyperparameters="auto"` learns.
        is_given: Whether the values are a Keras object's.
        schedule: Keras schedule of the object, or `None`.
        is_default: Whether nobody chose it, so that the network may
            (`fitting`).
    """

    rule: object
    values: dict
    auto: dict
    is_given: bool = False
    schedule: object = None
    is_default: bool = False


_NAMED = {
    "sgd": lambda: Optimizer(SGD(), DEFAULTS, AUTO),
    "nesterov": lambda: Optimizer(SGD(nesterov=True), DEFAULTS, AUTO),
    "adamw": lambda: Optimizer(AdamW(), _ADAMW_DEFAULTS, _ADAMW_AUTO),
}


def read(optimizer):
    """Returns the `Optimizer` that a name or a Keras object stands for.

    Args:
        optimizer: `"sgd"` (with momentum and coupled weight decay),
            `"nesterov"`, `"adamw"`, or a `keras.optimizers.SGD`, `Adam` or
            `AdamW`; or `None`, `"sgd"` until there is a network.

    Raises:
        ValueError: Another optimizer, or one that asks for what is not done.
    """
    if optimizer is None:
        return _NAMED["sgd"]()._replace(is_default=True)
    if isinstance(optimizer, str) and optimizer in _NAMED:
        return _NAMED[optimizer]()
    kinds = {
        keras.optimizers.SGD: _sgd,
        keras.optimizers.Adam: _adamw,
        keras.optimizers.AdamW: _adamw,
    }
    if type(optimizer) not in kinds:
        raise ValueError(
            f"`optimizer` must be one of {sorted(_NAMED)} or a "
            "`keras.optimizers.SGD`, `Adam` or `AdamW`: learning goes through "
            f"the update rule. Received: optimizer={optimizer!r}"
        )
    config = optimizer.get_config()
    _refuse(optimizer, config)
    rate, schedule = config["learning_rate"], None
    if not isinstance(rate, (int, float)):
        schedule = _schedule(optimizer, rate)
        rate = 1.0
    rule, momentum = kinds[type(optimizer)](config)
    values = {
        # Kept as float32: the number that was given, not its expansion.
        "learning_rate": float(str(np.float32(rate))),
        "weight_decay": float(config["weight_decay"] or 0.0),
        "momentum": float(momentum),
    }
    return Optimizer(rule, values, {}, True, schedule)


def check_one_rate(optimizer, base_schedule, hyperparameters):
    """Refuses an optimizer's number where the rates are a schedule's.

    Args:
        optimizer: `Optimizer`.
        base_schedule: As `base_schedule.checked` returns it.
        hyperparameters: `"auto"`, a validated dict, or `None`.
    """
    has_number = optimizer.is_given and optimizer.schedule is None
    is_said = hyperparameters != "auto" and "learning_rate" in (
        hyperparameters or {}
    )
    if has_number and not isinstance(base_schedule, str) and not is_said:
        raise ValueError(
            "Expected learning rates of one thing: give the schedule to the "
            "optimizer, as in `SGD(learning_rate=schedule)`, or name the "
            'optimizer, as in `compile(optimizer="sgd")`. Received: an '
            f"optimizer with learning_rate={optimizer.values['learning_rate']}"
            f" beside base_schedule={base_schedule!r}"
        )


def fitting(optimizer, network):
    """Returns the `Optimizer` that a network is trained by.

    What nobody chose is SGD where batch normalisation trains, and AdamW
    elsewhere: in front of a normalisation SGD's steps fit themselves to the
    length of the weights, whatever the layer; elsewhere the layers of a deep
    network ask for steps of other lengths, which Adam has for each weight
    (BUILD_NOTES.md has the measurements).

    Args:
        optimizer: `Optimizer`.
        network: `keras.Model`.
    """
    if not optimizer.is_default or trains_normalisation(network):
        return optimizer
    return read("adamw")


def _schedule(optimizer, config):
    """Returns the schedule of an optimizer; refuses other functions."""
    schedules = keras.optimizers.schedules
    found = schedules.deserialize(config) if isinstance(config, dict) else None
    if not isinstance(found, schedules.LearningRateSchedule):
        raise ValueError(
            "An optimizer's learning rate must be a number or a "
            "`keras.optimizers.schedules.LearningRateSchedule`; what other "
            "functions do is not known beforehand. Received: "
            f"{type(optimizer).__name__} with learning_rate={config!r}"
        )
    return found


def resolved(optimizer, hyperparameters, is_factor=False):
    """Returns the dict of all hyperparameters of a run.

    Args:
        optimizer: `Optimizer`.
        hyperparameters: `"auto"`, or a validated dict, which comes before
            what the optimizer says; a `Range` of it that has no start, also
            one of a group of layers, begins where a Keras object has its
            number.
        is_factor: Whether the learning rate is a factor of a Keras
            schedule's rates: one of 1, or learned from there on.
    """
    if is_factor:
        optimizer = _as_factor(optimizer)
    asked = optimizer.auto if hyperparameters == "auto" else hyperparameters
    values = {**optimizer.values, **(asked or {})}
    if is_factor:
        name = "learning_rate"
        values[name] = _started(name, values[name], 1.0, must=False)
    if optimizer.is_given:
        for name, number in optimizer.values.items():
            if not (is_factor and name == "learning_rate"):
                values[name] = _started(name, values[name], number)
    return values


def _as_factor(optimizer):
    auto = dict(optimizer.auto)
    if "learning_rate" in auto:
        auto["learning_rate"] = _FACTOR
    values = {**optimizer.values, "learning_rate": 1.0}
    return optimizer._replace(values=values, auto=auto)


def _started(name, scale, number, must=True):
    """Returns a value, its range or those of groups begun at a number.

    Args:
        name: String, what it is a value of.
        scale: Number, `Range`, or dict from a group's pattern to these.
        number: Float.
        must: Whether a range without it is refused, or else left as it is.
    """
    if isinstance(scale, dict):
        return {
            pattern: _started(name, each, number, must)
            for pattern, each in scale.items()
        }
    if not isinstance(scale, Range) or scale.start is not None:
        return scale
    if not scale.low <= number <= scale.high:
        if not must:
            return scale
        raise ValueError(
            f"The optimizer's {name} is where learning starts; it must lie "
            "within the range, or the range must have a `start`. "
            f"Received: {name}={number:g} and {scale!r}"
        )
    return Range(scale.low, scale.high, scale.scale, start=number)


def _norms(config):
    # Keras' decay applies to every variable.
    return {
        "clipnorm": config["clipnorm"],
        "global_clipnorm": config["global_clipnorm"],
        "decays_all": config["weight_decay"] is not None,
    }


def _sgd(config):
    rule = SGD(
        nesterov=config["nesterov"],
        decoupled=config["weight_decay"] is not None,
        **_norms(config),
    )
    return rule, config["momentum"]


def _adamw(config):
    rule = AdamW(
        beta_2=config["beta_2"], epsilon=config["epsilon"], **_norms(config)
    )
    return rule, config["beta_1"]


def _refuse(optimizer, config):
    for name, (default, instead) in _REFUSED.items():
        if config.get(name, default) not in (default, 0):
            raise ValueError(
                f"An optimizer's `{name}` is not honoured here: {instead}. "
                f"Received: {name}={config[name]!r}"
            )
    # Not part of the configuration, so there is no public way to ask.
    if getattr(optimizer, "_exclude_from_weight_decay", None) or getattr(
        optimizer, "_exclude_from_weight_decay_pattern", None
    ):
        raise ValueError(
            "An optimizer's exclusions from weight decay are not honoured "
            'here; compile(optimizer="adamw") or "sgd" decays kernels alone. '
            "Received: an optimizer with `exclude_from_weight_decay`"
        )
