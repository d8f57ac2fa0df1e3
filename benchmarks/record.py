"""A record on disk that grows run by run.

Long measurements are made in parts: what a record holds is not run again, so
a benchmark that was stopped goes on where it was, and one arm can be measured
anew without the others.
"""

import json
import os
import pathlib

import numpy as np

from benchmarks import machine

RESULTS = pathlib.Path(__file__).parent / "results"


class Record:
    """The runs of one benchmark, by arm and seed, in one JSON file.

    Args:
        path: Where it is kept; read if it exists.
        benchmark: Name of the benchmark.
        settings: Dict of what all runs have in common. A file with others is
            refused, as its runs could not be compared.
        anew: Sequence of prefixes of arms whose runs are forgotten.
    """

    def __init__(self, path, benchmark, settings, anew=()):
        self.path = pathlib.Path(path)
        settings = json.loads(json.dumps(settings))
        self.content = {
            "benchmark": benchmark,
            "machine": machine.describe(),
            "settings": settings,
            "runs": {},
            "summary": {},
        }
        if not self.path.exists():
            return
        found = json.loads(self.path.read_text())
        if found.get("settings") != settings:
            raise ValueError(
                f"{self.path} holds runs with other settings; give another "
                f"--output. Received: settings={settings}, while the file "
                f"has {found.get('settings')}"
            )
        # Of what began it; to look at a record elsewhere changes nothing.
        self.content["machine"] = found["machine"]
        self.content["runs"] = {
            arm: runs
            for arm, runs in found["runs"].items()
            if not arm.startswith(tuple(anew))
        }

    @property
    def arms(self):
        """Names of the arms that were run, a list."""
        return list(self.content["runs"])

    def has(self, arm, seed):
        """Whether an arm was run with a seed."""
        return str(seed) in self.content["runs"].get(arm, {})

    def add(self, arm, seed, values):
        """Keeps the values of one run, a dict, and writes the file.

        With what it ran on, as a record may grow on several machines.
        """
        runs = self.content["runs"].setdefault(arm, {})
        runs[str(seed)] = {**values, "machine": machine.describe()}
        self.write()

    def means(self):
        """Returns the mean accuracy of each arm, a dict of floats."""
        return {arm: float(np.mean(self.values(arm))) for arm in self.arms}

    def values(self, arm, name="accuracy"):
        """Returns one value of all runs of an arm, a list in order of seeds."""
        runs = self.content["runs"].get(arm, {})
        return [runs[seed][name] for seed in sorted(runs, key=int)]

    def write(self, **summary):
        """Writes the file, with what is known of all runs together."""
        self.content["summary"] |= summary
        text = json.dumps(self.content, indent=2) + "\n"
        part = self.path.with_suffix(".part")
        part.write_text(text)
        os.replace(part, self.path)
