"""What `import keras_dha` costs, refuses and promises."""

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys

import keras
import pytest

import keras_dha


def python(code, **environment):
    """Runs code in a fresh interpreter; returns its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        timeout=100,
    )
    return done.returncode, done.stdout, done.stderr


def test_import_leaves_the_heavy_packages_for_later():
    code, out, error = python(
        "import sys, keras_dha\n"
        "heavy = ['keras_cv', 'tensorflow_datasets', 'sklearn',\n"
        "         'matplotlib', 'jinja2']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert (code, out.strip()) == (0, "[]"), error


BLOCKED = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            {verb}
        return None

{install}
import keras_dha
"""


@pytest.mark.parametrize(
    "code",
    [
        BLOCKED.format(
            verb="raise ModuleNotFoundError(name)",
            install="sys.meta_path.insert(0, Blocker())",
        ),
        # As it looks where it is not installed: nobody finds it.
        BLOCKED.format(
            verb="pass",
            install="import os\n"
            "find = importlib.machinery.PathFinder.find_spec\n"
            "importlib.machinery.PathFinder.find_spec = classmethod(\n"
            "    lambda cls, name, path=None, target=None: None\n"
            "    if name == 'tensorflow' else find(name, path, target))",
        ),
    ],
)
def test_without_tensorflow_one_sentence_says_what_to_install(code):
    status, _, error = python(code)
    last = error.strip().splitlines()[-1]
    assert status == 1
    assert last.startswith("ImportError: keras_dha needs TensorFlow")
    assert 'pip install "keras_dha[cpu]"' in last
    assert 'pip install "keras_dha[gpu]"' in last


# Keras with another backend needs a package that need not be here.
OTHER = "import keras\nkeras.config.backend = lambda: 'jax'\n"


@pytest.mark.parametrize(
    ("code", "environment"),
    [
        ("import keras_dha", {"KERAS_BACKEND": "jax"}),
        (OTHER + "import keras_dha", {}),
        # Set in Keras' own file: known once Keras is loaded.
        ("import keras_dha\n" + OTHER + "keras_dha.Range", {}),
    ],
)
def test_another_backend_is_refused(code, environment):
    status, _, error = python(code, **environment)
    last = error.strip().splitlines()[-1]
    assert status == 1
    assert last.startswith("ImportError: keras_dha works on the TensorFlow")
    assert "backend='jax'" in last


def test_keras_finds_the_layers_of_a_saved_network(tmp_path):
    inputs = keras.Input((4, 4, 1))
    x = keras_dha.Choice(
        [keras.layers.Conv2D(2, 1), keras.layers.Conv2D(2, 1, use_bias=False)]
    )(inputs)
    x = keras_dha.FusedBatchNormalization()(x)
    x = keras_dha.NodeChoice([[keras.layers.Identity()]] * 2)([x, x])
    network = keras.Model(inputs, keras_dha.Dropout(0.1)(x))
    path = tmp_path / "network.keras"
    network.save(path)
    code, out, error = python(
        "import keras, keras_dha\n"
        f"network = keras.saving.load_model({str(path)!r})\n"
        "print(network.count_params())"
    )
    assert (code, out.strip()) == (0, str(network.count_params())), error


# Users call exactly these.
PROMISED = {
    "keras_dha": (
        *("AutoHAS", "AutoModel", "Choice", "Decision", "Dropout"),
        *("DifferentiableAugmentation", "FusedBatchNormalization"),
        *("LatencyTable", "NodeChoice", "Policy", "Range", "SearchReport"),
        *("SearchResult", "SlicedConvolution", "SuperKernel", "__version__"),
        *("datasets", "hyperparameter", "spaces", "strategies"),
    ),
    "keras_dha.strategies": ("DARTS", "DSNAS", "GDAS", "ISTA", "Reinforce"),
    "keras_dha.spaces": (
        *("darts", "mobile", "nas_bench_201", "resnet", "shufflenet"),
    ),
}


def test_every_public_name_is_there():
    assert set(keras_dha.__all__) == set(PROMISED["keras_dha"])
    for module in ("strategies", "spaces"):
        found = getattr(keras_dha, module).__all__
        assert set(PROMISED[f"keras_dha.{module}"]) <= set(found)
    assert set(keras_dha.__all__) <= set(dir(keras_dha))
    for name in keras_dha.__all__:
        assert getattr(keras_dha, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Tuner'"):
        keras_dha.Tuner  # noqa: B018


@pytest.mark.parametrize("name", ["datasets", "spaces", "strategies"])
def test_public_modules_can_be_imported_from(name):
    public = importlib.import_module(f"keras_dha.{name}")
    assert public is getattr(keras_dha, name)
    names = getattr(public, "__all__", ["load"])
    code, out, error = python(
        f"from keras_dha.{name} import {', '.join(names)}\n"
        f"import keras_dha.{name}\n"
        f"print(keras_dha.{name}.__name__)"
    )
    assert (code, out.strip()) == (0, f"keras_dha.{name}"), error


def test_the_version_is_the_packaged_one():
    from importlib import metadata

    try:
        packaged = metadata.version("keras_dha")
    except metadata.PackageNotFoundError:
        pytest.skip("keras_dha is not installed")
    assert keras_dha.__version__ == packaged


# Documented in Keras, or on the class, as Keras does.
UNDOCUMENTED = {
    "build",
    "call",
    "compute_output_shape",
    "compute_output_spec",
    "from_config",
    "get_build_config",
    "get_config",
}


def own_modules():
    found = pkgutil.walk_packages(keras_dha.__path__, "keras_dha.")
    return sorted(module.name for module in found)


@pytest.mark.parametrize("name", own_modules())
def test_public_things_have_docstrings(name):
    module = importlib.import_module(name)
    tree = ast.parse(inspect.getsource(module))
    missing = [] if ast.get_docstring(tree) else [name]
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(node.name)
        missing += [
            f"{node.name}.{child.name}"
            for child in getattr(node, "body", [])
            if isinstance(node, ast.ClassDef)
            and isinstance(child, ast.FunctionDef)
            and not child.name.startswith(("_", "on_"))
            and child.name not in UNDOCUMENTED
            and not overrides_documented(getattr(module, node.name), child.name)
            and not ast.get_docstring(child)
        ]
    assert missing == []


def overrides_documented(owner, name):
    """Whether a base class says already what the method does."""
    return any(
        getattr(vars(base).get(name), "__doc__", None)
        for base in owner.__mro__[1:]
    )
