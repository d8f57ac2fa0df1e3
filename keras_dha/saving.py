"""Saving: a whole run as one `.keras` file, and back.

The joint model is a Keras model, so Keras' own format holds its networks,
weights and states. What `AutoModel` knows beside it goes along as plain data.
"""

import json
import pathlib
from typing import NamedTuple

import keras

from keras_dha import sharing
from keras_dha.atomic import written_beside
from keras_dha.data_spec import DataSpec
from keras_dha.joint_model import JointModel
from keras_dha.result import SearchResult

# The constructor's arguments that a run goes on with.
ARGUMENTS = ("search_split", "outer_every", "seed", "base_schedule")


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        joint: The `JointModel`.
        genotype: That which its network was derived by, or `{}`.
        arguments: Dict of `ARGUMENTS`.
        spec: `DataSpec` of the training data.
        result: `SearchResult`, or `None` in the middle of a run.
        run: `Run.state()`, to go on in the middle of a run, or `None`.
    """

    joint: JointModel
    genotype: dict
    arguments: dict
    spec: DataSpec
    result: SearchResult | None
    run: dict | None


def write(
    filepath, overwrite, joint, genotype, arguments, spec, result, run=None
):
    """Writes a run.

    Args:
        filepath: Path that ends in `.keras`.
        overwrite: Whether an existing file may be replaced.
        joint: The `JointModel`.
        genotype: That which its network was derived by, or `{}`.
        arguments: Dict of `ARGUMENTS`.
        spec: `DataSpec` of the training data.
        result: `SearchResult`, or `None` in the middle of a run.
        run: `Run.state()` of a run that is to be gone on with, or `None`.

    Raises:
        ValueError: The path ends otherwise, or layers were frozen or unfrozen
            since the joint model was made, or the file could not be read.
    """
    path = pathlib.Path(filepath)
    if path.suffix != ".keras":
        raise ValueError(
            "`filepath` must end in '.keras'. "
            f"Received: filepath={str(filepath)!r}"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(
            "The file exists; use overwrite=True to replace it. "
            f"Received: filepath={str(filepath)!r}"
        )
    # The file says what is trained layer by layer, and has numbers for each
    # weight that is.
    joint.weight_vector.check(joint.network)
    sharing.check(joint.network)
    joint.owner = {
        "genotype": genotype,
        "arguments": keras.saving.serialize_keras_object(arguments),
        "spec": spec._asdict(),
        "result": result and json.loads(result.to_json()),
        "run": run,
    }
    # Beside its place first: a reader never sees half a file.
    with written_beside(path) as half:
        joint.save(half)


def read_result(filepath):
    """Returns the `SearchResult` in a file; runs no code from it.

    Args:
        filepath: Path of the JSON text of a result, or of a `.keras` file
            that `write` wrote.
    """
    path = pathlib.Path(filepath)
    if path.suffix not in (".json", ".keras") or not path.is_file():
        raise FileNotFoundError(
            "A result is in a file that ends in .json or .keras. "
            f"Received: {str(path)!r}"
        )
    if path.suffix == ".json":
        return SearchResult.from_json(path.read_text(encoding="utf-8"))
    result = read(path).result
    if result is None:
        raise ValueError(
            "The run was saved before `fit` had ended, so there is no result "
            f"yet. Received: {str(path)!r}"
        )
    return result


def load(filepath, custom_objects=None):
    """Returns the Keras model in a file, plain or a `JointModel`.

    Args:
        filepath: Path of the `.keras` file.
        custom_objects: Dict from a name in the file to a class or function,
            or `None`.
    """
    # Saved augmentation layers are found by their registered class.
    from keras_dha.augmentation import layer  # noqa: F401

    return keras.saving.load_model(filepath, custom_objects)


def read(filepath, custom_objects=None):
    """Reads a run; runs no code from the file.

    Args:
        filepath, custom_objects: As `load` takes them.

    Returns:
        The `Saved`.
    """
    joint = load(filepath, custom_objects)
    if not isinstance(joint, JointModel) or not joint.owner:
        raise ValueError(
            "The file holds a plain Keras model; load it with "
            "`keras.saving.load_model`. "
            f"Received: filepath={str(filepath)!r}"
        )
    owner, spec = joint.owner, DataSpec.from_json(joint.owner["spec"])
    # As plain data: Keras wraps what a model has.
    genotype = json.loads(json.dumps(owner["genotype"]))
    arguments = keras.saving.deserialize_keras_object(
        owner["arguments"], custom_objects
    )
    result = owner["result"]
    if result is not None:
        result = SearchResult.from_json(json.dumps(result))
    return Saved(joint, genotype, arguments, spec, result, owner["run"])
