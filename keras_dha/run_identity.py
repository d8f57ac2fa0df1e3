"""The identity of a run: which `fit` is that of a directory.

What is asked for must be asked for alike, and so must the labels be that are
learned. What is given beside it may differ where nobody meant another run, as
random initial weights do, and images that are changed at random.
"""

import hashlib
import weakref

import keras
import numpy as np
import tensorflow as tf

from keras_dha import arguments
from keras_dha import content
from keras_dha import data
from keras_dha import preparation
from keras_dha.architecture.description import USED
from keras_dha.architecture.description import described

# Names of what is seen.
LABELS, EXAMPLES, SEARCH = "labels", "examples", "search_data"
VALIDATION, WEIGHTS = "validation_data", "initial weights"
# What may be another for the same run, which it is learned or judged with.
BESIDE = (EXAMPLES, SEARCH, WEIGHTS)
# What is longer is compared by its hash.
_SHOWN = 60
# So many examples are copied at once to be hashed, if they must be.
_AT_ONCE = 1000
# Given networks that a run of this process has moved: what they were given
# with is not known any more.
_MOVED = weakref.WeakSet()


def asked(settings, spec, fit):
    """Returns what a `fit` is asked for: dict from a name to a text.

    Args:
        settings: `settings.Settings`.
        spec: `data_spec.DataSpec` of the training data.
        fit: Dict of arguments of `fit`.
    """
    given = dict(settings.asked)
    optimizer = settings.optimizer
    if not isinstance(given["search_space"], (str, keras.Model)):
        # By what it builds: functions have no other text.
        given["search_space"] = settings.builder(spec)
    given |= {
        "base_schedule": settings.base_schedule,
        "target": settings.target,
        "loss": settings.loss,
        "loss_weights": settings.loss_weights,
        "metrics": settings.metrics,
        "optimizer": None if optimizer.is_default else optimizer.rule,
    }
    given |= {
        # Those of a name follow from its rule, and learning does not start
        # at them.
        f"optimizer.{name}": number if optimizer.is_given else None
        for name, number in optimizer.values.items()
    }
    # What is given may have been through a run before.
    texts = {name: described(value, USED) for name, value in given.items()}
    texts["data"] = str(spec)
    fit = dict(fit)
    # As the run reads them: a list is one array, or one for each input.
    fit["x"], fit["y"] = data.arranged(fit["x"], fit["y"])
    if fit["search_data"] is not None:
        fit["search_data"] = data.arranged(*arguments.pair(fit["search_data"]))
    for name, value in fit.items():
        is_data = name in ("x", "y", "search_data")
        texts[name] = of_data(value) if is_data else described(value)
    return {name: shortened(text) for name, text in texts.items()}


def seen(settings, fit, summary, validation_data):
    """Returns what was seen of what a `fit` is given.

    Args:
        settings: `settings.Settings`.
        fit: Dict of arguments of `fit`.
        summary: `data_summary.Summary` of the training data, or `None` where
            only a part of a dataset was looked at.
        validation_data: As given to `fit`, or what was split off for it.

    Returns:
        Dict from a name to a text or a list of numbers, without what there is
        nothing to compare by.
    """
    found, network = {}, settings.asked["search_space"]
    # All of arrays is in what is asked for.
    if summary is not None and isinstance(fit["x"], tf.data.Dataset):
        found[LABELS] = shortened(str(summary.label_counts))
        found[EXAMPLES] = summary.content.numbers()
    if isinstance(network, keras.Model) and network not in _MOVED:
        found[WEIGHTS] = _digest(network.get_weights())
    for name, given in (
        (SEARCH, fit["search_data"]),
        (VALIDATION, validation_data),
    ):
        if given is not None:
            found[name] = _of_pair(*arguments.pair(given))
    return found


def moves(settings):
    """Takes note that a run trains the network that it was given."""
    network = settings.asked["search_space"]
    if isinstance(network, keras.Model):
        _MOVED.add(network)


def differing(there, now, given, names):
    """Returns which of some names stand for something else than before.

    What changes from one look at a dataset to the next, as images that are
    augmented in it, says nothing of other data.

    Args:
        there: What `seen` returned when the run began.
        now: What it returned now.
        given: Tuple of its arguments.
        names: Names of what is seen.
    """
    found = _differing(there, now, names)
    if set(found) <= {WEIGHTS}:
        return found
    settings, fit, summary, validation_data = given
    if summary is not None and isinstance(fit["x"], tf.data.Dataset):
        form = preparation.known_form(settings, None)
        summary = data.looked_through(*data.arranged(fit["x"], None, form))
    again = seen(settings, fit, summary, validation_data)
    return [name for name in found if not _differing(again, now, [name])]


def _differing(there, now, names):
    def is_same(one, other):
        if isinstance(one, list) and isinstance(other, list):
            return content.same(one, other)
        return one == other

    # Of what was seen in part, or moved before, nothing is known.
    both = [name for name in names if name in there and name in now]
    return [name for name in both if not is_same(there[name], now[name])]


def of_data(value):
    """Returns what data declare, and the hash of arrays, as text."""
    if isinstance(value, dict):
        return " ".join(f"{k}: {of_data(v)}" for k, v in value.items())
    if isinstance(value, tuple):
        return " ".join(of_data(part) for part in value)
    if value is None or hasattr(value, "element_spec"):
        return str(getattr(value, "element_spec", None))
    array = np.asarray(value)
    return f"{array.dtype}{array.shape} {_digest([array])}"


def shortened(text):
    """Returns a text, the end of a long one as its hash."""
    if len(text) <= _SHOWN:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: _SHOWN - 24]}... ({digest[:16]})"


def _of_pair(x, y):
    if y is None:
        return data.content_of(x).numbers()
    return shortened(of_data(data.arranged(x, y)))


def _digest(arrays):
    found = hashlib.sha256()
    for array in map(np.atleast_1d, arrays):
        for begin in range(0, len(array), _AT_ONCE):
            some = np.ascontiguousarray(array[begin : begin + _AT_ONCE])
            found.update(some.reshape(-1).view("uint8"))
    return found.hexdigest()[:16]
