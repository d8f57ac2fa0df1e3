"""Data to evaluate on, which are to be like those that were trained on."""

import numpy as np
import pytest

from keras_dha import data
from keras_dha import evaluable_data
from tests.test_data import dataset
from tests.test_data import every_form
from tests.test_data import images
from tests.test_data import labels


@pytest.fixture(scope="module")
def spec():
    return data.inspect(images(), labels())


def test_evaluation_data_pass_as_they_are(spec):
    x, y = evaluable_data.evaluable(
        images(5), labels(5) * 0, spec
    )  # one class is fine
    np.testing.assert_array_equal(x, images(5))
    np.testing.assert_array_equal(y, np.zeros(5))
    for batch_size in (None, 2):
        given = dataset(images(5), labels(5), batch_size)
        batched, nothing = evaluable_data.evaluable(given, None, spec)
        assert nothing is None
        seen = [x for x, _ in batched.as_numpy_iterator()]
        np.testing.assert_array_equal(np.concatenate(seen), images(5))


@pytest.mark.parametrize(
    "x, y, message",
    [
        (images(shape=(6, 4, 3)), labels(), r"look like.*\(6, 4, 3\).*\(6, 5,"),
        (images(shape=(6, 5)), labels(), r"look like.*\(6, 5\), one_hot=F"),
        (images(), np.eye(3)[labels()], "look like.*one_hot=True;"),
    ],
)
@every_form
def test_evaluation_data_of_another_kind(form, x, y, message, spec):
    given = form(x, y)
    with pytest.raises(ValueError, match=message):
        evaluable_data.evaluable(
            *(given if len(given) == 2 else (*given, None)), spec
        )


@pytest.mark.parametrize(
    "x, y, message",
    [
        (images(), labels() + 1, r"classes 0\.\.2.*up to 3"),
        (images(), labels() - 1, "smallest label -1"),
        (np.nan * images(), labels(), "NaN"),
        (images()[:0], labels()[:0], "no examples"),
        (images(), labels(11), "same number"),
        (images(), None, "Expected arrays"),
    ],
)
def test_evaluation_arrays_that_are_wrong(x, y, message, spec):
    with pytest.raises(ValueError, match=message):
        evaluable_data.evaluable(x, y, spec)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_evaluation_data_without_an_end(batch_size, spec):
    given = dataset(images(5), labels(5), batch_size)
    with pytest.raises(ValueError, match=r"must end.*`dataset.take\(n\)`"):
        evaluable_data.evaluable(given.repeat(), None, spec)
    evaluable_data.evaluable(given.repeat().take(3), None, spec)
    # What does not say whether it ends is taken to.
    evaluable_data.evaluable(given.filter(lambda *_: True), None, spec)
