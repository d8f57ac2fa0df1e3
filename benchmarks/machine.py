"""What a measurement was made on: versions and machine, for its record."""

import os
import pathlib
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
# Vector instructions, widest first. TensorFlow uses the kernels of oneDNN by
# default only where there are the first of them, and they take a half less.
INSTRUCTIONS = ("avx512_vnni", "avx512f", "avx2", "asimd")
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def cpus():
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def processor():
    """Returns what steps are fast or slow by, a short text."""
    path = pathlib.Path("/proc/cpuinfo")
    words = set(path.read_text().split()) if path.exists() else set()
    widest = [name for name in INSTRUCTIONS if name in words][:1]
    asked = [f"{ONEDNN}={os.environ[ONEDNN]}"] if ONEDNN in os.environ else []
    return ", ".join([platform.machine(), *widest, *asked])


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
        "processor": processor(),
        "versions": versions,
    }
