"""Quantities of the user's own: read by name in a custom loss or layer.

`hyperparameter(name)` is a tensor with a gradient while a run computes its
training loss, and a plain default everywhere else: in evaluation, in an
exported model, and in the search loss, which judges the quantity and must not
contain it.
"""

import contextlib
import threading

_active = threading.local()


def hyperparameter(name, default=None):
    """Returns the current value of a hyperparameter of your own.

    To be called in the `call` of a custom loss or layer.

    Args:
        name: String, a key of `AutoModel(hyperparameters=...)`.
        default: Float, the value outside of training: in `evaluate` and
            `predict`, in an exported model, and in the search loss.

    Returns:
        A scalar tensor, float32, while the training loss is computed, else
        `default`. A layer that computes in another dtype casts it:
        `keras.ops.cast(value, self.compute_dtype)`.

    Raises:
        ValueError: In training, the run has no such hyperparameter; or
            outside of training, there is no default.

    Example:

    >>> class Balanced(keras.losses.Loss):
    ...     def call(self, y_true, y_pred):
    ...         weight = keras_dha.hyperparameter("my_weight", default=0.0)
    ...         return plain(y_true, y_pred) + weight * extra(y_pred)
    >>> keras_dha.AutoModel(
    ...     hyperparameters={"my_weight": keras_dha.Range(0.01, 10)}
    ... )
    """
    values = getattr(_active, "values", None)
    if values is None:
        if default is None:
            raise ValueError(
                "Outside of training a hyperparameter has the value that "
                "`default` gives it. Received: "
                f"hyperparameter({name!r}) without a default"
            )
        return default
    if name not in values:
        raise ValueError(
            "A hyperparameter that a loss or a layer uses must be declared: "
            f"AutoModel(hyperparameters={{{name!r}: keras_dha.Range(...)}}) "
            f"or a number. Received: {name!r}; declared: {sorted(values)}"
        )
    _active.used.add(name)
    return values[name]


def current(name):
    """Returns the value of `name` in training, or `None` if there is none."""
    values = getattr(_active, "values", None)
    if values is None or name not in values:
        return None
    _active.used.add(name)
    return values[name]


@contextlib.contextmanager
def given(values):
    """Makes `hyperparameter` return these; yields the set of names read.

    Args:
        values: Dict from name to scalar tensor.
    """
    before = getattr(_active, "values", None), getattr(_active, "used", None)
    _active.values, _active.used = values, set()
    try:
        yield _active.used
    finally:
        _active.values, _active.used = before


@contextlib.contextmanager
def judging():
    """Says that what runs inside judges, as the search loss does.

    Layers act as in training there; a quantity that acts in them is not to.
    """
    before, _active.judges = is_judging(), True
    try:
        yield
    finally:
        _active.judges = before


def is_judging():
    """Whether the running layer is part of what judges."""
    return getattr(_active, "judges", False)
