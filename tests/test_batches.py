"""Batches and splits are checked by counting which examples come out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dha import batches
from keras_dha import data
from keras_dha.form import Form

COUNT, CLASSES = 400, 4


def numbered(count=COUNT):
    """Examples that can be told apart: example k is full of the number k."""
    x = np.ones((count, 4, 4, 1), "float32")
    x *= np.arange(count)[:, None, None, None]
    return x, np.arange(count) % CLASSES


def numbers(x):
    return np.asarray(x)[:, 0, 0, 0].astype(int)


def stream(x=None, y=None):
    if x is None:
        x, y = numbered()
    return tf.data.Dataset.from_tensor_slices((x, y))


def numbers_of(dataset):
    return [int(x[0, 0, 0]) for x, _ in dataset.as_numpy_iterator()]


# The split of arrays


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_array_split_is_disjoint_complete_and_stratified(share):
    x, y = numbered()
    spec = data.inspect(x, y)
    (x1, y1), (x2, y2) = batches.split_arrays(x, y, spec, share, seed=3)
    first, second = numbers(x1), numbers(x2)
    assert sorted([*first, *second]) == list(range(COUNT))
    np.testing.assert_array_equal(y1, first % CLASSES)
    np.testing.assert_array_equal(y2, second % CLASSES)
    for label in range(CLASSES):
        assert np.sum(y2 == label) == round(share * COUNT / CLASSES)


def test_array_split_follows_the_seed():
    x, y = numbered()
    spec = data.inspect(x, y)

    def held_out(seed):
        return numbers(batches.split_arrays(x, y, spec, 0.1, seed)[1][0])

    np.testing.assert_array_equal(held_out(1), held_out(1))
    assert set(held_out(1)) != set(held_out(2))


def test_array_split_of_one_hot_labels_is_that_of_the_integers():
    x, y = numbered()
    rows = np.eye(CLASSES)[y]
    integers = batches.split_arrays(x, y, data.inspect(x, y), 0.1, 3)[1]
    one_hot = batches.split_arrays(x, rows, data.inspect(x, rows), 0.1, 3)[1]
    np.testing.assert_array_equal(numbers(integers[0]), numbers(one_hot[0]))
    np.testing.assert_array_equal(np.eye(CLASSES)[integers[1]], one_hot[1])


def test_array_split_leaves_rare_classes_in_both_parts():
    x, _ = numbered(100)
    y = np.r_[np.zeros(97, int), [1, 1, 2]]  # two of class 1, one of class 2
    parts = batches.split_arrays(x, y, data.inspect(x, y), 0.1, 0)
    (_, y1), (_, y2) = parts
    assert sorted(set(y1)) == [0, 1, 2]
    assert sorted(set(y2)) == [0, 1]


def test_array_split_of_many_small_classes_stays_near_its_share():
    x, _ = numbered(300)
    y = np.arange(300) // 3
    spec = data.inspect(x, y)
    (_, y1), (_, y2) = batches.split_arrays(x, y, spec, 0.05, 0)
    assert len(y2) == len(set(y2)) == 30
    assert len(y1) == 270
    # One at least, if that is less than a class has.
    spec = data.inspect(x[:6], y[:6])
    (_, y1), (_, y2) = batches.split_arrays(x[:6], y[:6], spec, 0.05, 0)
    assert (len(y1), len(y2)) == (5, 1)


# The split of datasets


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dataset_split_is_disjoint_complete_and_about_right(share):
    first, second = batches.split_dataset(stream(), share)
    first, second = numbers_of(first), numbers_of(second)
    assert sorted(first + second) == list(range(COUNT))
    # Binomial: five standard deviations around the share.
    slack = 5 * np.sqrt(COUNT * share * (1 - share))
    assert abs(len(second) - share * COUNT) < slack


def test_dataset_split_stays_the_same_however_it_is_shuffled():
    shuffled = stream().shuffle(COUNT, seed=1, reshuffle_each_iteration=True)
    first, second = batches.split_dataset(shuffled, 0.2)
    order, held_out = numbers_of(second), set(numbers_of(second))
    assert numbers_of(second) != order  # it is shuffled anew indeed
    for _ in range(2):
        assert set(numbers_of(second)) == held_out
        assert not held_out & set(numbers_of(first))
    assert held_out == set(numbers_of(batches.split_dataset(stream(), 0.2)[1]))


# Batches of arrays


def epoch_numbers(made, epoch, epochs=1):
    start = epoch * made.steps
    taken = made.dataset(start).take(made.steps * epochs)
    got = [(numbers(x), y) for x, y in taken.as_numpy_iterator()]
    for x, y in got:
        np.testing.assert_array_equal(x % CLASSES, y)
    return np.array([x for x, _ in got])


def test_every_epoch_is_a_full_permutation():
    made = batches.ArrayBatches(*numbered(), batch_size=40, seed=0)
    assert made.steps == 10
    seen = [epoch_numbers(made, epoch) for epoch in range(2)]
    for order in seen:
        assert order.shape == (10, 40)
        assert sorted(order.ravel()) == list(range(COUNT))
    assert not np.array_equal(*seen)
    assert not np.array_equal(seen[0].ravel(), np.arange(COUNT))


def test_arrays_stay_in_the_memory_of_the_host():
    """The second logical processor stands in for a GPU."""
    x, y = numbered()
    with tf.device("CPU:1"):
        assert tf.constant(x).device.endswith("CPU:1")
        made = batches.ArrayBatches({"a": x, "b": x}, y, 40, seed=0)
    for part in keras.tree.flatten(made._data):
        assert part.device.endswith("CPU:0")


def test_batches_are_full_and_do_not_repeat_within_an_epoch():
    made = batches.ArrayBatches(*numbered(50), batch_size=16, seed=0)
    order = epoch_numbers(made, 0)
    assert order.shape == (3, 16)
    assert len(set(order.ravel())) == 48


def test_batches_do_not_end_after_the_epoch():
    made = batches.ArrayBatches(*numbered(40), batch_size=8, seed=0)
    order = epoch_numbers(made, 0, epochs=3).reshape(3, 40)
    for permutation in order:
        assert sorted(permutation) == list(range(40))
    assert not np.array_equal(order[0], order[1])


def test_same_key_same_order_whatever_else_was_seeded():
    """So a run that was loaded in a new process goes on as it would have."""
    made = batches.ArrayBatches(*numbered(), batch_size=40, seed=0)
    tf.random.set_seed(1)
    first = epoch_numbers(made, 5)
    tf.random.set_seed(2)
    np.testing.assert_array_equal(epoch_numbers(made, 5), first)
    again = batches.ArrayBatches(*numbered(), batch_size=40, seed=0)
    np.testing.assert_array_equal(epoch_numbers(again, 5), first)
    other = batches.ArrayBatches(*numbered(), batch_size=40, seed=1)
    assert not np.array_equal(epoch_numbers(other, 5), first)


def test_a_stream_that_begins_at_a_step_is_the_rest_of_the_whole_stream():
    made = batches.ArrayBatches(*numbered(50), batch_size=16, seed=0)

    def first_images(start, count):
        taken = made.dataset(start).take(count)
        return [numbers(x).tolist() for x, _ in taken.as_numpy_iterator()]

    whole = first_images(0, 12)
    for step in (1, 3, 7):
        assert first_images(step, 12 - step) == whole[step:]


def test_without_shuffling_arrays_keep_their_order():
    made = batches.ArrayBatches(*numbered(), 40, seed=0, shuffle=False)
    for epoch in range(2):
        order = epoch_numbers(made, epoch).ravel()
        np.testing.assert_array_equal(order, np.arange(COUNT))


def test_a_batch_is_never_larger_than_the_data():
    made = batches.ArrayBatches(*numbered(12), batch_size=100, seed=0)
    assert (made.batch_size, made.steps) == (12, 1)
    streamed = batches.StreamBatches(stream(*numbered(12)), 12, 100)
    assert (streamed.batch_size, streamed.steps) == (12, 1)


def test_every_batch_is_a_multiple_of_the_replicas():
    def sizes(count, share):
        return [
            part.batch_size
            for given in (numbered(count), (stream(*numbered(count)),))
            for part in prepare(*given, batch_size=32, share=share, replicas=2)
            if part is not None
        ]

    assert sizes(31, None) == [30, 30]
    # Of 40 images 36 are left, or about so, and 4 held out.
    assert all(size % 2 == 0 for size in sizes(40, 0.1))


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_a_part_that_leaves_a_replica_without_an_example(form):
    given = numbered() if form == "arrays" else (stream(),)
    with pytest.raises(ValueError, match="`search_split`.*16 devices"):
        prepare(*given, batch_size=32, share=0.02, replicas=16)


# Batches of datasets


def test_stream_batches_are_full_and_in_the_dataset_s_order():
    made = batches.StreamBatches(stream(*numbered(10)), 10, batch_size=4)
    assert made.steps == 2
    np.testing.assert_array_equal(
        epoch_numbers(made, 0, epochs=2).ravel(),
        [*range(10), *range(6)],  # a batch may reach into the next pass
    )


# Preparing


def test_a_dataset_goes_on_at_the_batch_where_it_was():
    made = batches.StreamBatches(stream(*numbered(10)), 10, batch_size=4)
    whole = epoch_numbers(made, 0, epochs=4)
    for step in (1, 3, 5):
        rest = [numbers(x) for x, _ in made.dataset(step).take(3)]
        np.testing.assert_array_equal(rest, whole[step : step + 3])


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_parts_of_a_dataset_go_on_at_the_batch_where_they_were(share):
    """Whatever the true size of a part, which only its hash knows."""
    parts = prepare(stream(*numbered(1000)), batch_size=32, share=share)
    whole = batches.split_dataset(stream(*numbered(1000)), share)
    for made, part in zip(parts, whole, strict=True):
        members = numbers_of(part)
        assert len(members) != made.count  # an estimate
        for step in (0, 1, 29, 87):
            begin = step * made.batch_size
            first = next(iter(made.dataset(step)))[0]
            expected = np.arange(begin, begin + made.batch_size) % len(members)
            np.testing.assert_array_equal(
                numbers(first), np.array(members)[expected]
            )


def test_an_endless_dataset_goes_on_at_the_batch_where_it_was():
    """However few batches of it were looked at."""
    spec = data.inspect(stream().repeat(), steps=1)._replace(count=20)
    made, _ = batches.prepare(
        *(stream().repeat(), None, spec, 20, None, None, 0, True),
        is_endless=True,
    )
    first = next(iter(made.dataset(7)))[0]
    np.testing.assert_array_equal(numbers(first), np.arange(140, 160))


def prepare(x, y=None, batch_size=20, share=0.1, search_data=None, **kwargs):
    arguments = {"seed": 0, "shuffle": True, **kwargs}
    spec = data.inspect(x, y)
    return batches.prepare(
        x, y, spec, batch_size, share, search_data, **arguments
    )


@pytest.mark.parametrize("form", ["arrays", "dataset", "batched"])
def test_training_and_search_batches_share_nothing(form):
    given = numbered() if form == "arrays" else (stream(),)
    if form == "batched":
        given = (stream().batch(7),)
    training, search = prepare(*given)
    train = set(epoch_numbers(training, 0).ravel())
    searched = set(epoch_numbers(search, 0, epochs=9).ravel())
    assert not train & searched
    assert train | searched <= set(range(COUNT))
    assert 0.04 * COUNT < len(searched) < 0.2 * COUNT
    assert epoch_numbers(training, 0).shape == (training.steps, 20)


@pytest.mark.parametrize("form", ["arrays", "dataset"])
def test_without_a_share_everything_trains(form):
    given = numbered() if form == "arrays" else (stream(),)
    training, search = prepare(*given, share=None)
    assert search is None
    assert set(epoch_numbers(training, 0).ravel()) == set(range(COUNT))


@pytest.mark.parametrize("train", ["arrays", "dataset"])
@pytest.mark.parametrize("searched", ["arrays", "dataset", "batched"])
def test_explicit_search_data_leaves_the_training_data_whole(train, searched):
    given = numbered() if train == "arrays" else (stream(),)
    x, y = numbered(60)
    x += 1000
    extra = (x, y) if searched == "arrays" else (stream(x, y), None)
    if searched == "batched":
        extra = (stream(x, y).batch(7), None)
    training, search = prepare(*given, share=None, search_data=extra)
    assert set(epoch_numbers(training, 0).ravel()) == set(range(COUNT))
    assert set(epoch_numbers(search, 0).ravel()) == set(range(1000, 1060))


def test_search_data_of_another_kind():
    x, y = numbered()
    with pytest.raises(ValueError, match=r"`search_data`.*\(4, 4\).*\(4, 4, 1"):
        prepare(x, y, share=None, search_data=(x[..., 0], y))
    with pytest.raises(ValueError, match="`search_data`.*one_hot=True"):
        prepare(x, y, share=None, search_data=(x, np.eye(CLASSES)[y]))
    with pytest.raises(ValueError, match=r"classes 0\.\.3"):
        prepare(x, y, share=None, search_data=(x, y + 1))


def test_a_dataset_too_small_to_be_split():
    """No image of these two falls into the tenth that is held out."""
    x, y = numbered(2)
    x = x + 0.5
    assert numbers_of(batches.split_dataset(stream(x, y), 0.001)[1]) == []
    with pytest.raises(ValueError, match="too small to be split.*search_data"):
        prepare(stream(x, y), share=0.001)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_an_endless_dataset_too_small_to_be_split(batch_size):
    """It is not searched for ever for what it does not hold."""
    x, y = numbered(2)
    endless = stream(x + 0.5, y).repeat(1000)
    if batch_size:
        endless = endless.batch(batch_size)
    # Whoever reads on behind what shows it comes upon an error.
    broken = endless.map(
        lambda x, y: (tf.debugging.check_numerics(x / 0.0, "read on"), y)
    )
    endless = endless.concatenate(broken)
    spec = data.inspect(endless.take(2), steps=2)
    with pytest.raises(ValueError, match="too small to be split.*search_data"):
        batches.prepare(
            *(endless, None, spec, 2, 0.05, None, 0, True), is_endless=True
        )


@pytest.mark.parametrize(
    "count, expected",
    [(20, 16), (1000, 16), (1500, 32), (2560, 64), (60_000, 128)],
)
def test_batch_size_for_arrays_makes_forty_steps(count, expected):
    x = np.zeros((1, 4))
    assert batches.fitting_batch_size(x, count) == expected


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_batch_size_of_a_dataset_is_its_own(drop_remainder):
    batched = stream().batch(24, drop_remainder=drop_remainder)
    assert batches.fitting_batch_size(batched, COUNT) == 24
    assert batches.fitting_batch_size(stream(), 60_000) == 128


def test_several_inputs_and_outputs_are_split_together():
    rng = np.random.default_rng(0)
    first, other = rng.integers(0, 4, 200), rng.integers(0, 2, 200)
    x = {"a": np.arange(200.0)[:, None], "b": np.arange(200.0)[:, None] + 0.5}
    spec = data.inspect(x, (first, other))
    kept, held_out = batches.split_arrays(x, (first, other), spec, 0.1, 3)
    rows = held_out[0]["a"][:, 0].astype(int)
    np.testing.assert_array_equal(held_out[0]["b"][:, 0], rows + 0.5)
    np.testing.assert_array_equal(held_out[1][0], first[rows])
    np.testing.assert_array_equal(held_out[1][1], other[rows])
    assert len(kept[0]["a"]) + len(rows) == 200
    counts = np.bincount(first[rows], minlength=4)
    np.testing.assert_array_equal(counts, np.round(0.1 * np.bincount(first)))


def test_the_place_of_an_example_follows_from_all_of_its_inputs():
    def held_out(second):
        x = (np.zeros((400, 1)), second)
        dataset = tf.data.Dataset.from_tensor_slices((x, np.arange(400)))
        return {int(y) for _, y in batches.split_dataset(dataset, 0.3)[1]}

    numbers_of_examples = np.arange(400.0)[:, None]
    found = held_out(numbers_of_examples)
    assert 80 < len(found) < 160
    assert held_out(numbers_of_examples) == found
    assert held_out(numbers_of_examples + 1.0) != found


def test_batches_are_brought_into_the_form_of_a_network():
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    x = keras.layers.Concatenate()([b, a])
    network = keras.Model([b, a], keras.layers.Dense(2)(x))
    x = {"a": np.arange(8.0)[:, None], "b": np.arange(8.0)[:, None] + 0.5}
    y = np.arange(8) % 2
    unbatched = tf.data.Dataset.from_tensor_slices((x, y))
    for made in (
        batches.ArrayBatches(x, y, 4, 0),
        batches.StreamBatches(unbatched, 8, 4),
    ):
        made.arrange(Form.of(network))
        (first, second), _ = next(iter(made.dataset()))
        np.testing.assert_array_equal(first, second + 0.5)


def test_labels_are_those_of_a_batch():
    x, y = np.ones((10, 3)), {"a": np.eye(10), "b": np.arange(10)[:, None]}
    unbatched = tf.data.Dataset.from_tensor_slices((x, y))
    for made in (
        batches.ArrayBatches(x, y, 4, 0),
        batches.StreamBatches(unbatched, 10, 4),
    ):
        _, expected = next(iter(made.dataset()))
        found = made.labels()
        for name in y:
            assert found[name].shape == expected[name].shape
            assert found[name].dtype == expected[name].dtype


def test_what_is_read_from_the_start_is_built_once():
    made = batches.ArrayBatches(*numbered(50), batch_size=16, seed=0)
    whole = made.dataset()
    assert made.dataset(0) is whole
    assert made.dataset(1) is not whole
    # None of those who read it moves the others.
    first, second = iter(whole), iter(whole)
    for _ in range(3):
        expected = numbers(next(first)[0])
    for _ in range(3):
        found = numbers(next(second)[0])
    np.testing.assert_array_equal(found, expected)
    network = [keras.Input((4, 4, 1)), keras.layers.Flatten()]
    made.arrange(Form.of(keras.Sequential(network)))
    assert made.dataset() is not whole


def test_the_search_split_of_a_dataset_is_read_once():
    """Else what is held out costs twenty times its size of reading."""
    read = []

    def count(image, label):
        tf.py_function(lambda: read.append(1), [], [])
        return image, label

    x = np.random.default_rng(0).normal(size=(200, 4, 4, 1))
    dataset = stream(x, np.arange(200) % 3).map(count)
    spec = data.inspect(dataset)
    _, search = batches.prepare(
        *(dataset, None, spec, 20, 0.1, None, 0, True),
    )
    del read[:]
    endless = iter(search.dataset())
    for _ in range(100):
        next(endless)
    assert 200 <= len(read) < 2 * 200


@pytest.mark.parametrize("size", [None, 10])
def test_a_generator_that_can_be_read_once_is_refused(size):
    once = iter([(np.ones((4, 4, 1)) * k, k % 2) for k in range(40)])
    dataset = tf.data.Dataset.from_generator(
        lambda: once,
        output_signature=(
            tf.TensorSpec((4, 4, 1), tf.float32),
            tf.TensorSpec((), tf.int32),
        ),
    )
    if size:
        dataset = dataset.batch(size)
    spec = data.inspect(dataset)
    with pytest.raises(ValueError, match="return a new generator each time"):
        batches.prepare(*(dataset, None, spec, 8, 0.1, None, 0, True))
