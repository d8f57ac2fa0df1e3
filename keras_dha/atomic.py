"""Atomic writing: a file or a folder appears whole, or not at all.

It is written in a scratch folder beside its place and renamed at the end. A
process that is killed meanwhile leaves that folder behind, by a name by which
it is found again.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile

# What `tempfile` makes a name its own with, as a pattern.
_RANDOM = 8 * "[a-z0-9_]"


@contextlib.contextmanager
def written_beside(path):
    """Gives a scratch path to write to; renames it when all went well.

    Args:
        path: `pathlib.Path` of the file or folder in the end. Missing
            parents are made; what is there already is replaced.
    """
    scratch = _scratch(path)
    # A level down, since mkdtemp's own folder is private to this user.
    target, old = scratch / path.name, scratch / f"old-{path.name}"
    try:
        yield target
        _put(target, path, old)
    finally:
        # An old one that could not be put back is kept where it is.
        if os.path.lexists(path) or not os.path.lexists(old):
            shutil.rmtree(scratch, ignore_errors=True)


def refuse_unwritable(folder):
    """Makes a folder and tries it, before work is done rather than after.

    Args:
        folder: `pathlib.Path`.
    """
    scratch = _scratch(folder / "probe")
    try:
        (scratch / "probe").touch()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def leftovers(folder, *names):
    """Returns what killed processes left of writing, a list of folders.

    Args:
        folder: `pathlib.Path` of where they wrote.
        *names: Names of the files that they write there, or patterns of them
            as `pathlib.Path.glob` takes them.
    """
    found = [
        path
        for name in ("probe", *names)
        for path in folder.glob(f".{name}-{_RANDOM}")
    ]
    return [p for p in found if p.is_dir() and not p.is_symlink()]


def sweep(folder, *names):
    """Deletes what killed processes left of writing, if the system lets it.

    Args:
        folder, *names: As `leftovers` takes them.
    """
    for path in leftovers(folder, *names):
        shutil.rmtree(path, ignore_errors=True)


def _scratch(path):
    """Returns a new folder beside a path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise OSError(
            f"Cannot write here: {error.strerror}. Received: path={str(path)!r}"
        ) from None
    return pathlib.Path(made)


def _put(target, path, old):
    """Renames a target to its path; what is there goes to `old` meanwhile."""
    try:
        # Only a file takes the place of another one by itself.
        if path.is_dir() or (target.is_dir() and path.exists()):
            path.rename(old)
        os.replace(target, path)
    finally:
        # Failed, or interrupted, between the two.
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
