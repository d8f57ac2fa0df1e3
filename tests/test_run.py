"""What a run does at its end, apart from what `AutoModel` shows."""

import keras
import numpy as np
import pytest

from keras_dha import calibration
from keras_dha import outer_steps
from keras_dha.auto_model import AutoModel
from keras_dha.nested_layers import find_layers
from tests.auto_model.small_runs import X_NEW
from tests.auto_model.small_runs import Y_NEW
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model
from tests.auto_model.small_runs import space


def final_statistics():
    model = joint_auto_model(strategy=None)
    fit(model, epochs=1)
    network = model.export_model()
    return [
        v.numpy()
        for layer in find_layers(network, keras.layers.BatchNormalization)
        for v in layer.non_trainable_variables
    ]


@pytest.mark.parametrize("clean_is_better", [True, False])
def test_the_search_split_chooses_the_statistics(monkeypatch, clean_is_better):
    losses = iter([1.0, 0.5] if clean_is_better else [0.5, 1.0])
    with monkeypatch.context() as patched:
        patched.setattr(calibration, "search_loss", lambda *_: next(losses))
        chosen = final_statistics()
    # Without the choice, the statistics are those of augmented images.
    monkeypatch.setattr(calibration, "choose_statistics", lambda *_: None)
    augmented = final_statistics()
    same = [
        np.allclose(a, b, rtol=1e-3)
        for a, b in zip(chosen, augmented, strict=True)
    ]
    assert all(same) != clean_is_better


class Clean(keras.callbacks.Callback):
    """Notes after each step what share of the images nothing is done to.

    And how many outer steps there have been.
    """

    def __init__(self):
        super().__init__()
        self.shares, self.outer_steps = [], []

    def on_train_batch_end(self, batch, logs=None):
        policy = self.model.joint.policy
        self.shares.append(float(policy.clean.numpy()))
        self.outer_steps.append(int(policy.count.numpy()))


def test_augmentation_fades_out_at_the_end_of_a_run(tmp_path):
    model = AutoModel(space, strategy=None, seed=1)
    for _ in range(2):
        # The second run begins as the first one did, from a file as well.
        noted = Clean()
        fit(model, epochs=4, callbacks=[noted])
        shares = np.array(noted.shares)
        # Of 20 steps the last six, in each as much less as in the last one.
        np.testing.assert_allclose(shares[:15], 0.1, atol=1e-6)
        np.testing.assert_allclose(np.diff(shares[14:]), 0.9 / 6, atol=0.01)
        model.save(tmp_path / "run.keras", overwrite=True)
        model = AutoModel.load(tmp_path / "run.keras")


def test_while_augmentation_fades_out_nothing_is_learned_but_weights():
    model = AutoModel(space, strategy=None, outer_every=1, seed=1)
    noted = Clean()
    logs = fit(model, epochs=4, callbacks=[noted]).history
    assert noted.outer_steps == [*range(1, 15)] + [14] * 6
    # Of the last five steps none is an outer one, of the five before four are.
    assert logs["weight_decay"][-1] == logs["weight_decay"][-2]
    assert logs["weight_decay"][-2] != logs["weight_decay"][-3]


def test_outer_steps_are_spread_over_what_comes_before(monkeypatch):
    monkeypatch.setattr(outer_steps, "ENOUGH", 7)
    monkeypatch.setattr(outer_steps, "CLOSEST", 1)
    model = AutoModel(space, strategy=None, seed=1)
    noted = Clean()
    fit(model, epochs=4, callbacks=[noted])
    # Of 20 steps every second one of the first 14.
    assert np.flatnonzero(np.diff([0, *noted.outer_steps])).tolist() == [
        *range(0, 14, 2)
    ]


def test_a_layer_of_the_user_is_carried_out_to_the_end():
    model = joint_auto_model(strategy=None, outer_every=1)
    noted = Clean()
    fit(model, epochs=2, callbacks=[noted])
    assert set(noted.shares) == {0.0}
    assert noted.outer_steps == [*range(1, 11)]


def test_images_to_be_judged_by_may_be_unlike_clean_ones():
    model = AutoModel(space, strategy=None, outer_every=1, seed=1)
    noted = Clean()
    fit(model, epochs=2, callbacks=[noted], search_data=(X_NEW, Y_NEW))
    np.testing.assert_allclose(noted.shares, 0.1, atol=1e-6)
    assert noted.outer_steps == [*range(1, 1 + len(noted.shares))]
