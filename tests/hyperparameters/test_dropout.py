"""`keras_dha.Dropout`: a relaxed mask while its rate is learned."""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_dha
from keras_dha.hyperparameters import own


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_relaxed_mask_keeps_what_dropout_keeps(rate):
    layer = keras_dha.Dropout(0.3, seed=0)
    x = tf.ones((200, 100))
    with own.given({"dropout_rate": tf.constant(rate)}) as used:
        y = layer(x, training=True).numpy() * (1 - rate)
    assert used == {"dropout_rate"}
    assert np.mean(y > 0.5) == pytest.approx(1 - rate, abs=0.01)
    # Near to 0 or 1 for the most part.
    assert np.mean((y < 0.1) | (y > 0.9)) > 0.75


def test_dropout_is_keras_own_where_no_rate_is_learned():
    ours, theirs = keras_dha.Dropout(0.3, seed=1), layers.Dropout(0.3, seed=1)
    x = tf.ones((20, 10))
    with own.given({}):
        np.testing.assert_array_equal(
            ours(x, training=True), theirs(x, training=True)
        )
    with own.given({"dropout_rate": tf.constant(0.9)}):
        np.testing.assert_array_equal(ours(x, training=False), x)
    with pytest.raises(ValueError, match="`rate` must be in"):
        keras_dha.Dropout(0.0)
