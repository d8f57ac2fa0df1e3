"""What a measurement was made on: versions and machine, for its record."""

import os
import platform
from importlib import metadata

PACKAGES = (
    "keras",
    "keras-cv",
    "keras-tuner",
    "numpy",
    "optuna",
    "scikit-learn",
    "tensorflow",
    "tensorflow-cpu",
)


def cpus():
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def describe():
    """Returns a JSON-able dict of versions and machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": cpus(),
        "versions": versions,
    }
