"""Fixtures of the tests of `AutoModel`."""

import pytest

from tests.auto_model.small_runs import fit
from tests.auto_model.small_runs import joint_auto_model


@pytest.fixture(scope="session")
def fitted():
    """A run with all three searches; tests must not train it further."""
    model = joint_auto_model()
    fit(model)
    return model
