"""Strategies: how decisions are sampled, credited and hardened."""

from keras_dha.architecture.strategies.dsnas import DSNAS
from keras_dha.architecture.strategies.strategy import Strategy

__all__ = ["DSNAS", "Strategy"]
