"""Extras: packages that are installed only for what they are used for."""

import importlib.util


def require(modules, extra, what):
    """Refuses to go on without the packages of an extra.

    Asked before anything long starts; they are loaded where they are used.

    Args:
        modules: Tuple of the names that they are imported by.
        extra: Name of the extra of this package that brings them.
        what: What needs them, for the message.

    Raises:
        ImportError: One is not installed.
    """
    missing = [n for n in modules if importlib.util.find_spec(n) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise ImportError(
            f"{what} needs {' and '.join(missing)}, which {verb} not "
            f'installed: run `pip install "keras_dha[{extra}]"`.'
        )
