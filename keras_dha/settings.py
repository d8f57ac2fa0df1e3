"""Settings: what was asked of a model, checked before anything is built."""

import dataclasses
import random

import keras

from keras_dha import arguments
from keras_dha import base_schedule as schedules
from keras_dha import combinations
from keras_dha import methods
from keras_dha import optimizers
from keras_dha.architecture.decision import find_decisions
from keras_dha.architecture.target import Target
from keras_dha.hyperparameters import hypergradient
from keras_dha.hyperparameters import quantities
from keras_dha.search_space import space_builder


@dataclasses.dataclass
class Settings:
    """The checked arguments of `AutoModel`'s constructor and `compile`.

    Attributes:
        builder: Function from a `DataSpec` to a network; it takes arguments
            of the default space if `fits_time`.
        fits_time: Whether these may be chosen by the time there is.
        leaves_search: Whether the architecture is not searched where there is
            too little time: nobody asked for it, nor for a paper's method.
        parts: `methods.Parts`.
        base_schedule: As `base_schedule.checked` returns it.
        target: `Target` or `None`.
        search_split: Float, share of the training data.
        outer_every: Steps from one outer step to the next, an integer or
            `"auto"` (`keras_dha.outer_steps`).
        seed: Integer.
        optimizer: `optimizers.Optimizer`, as `compile` was given it.
        asked: Dict of what else was asked for, as it was given.
        loss, loss_weights, metrics: As given to `compile`, or `None`.
    """

    builder: object
    fits_time: bool
    leaves_search: bool
    parts: methods.Parts
    base_schedule: object
    target: Target | None
    search_split: float
    outer_every: int | str
    seed: int
    optimizer: object
    asked: dict
    loss: object = None
    loss_weights: object = None
    metrics: list | dict | None = None

    def optimizer_for(self, network):
        """Returns the `optimizers.Optimizer` that trains a network.

        It is the network's to choose only where nothing else was chosen that
        goes with one.

        Args:
            network: `keras.Model`.
        """
        values = self.parts.values
        named = values.keys() if isinstance(values, dict) else ()
        is_free = (
            self.asked["method"] == self.asked["horizon"] == "auto"
            and not set(hypergradient.OPTIMIZER) & set(named)
            and isinstance(self.base_schedule, str)
        )
        if not is_free:
            return self.optimizer
        return optimizers.fitting(self.optimizer, network)

    def values_for(self, optimizer):
        """Returns the dict of all hyperparameters of a run.

        Args:
            optimizer: `Optimizer` that trains it.
        """
        is_factor = not isinstance(self.base_schedule, str)
        return optimizers.resolved(optimizer, self.parts.values, is_factor)

    def learns_from_search_data(self, is_augmented):
        """Whether anything will be learned from the search split.

        Args:
            is_augmented: Whether data can be augmented, as images can.
        """
        values = self.values_for(self.optimizer)
        # A layer that is not trainable has a policy that is given; a name or
        # arguments stand for one that is learned.
        augmentation = self.parts.augmentation
        policy = is_augmented and augmentation is not None
        policy = policy and getattr(augmentation, "trainable", True)
        strategy = self.parts.strategy
        judged = strategy is not None and strategy.follows_search_split
        ranges = any(q.is_learned for q in quantities.listed(values))
        return policy or judged or ranges


def checked(
    search_space,
    method,
    strategy,
    augmentation,
    hyperparameters,
    horizon,
    base_schedule,
    target,
    search_split,
    outer_every,
    seed,
):
    """Returns the `Settings` of arguments as `AutoModel` takes them."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Images are (h, w, c) here: call "
            'keras.config.set_image_data_format("channels_last"). Received: '
            f"image_data_format={keras.config.image_data_format()!r}"
        )
    if not 0 < search_split <= 0.5:
        raise ValueError(
            "`search_split` must be in (0, 0.5]. "
            f"Received: search_split={search_split}"
        )
    if outer_every != "auto":
        outer_every = arguments.checked_count(
            "outer_every", outer_every, or_else="auto"
        )
    asked = {
        "search_space": search_space,
        "method": method,
        "strategy": strategy,
        "augmentation": augmentation,
        "hyperparameters": hyperparameters,
        "horizon": horizon,
        "search_split": search_split,
        "outer_every": outer_every,
        "seed": seed,
    }
    if seed is None:
        # As Keras does, so that `keras.utils.set_random_seed` sets it.
        seed = random.randrange(2**31)
    else:
        arguments.check_seed(seed)
    parts = methods.parts(
        *(method, strategy, augmentation, hyperparameters),
        *(horizon, outer_every),
    )
    if isinstance(search_space, keras.Model) and not find_decisions(
        search_space
    ):
        combinations.check_decides(strategy, search_space)
        # There is nothing to decide, nor to hold out for it.
        parts = parts._replace(strategy=None)
    return Settings(
        builder=space_builder(search_space, target is not None),
        # A target says how large a network is to be.
        fits_time=search_space == "auto" and target is None,
        leaves_search=method == strategy == "auto",
        parts=parts,
        base_schedule=schedules.checked(base_schedule),
        target=Target.of(target),
        search_split=search_split,
        outer_every=parts.outer_every,
        seed=int(seed),
        optimizer=optimizers.read(None),
        asked=asked,
    )
