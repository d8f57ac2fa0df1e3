"""Strategies: how decisions are sampled, credited and hardened."""

from keras_dha.architecture.strategies.darts import DARTS
from keras_dha.architecture.strategies.dsnas import DSNAS
from keras_dha.architecture.strategies.gdas import GDAS
from keras_dha.architecture.strategies.ista import ISTA
from keras_dha.architecture.strategies.reinforce import Reinforce
from keras_dha.architecture.strategies.strategy import Strategy

__all__ = ["DARTS", "DSNAS", "GDAS", "ISTA", "Reinforce", "Strategy"]
