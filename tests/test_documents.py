"""README, recipes and notebooks do what they say."""

import ast
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import tables
from keras_dha.architecture import spaces
from keras_dha.architecture.cost import NetworkCost

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(code_or_file, folder):
    arguments = (
        ["-c", code_or_file]
        if isinstance(code_or_file, str)
        else [str(code_or_file)]
    )
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={
            **os.environ,
            "KERAS_DHA_TINY": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "PYTHONPATH": str(ROOT),
        },
    )


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_sets_up_in_two_commands_of_one_line_each():
    commands = blocks("bash")
    assert [command.count("\n") for command in commands] == [1, 1]
    assert "keras-dha fit --dataset digits" in commands[0]
    assert "pytest" in commands[1]


def test_tables_are_those_of_the_records():
    """`python -m benchmarks.tables` has been run after the last measurement."""
    for path, text in tables.documents().items():
        assert path.read_text(encoding="utf-8") == text, path


DIGITS = {
    "README.md": ("{resnet_rand_augment}, ours {keras_dha};",),
    "benchmarks/README.md": (
        "`RandAugment` misses {resnet_rand_augment} in five runs, `AutoModel` "
        "{keras_dha}.",
    ),
    "BUILD_NOTES.md": ("{keras_dha} (`peers_digits_1438.json`)",),
    "keras_dha/scale.py": (
        "missed {keras_dha} (`peers_digits_1438.json`)",
        "width 32 with {smallest:.2f} to {largest:.2f} million weights and "
        "{passes} passes or more missed",
    ),
}


@pytest.mark.parametrize("name", DIGITS)
def test_what_is_said_of_digits_is_in_the_record(name):
    runs = tables._runs("peers_digits_1438")
    number = ("none", "one", "two", "three", "four", "five")
    said = {}
    for arm in ("resnet_rand_augment", "keras_dha"):
        of = runs[arm]
        shares = [of[seed]["accuracy"] for seed in sorted(of, key=int)]
        missed = [number[round(359 * (1 - share))] for share in shares]
        said[arm] = ", ".join(missed[:-1]) + f" and {missed[-1]}"
    ours = runs["keras_dha"].values()
    weights = [run["parameters"] / 1e6 for run in ours]
    said |= {"smallest": min(weights), "largest": max(weights)}
    said["passes"] = min(run["details"]["epochs"] for run in ours)
    text = (ROOT / name).read_text(encoding="utf-8").replace("\n#", "\n")
    text = " ".join(text.split())
    for expected in DIGITS[name]:
        assert expected.format(**said) in text


COST = {
    "README.md": (
        *("| {fit} |", "| {sixty} |", "| {long} |", "| {search_step} |"),
        *("| {same} and ", "({digits_search}).", "| {alone} |"),
    ),
    "benchmarks/README.md": (
        *("| {fit} |", "| {sixty} |", "| {long} |", "| {digits} |"),
        "| {search_step}; {sixty_search}; {long_search}; {digits_searches} |",
        "| {train_step}; {sixty_train}; {long_train}; {digits_train} |",
        *("| {alone} |", "| {every_fourth} and {every_tenth} |"),
        *("| {same} and ", "| {sampled} and "),
    ),
}


@pytest.mark.parametrize("name", COST)
def test_what_is_said_of_cost_is_in_the_records(name):
    def ratios(name, quantity):
        runs = tables._runs(name)["joint"].values()
        return ", ".join(f"{run[f'{quantity}_over_plain']:.2f}" for run in runs)

    said = {
        quantity: ratios("joint_run_cost_one_core", quantity)
        for quantity in ("fit", "search_step", "train_step")
    }
    said["digits"] = ratios("joint_run_digits", "fit")
    said["digits_searches"] = ratios("joint_run_digits", "search_step")
    said["digits_train"] = ratios("joint_run_digits", "train_step")
    found = said["digits_searches"].rsplit(", ", 1)
    said["digits_search"] = " and ".join(found)
    for run, file in (("sixty", "60000"), ("long", "60000_30")):
        said[run] = ratios(f"joint_run_cost_{file}", "fit")
        for phase in ("search", "train"):
            said[f"{run}_{phase}"] = ratios(
                f"joint_run_cost_{file}", f"{phase}_step"
            )
    found = ratios("joint_run_architecture_cost", "fit")
    said["alone"] = found.replace(", ", " and ")
    record = json.loads((tables.RESULTS / "step_cost.json").read_text())
    over_plain, inner = record["over_plain"], "supernet inner"
    said["same"] = f"{over_plain[f'{inner}, same path']:.2f}"
    said["sampled"] = f"{over_plain[inner]:.2f}"
    plain, joint = (
        over_plain[f"{kind}, hyperparameters"] for kind in ("inner", "joint")
    )
    for every, distance in (("every_fourth", 4), ("every_tenth", 10)):
        mean = ((distance - 1) * plain + joint) / distance
        said[every] = f"{mean:.2f}"
    text = (ROOT / name).read_text(encoding="utf-8")
    for expected in COST[name]:
        assert expected.format(**said) in text


@pytest.mark.slow
def test_readme_example_runs(tmp_path):
    example = blocks("python")[0]
    assert len(example.splitlines()) <= 15
    short = example.replace("epochs=30", "epochs=2")
    short = short.replace('load("digits")', 'load("digits", limit=200)')
    assert short.count("epochs=2") == short.count("limit=200") == 1
    # As the set-up command leaves the folder, and a run before.
    for name in ("digits/1", "models/digits/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    (tmp_path / "models/digits.tflite").write_bytes(b"")
    done = run(short, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Architecture" in done.stdout
    assert (tmp_path / "models/digits/1/saved_model.pb").stat().st_size
    assert (tmp_path / "models/digits.tflite").stat().st_size


@pytest.mark.slow
def test_readme_network_is_searched(tmp_path):
    network = blocks("python")[1]
    searched = (
        "import numpy as np\n"
        "y = np.arange(64) % 10\n"
        "x = np.ones((64, 28, 28, 1), 'float32') * y[:, None, None, None]\n"
        "model.fit(x, y, epochs=2, verbose=0)\n"
        "print(list(model.result.genotype.values()))\n"
    )
    done = run(network + searched, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "conv2d" in done.stdout


@pytest.mark.slow
def test_readme_network_is_fine_tuned(tmp_path):
    """As far as can be without the weights, which would be downloaded."""
    network = blocks("python")[2]
    before = "include_top=False"
    assert network.count(before) == 1
    small = network.replace(before, f"{before}, weights=None, alpha=0.35")
    tuned = (
        "import numpy as np\n"
        "weights = base.get_weights()\n"
        "base.trainable = False\n"
        "x = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3))\n"
        "model.fit(x, np.arange(40) % 5, epochs=1, verbose=0)\n"
        "after = base.get_weights()\n"
        "print(all((a == b).all() for a, b in zip(weights, after)))\n"
        "print(len(model.export_model().trainable_variables))\n"
    )
    done = run(small + tuned, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "2"]


RECIPES = sorted((ROOT / "recipes").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_run(recipe, tmp_path):
    done = run(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Test accuracy" in done.stdout


def test_each_limit_of_the_recipe_leaves_something_out():
    path = ROOT / "recipes" / "within_a_target.py"
    (limits,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "target"
    )
    cost = NetworkCost(spaces.resnet((8, 8, 1), 10, bottlenecks=True))
    sizes = [decision.num_candidates for decision in cost.decisions]
    every = [cost.of(i) for i in itertools.product(*map(range, sizes))]
    params, flops = (
        {k for k, each in enumerate(every) if each[name] <= limits[name]}
        for name in ("params", "flops")
    )
    assert (len(every), len(params & flops)) == (64, 12)
    assert params - flops and flops - params


NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_those_of_their_scripts(notebook):
    jupytext = pytest.importorskip("jupytext")
    cells = [
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (notebook, notebook.with_suffix(".py"))
    ]
    assert cells[0] == cells[1]
    installs = [source for _, source in cells[0] if "%pip install" in source]
    assert len(installs) == 1


def test_changelog_and_version_agree():
    version = re.search(
        r'__version__ = "(.+)"',
        (ROOT / "keras_dha" / "_version.py").read_text(encoding="utf-8"),
    ).group(1)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changes, re.MULTILINE).group(1)
    assert newest in ("Unreleased", version)
