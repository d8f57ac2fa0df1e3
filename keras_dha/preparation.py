"""Preparation: from what `fit` is given to training and search batches."""

from keras_dha import arguments
from keras_dha import batches
from keras_dha import data


def prepare(
    settings,
    joint,
    known,
    replicas,
    x,
    y,
    batch_size,
    shuffle,
    steps,
    search_data,
):
    """Checks the data of a `fit`.

    Args:
        settings: `settings.Settings`.
        joint: The `JointModel` that goes on, or `None` at the first `fit`.
        known: `DataSpec` of the first `fit`, or `None`.
        replicas: Integer, devices that share a batch.
        x, y, batch_size, shuffle, steps, search_data: As given to `fit`.

    Returns:
        (`DataSpec`, training batches, search batches or `None`).

    Raises:
        ValueError: The data cannot be used, or are others than before.
    """
    if batch_size is not None:
        arguments.check_count("batch_size", batch_size)
    spec = data.inspect(x, y, steps, known and known.num_classes)
    if known is not None and (spec.shape, spec.one_hot) != (
        known.shape,
        known.one_hot,
    ):
        raise ValueError(
            "The data must look like those of the first `fit`. "
            f"Received: shape {spec.shape}, one_hot={spec.one_hot}; "
            f"before: shape {known.shape}, one_hot={known.one_hot}"
        )
    if batch_size is None:
        batch_size = batches.fitting_batch_size(x, spec.count)
    if batch_size % replicas:
        raise ValueError(
            "`batch_size` must be a multiple of the number of replicas. "
            f"Received: batch_size={batch_size}, replicas={replicas}"
        )
    if joint is None:
        learns = settings.learns_from_search_data(spec.is_image)
    else:
        learns = joint.needs_search_data
    made = batches.prepare(
        x,
        y,
        spec,
        batch_size,
        settings.search_split if learns and search_data is None else None,
        None if search_data is None else arguments.pair(search_data),
        settings.seed,
        shuffle,
        replicas,
    )
    return known or spec, *made
