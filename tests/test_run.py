"""What a run does at its end, apart from what `AutoModel` shows."""

import keras
import numpy as np
import pytest

from keras_dha import calibration
from keras_dha.nested_layers import find_layers
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model


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
