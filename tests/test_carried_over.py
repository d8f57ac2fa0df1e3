"""What a joint model learned goes on in the one that takes its place."""

import keras
import numpy as np
import pytest

from keras_dha import small_images
from keras_dha.architecture.strategies import DSNAS
from keras_dha.augmentation.layer import DifferentiableAugmentation
from keras_dha.carried_over import derived
from keras_dha.carried_over import on_whole_images
from keras_dha.update_rules import AdamW
from tests.test_joint_model import LEARNED
from tests.test_joint_model import joint_model
from tests.test_joint_model import small_network


def searched():
    return {"network": small_network(choice=True), "strategy": DSNAS()}


def shrunk():
    """A network that is shown small images, without a search."""
    inputs = keras.Input((20, 20, 2))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, keras.layers.Dense(3)(x))
    return {"network": small_images.shrunk(network)}


def beside_the_network(joint):
    """All variables but the network's, its choices' and the policy's logits.

    These are the same ones, or have no use any more.
    """
    parts = joint.network, joint.architecture, joint.policy.augmentation
    left_out = {id(v) for part in parts for v in part.variables}
    return [v for v in joint.variables if id(v) not in left_out]


@pytest.mark.parametrize(
    "made, change",
    [(searched, derived), (shrunk, on_whole_images)],
)
def test_all_that_was_learned_goes_on(made, change):
    augmentation = DifferentiableAugmentation(
        ["Rotate", "Invert"], levels=2, estimator="relax"
    )
    augmentation.build((None, 20, 20, 2))
    before = joint_model(
        LEARNED, **made(), rule=AdamW(), augmentation=augmentation
    )
    rng = np.random.default_rng(0)
    variables = beside_the_network(before)
    assert {
        *("step", "count", "counts", "first", "second", "start", "direction"),
        *("averaged", "clean", "credit", "seen", "position", "tangent"),
        *("tangent_averaged", "tangent_radial", "average"),
    } <= {v.name for v in variables}
    for variable in variables:
        variable.assign(rng.uniform(1.0, 100.0, variable.shape))
    vector = before.weight_vector
    after = change(before)
    kept = {id(v) for v in after.weight_vector.variables}
    for ours, theirs in zip(variables, beside_the_network(after), strict=True):
        assert theirs.name == ours.name
        expected = ours.numpy()
        # What there is of each weight goes with it.
        if expected.shape == (vector.size,):
            weights = zip(vector.variables, vector.split(expected), strict=True)
            parts = [np.ravel(part) for v, part in weights if id(v) in kept]
            expected = np.concatenate(parts)
        np.testing.assert_array_equal(theirs, expected, err_msg=ours.path)
