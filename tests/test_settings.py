import keras
import numpy as np
import pytest

import keras_dha

FIXED = {"strategy": None, "hyperparameters": None}


def learns(is_image=True, **arguments):
    model = keras_dha.AutoModel(**arguments)
    return model.settings.learns_from_search_data(is_image)


def policy(trainable):
    return keras_dha.DifferentiableAugmentation(trainable=trainable)


@pytest.mark.parametrize(
    "arguments",
    [
        {**FIXED, "augmentation": "auto"},
        {**FIXED, "augmentation": policy(True)},
        {"method": "dha", "hyperparameters": None},
        {"method": "diffautoml", "hyperparameters": None},
        {"strategy": None, "augmentation": None},
        {
            **FIXED,
            "augmentation": None,
            "strategy": keras_dha.strategies.DARTS(),
        },
        {"method": "autohas", "hyperparameters": None},
    ],
)
def test_what_is_judged_needs_a_search_split(arguments):
    assert learns(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {**FIXED, "augmentation": None},
        {**FIXED, "augmentation": policy(False)},
        {"method": "dsnas"},
    ],
)
def test_what_is_given_holds_nothing_out(arguments):
    assert not learns(**arguments)


def test_a_network_without_choices_holds_nothing_out_for_a_strategy():
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, activation="softmax")]
    )
    assert not learns(search_space=network, method="darts")
    assert learns(search_space=network, method="auto")


def test_vectors_have_no_policy():
    assert not learns(is_image=False, **FIXED, augmentation="auto")


def test_images_with_their_channels_first_are_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="'channels_first'"):
            keras_dha.AutoModel()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_a_strategy_without_choices_is_refused():
    def network(shape=(8, 8, 1), classes=3):
        return keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Flatten(),
                keras.layers.Dense(classes),
            ]
        )

    strategy = keras_dha.strategies.GDAS()
    with pytest.raises(ValueError, match="strategy=GDAS for the model 'seq"):
        keras_dha.AutoModel(network(), strategy=strategy)
    model = keras_dha.AutoModel(network, strategy=strategy)
    with pytest.raises(ValueError, match="needs choices to make"):
        model.fit(np.eye(64).reshape(-1, 8, 8, 1), np.arange(64) % 3)


def test_a_horizon_of_nothing_is_refused():
    with pytest.raises(ValueError, match="A horizon is of hyperparameters"):
        keras_dha.AutoModel(hyperparameters=None, horizon="one_step")
