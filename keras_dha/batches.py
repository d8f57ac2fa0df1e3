"""Batches: the search split, and endless batches of either part.

The search split is disjoint from what trains the weights: for arrays by a
seeded stratified draw, for datasets by a hash of each image, so that it stays
the same however the dataset shuffles. Of several outputs the first one's
labels make the strata; of several inputs all are hashed.
"""

import functools

import keras
import tensorflow as tf

from keras_dha import data
from keras_dha import datasets
from keras_dha import form as forms

_HASH_BUCKETS = 10_000
_LARGEST_BATCH = 128
_FEWEST_STEPS = 40
# A search batch has this share of a training batch's examples: its gradient
# is averaged over many outer steps, and a whole batch would double their cost.
_SEARCH_BATCH_SHARE = 0.5
# As many bytes of a dataset's search split are kept in memory at the most.
_KEPT_BYTES = 2**28
# Of so many over the share examples none is held out with a probability of
# exp(-20).
_SEEN_OF_A_PART = 20


def prepare(
    x,
    y,
    spec,
    batch_size,
    share,
    search_data,
    seed,
    shuffle,
    replicas=1,
    is_endless=False,
):
    """Returns (training batches, search batches or `None`).

    Args:
        x, y: Arrays, or a `tf.data.Dataset` and `None`; or several.
        spec: Their `data_spec.DataSpec`.
        batch_size: Integer.
        share: Share of the examples to hold out as search split; `None` for
            no split.
        search_data: Pair of arrays, pair (dataset, `None`), or `None`.
        seed: Integer, of the split and of all shuffling.
        shuffle: Whether arrays are shuffled.
        replicas: Integer; every batch is a multiple of it.
        is_endless: Whether a dataset is not known to end.
    """
    parts = max(1, round(_SEARCH_BATCH_SHARE * batch_size / replicas))
    search_size = parts * replicas
    search = _given(search_data, spec, search_size, seed, replicas)
    if isinstance(x, tf.data.Dataset):
        x, count, length = _unbatched(x), spec.count, None
        if share is not None:
            _check_split(x, count, share)
            x, held_out = split_dataset(x, share)
            size = max(1, round(count * share))
            example = data.bytes_of_example(held_out)
            if not is_endless and example and size * example <= _KEPT_BYTES:
                # Else all of the dataset is read for each time they are.
                held_out = held_out.cache()
            # Once, for both parts.
            held = functools.cache(functools.partial(_length, held_out))
            search = StreamBatches(
                held_out, size, search_size, replicas, is_endless, held
            )
            count -= size

            def length():
                return spec.count - held()

        training = StreamBatches(
            x, count, batch_size, replicas, is_endless, length
        )
        return training, search
    x, y = data.checked_arrays(x, y)
    if share is not None:
        (x, y), held_out = split_arrays(x, y, spec, share, seed)
        search = ArrayBatches(
            *held_out, search_size, seed + 1, replicas=replicas
        )
    return ArrayBatches(x, y, batch_size, seed, shuffle, replicas), search


def fitting_batch_size(dataset, count):
    """Returns a dataset's own batch size, or one that fits `count` examples.

    For arrays: the largest power of two from 16 to 128 that still makes 40
    steps an epoch.
    """
    if data.is_batched_dataset(dataset):
        size = _first(dataset.element_spec[0]).shape[0]
        return int(size or len(_first(first_of(dataset)[0])))
    size = _LARGEST_BATCH
    while size > 16 and count // size < _FEWEST_STEPS:
        size //= 2
    return size


def _given(search_data, spec, batch_size, seed, replicas):
    """Batches of explicit search data, checked against the training data."""
    if search_data is None:
        return None
    x, y = search_data
    found = data.inspect(x, y, num_classes=spec.num_classes)
    if not found.is_like(spec):
        raise ValueError(
            "`search_data` must look like the training data. Received: shape "
            f"{found.shape}, one_hot={found.one_hot}; training data: shape "
            f"{spec.shape}, one_hot={spec.one_hot}"
        )
    if y is None:
        return StreamBatches(_unbatched(x), found.count, batch_size, replicas)
    x, y = data.checked_arrays(x, y)
    return ArrayBatches(x, y, batch_size, seed + 1, replicas=replicas)


def _unbatched(dataset):
    if data.is_batched(dataset.element_spec):
        return dataset.unbatch()
    return dataset


def _first(structure):
    """Returns the first part of data, as one array or tensor."""
    return keras.tree.flatten(structure)[0]


def first_of(dataset):
    """Returns the first element of a dataset that was read before."""
    found = next(iter(dataset), None)
    if found is None:
        raise ValueError(
            "A dataset is read several times: let the function of "
            "`from_generator` return a new generator each time. "
            "Received: a dataset that is empty the second time"
        )
    return found


def _check_split(dataset, count, share):
    """Refuses a dataset of which a part would have no examples.

    Of one without an end as many are looked at as show it: there may be none
    that is held out, however long it is looked for.
    """
    looked_at = dataset.take(max(count, round(_SEEN_OF_A_PART / share)))
    first_of(looked_at)
    for part in split_dataset(looked_at, share):
        if next(iter(part), None) is None:
            raise ValueError(
                "The dataset is too small to be split; give a larger "
                "`search_split`, or `search_data`. "
                f"Received: {count} examples, search_split={share}"
            )


def _length(dataset):
    """Returns how many examples a dataset holds, by a pass over it."""
    ones = data.untuned(dataset.map(lambda *_: 1))
    return int(ones.reduce(0, tf.add))


def _fitted(batch_size, count, replicas):
    """Returns the size of full batches that replicas share evenly."""
    size = min(batch_size, count) // replicas * replicas
    if not size:
        raise ValueError(
            "Each device needs an example of every batch: use fewer devices, "
            "or give more images or a larger `search_split`. "
            f"Received: {count} examples for {replicas} devices"
        )
    return size


def split_arrays(x, y, spec, share, seed):
    """Returns ((x, y) for the weights, (x, y) for the search split).

    Drawn at random within each class. Every class that has two examples or
    more is in both parts, if that is no more than twice the share.
    """
    labels = _first(y)
    if forms.facts(spec.one_hot)[0]:
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    held_out = datasets.held_out(labels, share, seed, most=2 * share)
    if not held_out.any():
        raise ValueError(
            "Each class has one example, so none can be held out to judge by: "
            "give `search_data`, or learn the weights alone by "
            "augmentation=None and hyperparameters=None of `AutoModel`. "
            f"Received: {len(labels)} examples of as many classes"
        )

    def rows(chosen):
        return keras.tree.map_structure(lambda part: part[chosen], (x, y))

    return rows(~held_out), rows(held_out)


def split_dataset(dataset, share):
    """Returns unbatched datasets (for the weights, for the search split).

    `dataset` is unbatched. An example is held out if the hash of its image
    says so, whichever place it has in the dataset: no shuffle moves it to the
    other side.
    """
    limit = round(share * _HASH_BUCKETS)

    def held_out(image, _):
        parts = keras.tree.flatten(image)
        text = tf.strings.join([tf.io.serialize_tensor(p) for p in parts])
        return tf.strings.to_hash_bucket_fast(text, _HASH_BUCKETS) < limit

    return (
        dataset.filter(lambda x, y: tf.logical_not(held_out(x, y))),
        dataset.filter(held_out),
    )


class ArrayBatches:
    """Endless shuffled batches of arrays.

    Args:
        x, y: NumPy arrays, or several as `form.structured` returns them.
        batch_size: Integer; every batch is full.
        seed: Integer.
        shuffle: Whether to shuffle anew in each pass.
        replicas: Integer, devices that share a batch evenly.
    """

    is_endless = False

    def __init__(self, x, y, batch_size, seed, shuffle=True, replicas=1):
        self.count = len(_first(x))
        self.batch_size = _fitted(batch_size, self.count, replicas)
        self._seed = tf.constant(seed, tf.int64)
        self._shuffle = shuffle
        # All of the data would be in a GPU's memory, where a batch is enough.
        with tf.device("CPU:0"):
            self._data = keras.tree.map_structure(tf.constant, (x, y))
        self._whole = None

    def arrange(self, form):
        """Brings the data into the form of a network, a `form.Form`."""
        self._data, self._whole = form.arranged(*self._data), None

    def labels(self):
        """Returns labels as those of a batch are, of whichever examples."""
        return keras.tree.map_structure(
            lambda part: part[: self.batch_size], self._data[1]
        )

    @property
    def steps(self):
        """Batches in an epoch."""
        return self.count // self.batch_size

    def dataset(self, step=0):
        """Returns the endless batches from a step of training on.

        Each pass over the arrays has an order of its own, which follows from
        the seed and the pass: a run that goes on at a step sees what it would
        have seen without a stop.
        """
        if step:
            return self._from(step)
        # A run reads it from the start several times, and it has no state.
        if self._whole is None:
            self._whole = self._from(0)
        return self._whole

    def _from(self, step):
        arrays, count = self._data, self.count

        def one_pass(number):
            order = tf.range(count)
            if self._shuffle:
                order = tf.random.experimental.stateless_shuffle(
                    order, tf.stack([self._seed, number])
                )
            return tf.data.Dataset.from_tensor_slices(order)

        def gather(index):
            return keras.tree.map_structure(
                lambda part: tf.gather(part, index), arrays
            )

        passed = step * self.batch_size
        return data.untuned(
            tf.data.Dataset.counter(passed // count)
            .flat_map(one_pass)
            .skip(passed % count)
            .batch(self.batch_size, drop_remainder=True)
            .map(gather)
            .prefetch(2)
        )


class StreamBatches:
    """Endless batches of an unbatched dataset, in the dataset's own order.

    Args:
        dataset: Unbatched `tf.data.Dataset` of (image, label).
        count: Integer, how many examples it holds, or an estimate.
        batch_size: Integer; every batch is full.
        replicas: Integer, devices that share a batch evenly.
        is_endless: Whether it is not known to end.
        length: Function that returns how many examples it holds exactly, or
            `None` if `count` does.
    """

    def __init__(
        self,
        dataset,
        count,
        batch_size,
        replicas=1,
        is_endless=False,
        length=None,
    ):
        self.count = count
        self.batch_size = _fitted(batch_size, count, replicas)
        self.is_endless = is_endless
        self._dataset = dataset
        self._length = length or (lambda: count)

    def arrange(self, form):
        """Brings the data into the form of a network, a `form.Form`."""
        self._dataset, _ = form.arranged(self._dataset, None)

    def labels(self):
        """Returns the labels of a batch."""
        return first_of(self.dataset())[1]

    @property
    def steps(self):
        """Batches in an epoch."""
        return max(1, self.count // self.batch_size)

    def dataset(self, step=0):
        """Returns the endless batches from a step on.

        Args:
            step: Integer. A dataset that shuffles itself is in a new order.
        """
        passed = step * self.batch_size
        # To count takes a pass, and is not worth it for less.
        if not self.is_endless and 2 * passed > self.count:
            passed %= self._length()
        return data.untuned(
            self._dataset.repeat()
            .skip(passed)
            .batch(self.batch_size, drop_remainder=True)
            .prefetch(2)
        )
