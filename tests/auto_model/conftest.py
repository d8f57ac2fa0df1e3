"""Fixtures of the tests of `AutoModel`."""

import pytest

from keras_dha import run_directory
from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model


@pytest.fixture(scope="session")
def fitted():
    """A run with all three searches; tests must not train it further."""
    model = joint_auto_model()
    fit(model)
    return model


@pytest.fixture
def every_epoch(monkeypatch):
    """Checkpoints after every epoch, whatever they cost."""
    monkeypatch.setattr(run_directory, "_SHARE", 1e9)
