"""Data to evaluate on, which are to be like those that were trained on."""

import numpy as np
import pytest
import tensorflow as tf

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


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_dataset_that_says_that_it_is_empty(batch_size, spec):
    given = dataset(images(5), labels(5), batch_size).take(0)
    with pytest.raises(ValueError, match="drop_remainder.*cardinality 0"):
        evaluable_data.evaluable(given, None, spec)


def generated(x, y, shape=(None, None, None)):
    """A dataset of batches that says nothing of its length."""
    return tf.data.Dataset.from_generator(
        lambda: ((x[k : k + 5], y[k : k + 5]) for k in range(0, len(x), 5)),
        output_signature=(
            tf.TensorSpec((None, *shape), "float32"),
            tf.TensorSpec((None,), "int64"),
        ),
    )


@pytest.mark.parametrize(
    "x, y, message",
    [
        (images(), labels() + (np.arange(12) > 9), r"classes 0\.\.2.*up to 3"),
        (images(), labels() - 1, "smallest label -1"),
        (np.nan * images(), labels(), "NaN"),
        (images()[:0], labels()[:0], "no examples"),
        (images(shape=(6, 4, 3)), labels(), r"look like.*\(6, 4, 3\).*\(6, 5,"),
    ],
)
def test_a_dataset_to_validate_on_is_looked_through(x, y, message, spec):
    evaluable_data.evaluable(generated(x, y), None, spec)
    with pytest.raises(ValueError, match=message):
        evaluable_data.validatable(generated(x, y), None, spec)


def test_a_dataset_to_validate_on_that_can_be_read_once(spec):
    once = iter([(images(), labels())])
    signature = (
        tf.TensorSpec((None, 6, 5, 3), "float32"),
        tf.TensorSpec((None,), "int64"),
    )
    given = tf.data.Dataset.from_generator(
        lambda: once, output_signature=signature
    )
    with pytest.raises(ValueError, match="new generator each time.*second"):
        evaluable_data.validatable(given, None, spec)


@every_form
def test_data_to_validate_on_pass_as_they_are(form, spec):
    given = form(images(5), labels(5) * 0)  # one class is fine
    given = given if len(given) == 2 else (*given, None)
    found, _ = evaluable_data.validatable(*given, spec)
    assert len(list(found)) in (1, 5)
