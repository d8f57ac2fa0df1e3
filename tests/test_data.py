"""Every fact about the data is checked against arrays made by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_dha import data
from keras_dha.data_spec import DataSpec


def images(count=12, shape=(6, 5, 3), low=0.0, high=1.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, (count, *shape)).astype("float32")
    x.ravel()[:2] = low, high
    return x


def labels(count=12, classes=3):
    return np.arange(count) % classes


def dataset(x, y, batch_size=None):
    made = tf.data.Dataset.from_tensor_slices((x, y))
    return made if batch_size is None else made.batch(batch_size)


def as_arrays(x, y):
    return (x, y)


def as_dataset(x, y):
    return (dataset(x, y),)


def as_batched_dataset(x, y):
    return (dataset(x, y, 5),)


every_form = pytest.mark.parametrize(
    "form",
    [as_arrays, as_dataset, as_batched_dataset],
    ids=["arrays", "dataset", "batched"],
)


@every_form
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
def test_shape_classes_and_count_are_inferred(form, shape):
    spec = data.inspect(*form(images(shape=shape), labels()))
    assert spec.shape == shape
    assert spec.num_classes == 3
    assert spec.one_hot is False
    assert spec.count == 12
    assert spec.is_image


@every_form
def test_one_hot_labels_are_recognised(form):
    rows = np.eye(4, dtype="float32")[labels()]
    spec = data.inspect(*form(images(), rows))
    assert spec.one_hot is True
    assert spec.num_classes == 4  # the width, although only 3 occur


def test_a_column_of_integers_counts_as_integers():
    spec = data.inspect(images(), labels()[:, None])
    assert (spec.one_hot, spec.num_classes) == (False, 3)


def test_soft_labels_count_as_one_hot():
    rows = np.full((12, 3), 0.1, "float32")
    rows[np.arange(12), labels()] = 0.8
    spec = data.inspect(images(), rows)
    assert (spec.one_hot, spec.num_classes) == (True, 3)


def test_vectors_are_no_images():
    spec = data.inspect(images(shape=(7,)), labels())
    assert spec.shape == (7,)
    assert not spec.is_image


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.0, 1.0, (0.0, 1.0)),
        (0.0, 0.9, (0.0, 1.0)),
        # As rounding and resampling leave them.
        (-1e-7, 1.0 + 1e-6, (0.0, 1.0)),
        (-0.01, 0.99, (0.0, 1.0)),
        (-0.3, 0.99, (-1.0, 1.0)),
        (-1.0, 1.0, (-1.0, 1.0)),
        (0.0, 16.0, (0.0, 16.0)),  # scikit-learn's digits
        (3.0, 250.0, (0.0, 255.0)),
        (-2.5, 2.25, (-2.5, 2.25)),  # standardised: as measured
        (0.0, 4095.0, (0.0, 4095.0)),  # 12 bits
    ],
)
@every_form
def test_value_range(form, low, high, expected):
    x = images(low=low, high=high)
    assert data.inspect(*form(x, labels())).value_range == expected


@every_form
def test_uint8_ranges_over_a_byte_whatever_the_pixels(form):
    x = images(high=17.0).astype("uint8")
    assert data.inspect(*form(x, labels())).value_range == (0.0, 255.0)


@pytest.mark.parametrize("high", [1, 16])
def test_bytes_of_a_few_levels_have_their_own_range(high):
    """As drawings of 0 and 1, which fills of 128 would be far from."""
    x = images(high=high).astype("uint8")
    assert data.inspect(x, labels()).value_range == (0.0, high)


def test_facts_come_from_all_the_data():
    x, y = images(5000, (2, 2), high=0.5), np.zeros(5000, int)
    x[-1, 0, 0], y[-1] = 200.0, 1
    spec = data.inspect(x, y)
    assert (spec.num_classes, spec.value_range) == (2, (0.0, 255.0))
    x[4097, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN.*1 such values.*4096\.\.4999"):
        data.inspect(x, y)


def test_a_given_number_of_classes_need_not_all_occur():
    assert data.inspect(images(), labels(), num_classes=7).num_classes == 7


@pytest.mark.parametrize("batch_size", [None, 4])
def test_an_endless_dataset_is_looked_at_for_some_steps(batch_size):
    endless = dataset(images(), labels(), batch_size).repeat()
    spec = data.inspect(endless, steps=3)
    assert (spec.shape, spec.num_classes) == ((6, 5, 3), 3)
    assert spec.count == (12 if batch_size else 3 * 256)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_an_endless_dataset_needs_steps(batch_size):
    with pytest.raises(ValueError, match="endless.*`steps_per_epoch`"):
        data.inspect(dataset(images(), labels(), batch_size).repeat())


def test_a_generator_that_does_not_end_is_looked_at_for_some_steps():
    x, y = images(4), labels(4)

    def forever():
        while True:
            yield x, y

    stream = tf.data.Dataset.from_generator(
        forever,
        output_signature=(
            tf.TensorSpec((4, 6, 5, 3), tf.float32),
            tf.TensorSpec((4,), tf.int64),
        ),
    )
    assert data.inspect(stream, steps=2).count == 8


# Bad input


@every_form
def test_no_examples(form):
    with pytest.raises(ValueError, match="no examples"):
        data.inspect(*form(images(3)[:0], labels(3)[:0]))


@every_form
@pytest.mark.parametrize("one_hot", [False, True])
def test_one_class(form, one_hot):
    y = np.full(12, 1)
    if one_hot:
        y = np.eye(3, dtype="float32")[y]
    with pytest.raises(ValueError, match="two classes.*only label 1"):
        data.inspect(*form(images(), y))


@every_form
def test_negative_labels(form):
    with pytest.raises(ValueError, match="from 0.*smallest label -1"):
        data.inspect(*form(images(), labels() - 1))


@every_form
def test_labels_with_gaps(form):
    with pytest.raises(ValueError, match="large gaps.*up to 1000$"):
        data.inspect(*form(images(), labels() * 500))


def partly_seen(y):
    return dataset(images(), y, 3).repeat()


@pytest.mark.parametrize("y", [labels() * 500, np.arange(12) // 7])
def test_too_few_classes_of_a_dataset_that_is_partly_seen(y):
    told = "one-hot labels, a `keras.Model`.*larger `steps_per_epoch`. Rec"
    with pytest.raises(ValueError, match=told):
        data.inspect(partly_seen(y), steps=2)


def test_classes_that_are_known_need_not_be_seen():
    y = np.arange(12) // 7
    assert data.inspect(partly_seen(y), steps=2, num_classes=9).num_classes == 9
    assert data.inspect(partly_seen(np.eye(5)[y]), steps=2).num_classes == 5


@every_form
def test_labels_beyond_the_known_classes(form):
    x, y = images(), labels()
    y[3] = 3
    with pytest.raises(ValueError, match=r"classes 0\.\.2.*up to 3"):
        data.inspect(*form(x, y), num_classes=3)


@every_form
@pytest.mark.parametrize("width", [3, 5])
def test_rows_of_another_width_than_the_known_classes(form, width):
    rows = np.eye(width, dtype="float32")[labels()]
    message = rf"classes 0\.\.3.*{width} columns"
    with pytest.raises(ValueError, match=message):
        data.inspect(*form(images(), rows), num_classes=4)


@every_form
@pytest.mark.parametrize("bad", [0.5, np.nan, np.inf])
def test_labels_that_are_no_integers(form, bad):
    y = labels().astype("float32")
    y[4] = bad
    with pytest.raises(ValueError, match="must be integers"):
        data.inspect(*form(images(), y))


def test_labels_that_are_names():
    y = np.array(["cat", "dog"] * 6)
    for names in (y, y.astype(object)):
        with pytest.raises(ValueError, match="must be integers.*np.unique"):
            data.inspect(images(), names)
    with pytest.raises(ValueError, match="must be integers.*np.unique"):
        data.inspect(dataset(images(), y))


@every_form
def test_rows_that_are_not_one_hot(form):
    rows = np.eye(3, dtype="float32")[labels()]
    rows[2] = 1.0
    with pytest.raises(ValueError, match="sum to 1.*3"):
        data.inspect(*form(images(), rows))


@pytest.mark.parametrize("form", [as_arrays, as_batched_dataset])
def test_labels_of_wrong_rank(form):
    with pytest.raises(ValueError, match=r"Labels must be.*\(n, classes\)"):
        data.inspect(*form(images(), np.zeros((12, 4, 4))))


@every_form
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(form, bad):
    x = images()
    x[7, 2, 3, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite.*1 such values"):
        data.inspect(*form(x, labels()))


@every_form
@pytest.mark.parametrize("value", [0.25, np.uint8(9)])
def test_pixels_that_are_all_the_same(form, value):
    with pytest.raises(ValueError, match=f"nothing to learn.*{value}"):
        data.inspect(*form(np.full((12, 6, 5, 3), value), labels()))


def test_a_dataset_of_file_names():
    names = tf.data.Dataset.from_tensor_slices((["a.png", "b.png"], [0, 1]))
    with pytest.raises(ValueError, match=r"must be numbers.*b'a\.png'"):
        data.inspect(names)


def test_classes_of_one_hot_rows_of_unknown_width():
    signature = [tf.TensorSpec([None, None])]
    found = tf.function(data.class_ids, input_signature=signature)(
        tf.one_hot([2, 0, 1], 4)
    )
    np.testing.assert_array_equal(found, [2, 0, 1])


def of_two_sizes(batched):
    def batches():
        for size in (6, 6, 8):
            shape = (4, size, 6, 1) if batched else (size, 6, 1)
            yield (
                np.random.default_rng(0).random(shape),
                (labels(4) if batched else size % 5),
            )

    shape, label = (None, None, 1), ()
    if batched:
        shape, label = (None, None, None, 1), (None,)
    return tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec(shape, tf.float32),
            tf.TensorSpec(label, tf.int64),
        ),
    )


@pytest.mark.parametrize("batched", [False, True])
def test_a_batch_shape_that_changes(batched):
    with pytest.raises(
        ValueError, match="All images must have one shape"
    ) as raised:
        data.inspect(of_two_sizes(batched))
    if not batched:
        # TensorFlow's own error, which says where it came from.
        assert "Cannot batch" in raised.value.__cause__.message


def test_images_of_several_shapes_that_are_mapped_and_batched_at_once():
    """As datasets are optimised to do, with words of its own."""
    at_once = tf.data.experimental.map_and_batch(
        lambda k: (tf.zeros([4 + k % 2, 6, 1]), k % 3), batch_size=3
    )
    with pytest.raises(
        ValueError, match="All images must have one shape"
    ) as raised:
        data.inspect(tf.data.Dataset.range(6).apply(at_once))
    assert "Cannot add tensor to" in raised.value.__cause__.message


@pytest.mark.parametrize("batch_size", [None, 4])
def test_an_error_inside_a_dataset_says_what_it_says(batch_size):
    def refusing(x, y):
        with tf.control_dependencies(
            [tf.debugging.assert_less(y, tf.ones_like(y), "labels of mine")]
        ):
            return tf.identity(x), y

    failing = dataset(images(), labels(), batch_size).map(refusing)
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels of mine"):
        data.inspect(failing)


def test_arrays_of_several_sizes():
    x = np.empty(12, object)
    x[:] = [np.zeros((4 + k % 2, 4)) for k in range(12)]
    with pytest.raises(ValueError, match="images of several sizes"):
        data.inspect(x, labels())


def test_arrays_of_different_length():
    with pytest.raises(ValueError, match=r"same number.*\(12, .*\(11,\)"):
        data.inspect(images(), labels(11))


@pytest.mark.parametrize("y", [None, "missing"])
def test_arrays_without_labels(y):
    arguments = (images(),) if y == "missing" else (images(), None)
    with pytest.raises(ValueError, match="Expected arrays.*y of type None"):
        data.inspect(*arguments)


def test_a_dataset_and_labels_beside_it():
    with pytest.raises(ValueError, match="`y` must be None"):
        data.inspect(dataset(images(), labels()), labels())


def test_a_dataset_without_labels():
    with pytest.raises(ValueError, match=r"\(image, label\) pairs"):
        data.inspect(tf.data.Dataset.from_tensor_slices(images()))


def test_a_dataset_of_unknown_rank():
    unknown = dataset(images(), labels()).map(
        lambda x, y: (tf.py_function(lambda x: x, [x], tf.float32), y)
    )
    with pytest.raises(ValueError, match="known rank.*ensure_shape"):
        data.inspect(unknown)


# Batched or not


@pytest.mark.parametrize(
    "image, label, dtype, batched",
    [
        ((8, 8, 3), (), tf.int64, False),
        ((8, 8), (), tf.int64, False),
        ((5,), (), tf.int64, False),
        ((8, 8, 3), (1,), tf.int64, False),
        ((8, 8, 3), (10,), tf.float32, False),
        ((10, 10, 3), (10,), tf.float32, False),  # ten classes, ten rows
        ((10, 10), (10,), tf.float32, False),
        ((5,), (3,), tf.float32, False),
        # Images of any size, as `tf.io.decode_jpeg` gives them.
        ((None, None, 3), (), tf.int64, False),
        ((None, None, 3), (1,), tf.int64, False),
        ((None, None, 3), (10,), tf.float32, False),
        ((None, 8, 3), (None,), tf.int64, True),
        ((None, 8, 8, 3), (None,), tf.int64, True),
        ((None, 8, 8), (None,), tf.int64, True),
        ((None, 5), (None,), tf.int64, True),
        ((32, 8, 8, 3), (32,), tf.int64, True),
        ((32, 8, 8), (32,), tf.int64, True),
        ((32, 8, 8), (32,), tf.uint8, True),
        ((None, 8, 8, 3), (None, 10), tf.float32, True),
        ((10, 8, 8), (10, 10), tf.float32, True),
        ((None, 8, 8, 3), (None, 1), tf.int64, True),
    ],
)
def test_is_batched(image, label, dtype, batched):
    spec = tf.TensorSpec(image, tf.float32), tf.TensorSpec(label, dtype)
    assert data.is_batched(spec) is batched


def test_a_single_pass_reads_a_dataset_once():
    """Decoding images is dear: nothing but this pass may read them."""
    seen = []

    def rows():
        for k in range(12):
            seen.append(k)
            yield images()[k], k % 3

    stream = tf.data.Dataset.from_generator(
        rows,
        output_signature=(
            tf.TensorSpec((6, 5, 3), tf.float32),
            tf.TensorSpec((), tf.int64),
        ),
    )
    data.inspect(stream)
    assert seen == list(range(12))


def test_facts_of_several_inputs_and_outputs_have_their_form():
    x = {"image": images(), "vector": np.arange(36.0).reshape(12, 3)}
    y = (labels(), np.eye(4)[np.arange(12) % 4])
    arrays = data.inspect(x, y)
    assert arrays.shape == {"image": (6, 5, 3), "vector": (3,)}
    assert arrays.num_classes == [3, 4]
    assert arrays.one_hot == [False, True]
    assert arrays.value_range["vector"] == (0.0, 35.0)
    assert (arrays.count, arrays.image, arrays.is_single) == (12, 0, False)
    for dataset_ in (
        tf.data.Dataset.from_tensor_slices((x, y)),
        tf.data.Dataset.from_tensor_slices((x, y)).batch(5),
    ):
        assert data.inspect(dataset_).is_like(arrays)
    again = DataSpec.from_json(json.loads(json.dumps(arrays._asdict())))
    assert again == arrays
    assert data.inspect(tuple(x.values()), y).shape == [(6, 5, 3), (3,)]
    # Of two images none is the one.
    assert data.inspect((images(), images()), labels()).image is None


def test_elements_with_parts_of_parts():
    nested = {"a": {"b": images()}}
    with pytest.raises(ValueError, match="dict or a tuple of"):
        data.inspect(tf.data.Dataset.from_tensor_slices((nested, labels())))


def test_one_constant_input_among_several():
    x = (np.ones((12, 2)), images())
    assert data.inspect(x, labels()).value_range[0] == (0.0, 1.0)
    with pytest.raises(ValueError, match="nothing to learn"):
        data.inspect((np.ones((12, 2)), np.zeros((12, 3))), labels())


@pytest.mark.parametrize(
    ("largest", "dtype"), [(2**24, "float32"), (2**24 + 1, "int64")]
)
def test_integers_that_float32_would_round_are_kept(largest, dtype):
    x, _ = data.checked_arrays(np.array([[3], [largest]]), np.array([0, 1]))
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, [[3], [largest]])


def test_a_generator_that_does_not_end_is_noticed(monkeypatch):
    monkeypatch.setattr(data, "LONG", 0.0)
    batches_ = tf.data.Dataset.from_tensor_slices((images(), labels())).batch(4)
    assert data.inspect(batches_).count == len(labels())
    unknown = batches_.filter(lambda *_: True)
    with pytest.warns(UserWarning, match="not ended yet.*steps_per_epoch"):
        assert data.inspect(unknown).count == len(labels())
