"""Kill merges with SIGKILL at random moments, run them again, and compare digests with undisturbed runs.

    python -m benchmarks.merge.kills [--kills 100] [--parameters 20M] [--seed 0] [--folder FOLDER]

Each attempt takes other threads and another memory limit, for neither changes a byte. Prints the counts; fails when a
digest differs, or anything but the finished folder is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.merge.family import write_family
from graftwork.merge.output.journal import JOURNAL_FILE
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings, parse_size

RECIPES: Mapping[str, dict[str, Any]] = {
    "task_arithmetic": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.4}},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.2, "weight": 0.5}},
    "ties in shards": {
        "merge_method": "ties",
        "parameters": {"density": 0.4},
        "dtype": "float32",
        "output": {"shard_size": "10MB"},
    },
    "ties, paper, lines auto": {
        "merge_method": "ties",
        "parameters": {"density": 0.2, "variant": "paper"},
        "modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}],
    },
}
MEMORY = (5_000_000, 30_000_000, 500_000_000)
KILLS_IN_A_ROW = 4


@dataclass
class Endurance:
    """Merges under fire, and what became of them."""

    root: Path
    random: random.Random
    undisturbed: dict[str, tuple[Mapping[str, str], float]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def prepare(self, parameters: int) -> None:
        """Write the models and the recipes, and merge each recipe once in peace."""
        base, *models = write_family(self.root / "family", parameters)
        for name, recipe in RECIPES.items():
            whole = {**recipe, "base_model": str(base), "models": [{"model": str(model)} for model in models]}
            self._recipe(name).write_text(json.dumps(whole))
            began = time.perf_counter()
            self._wait(self._start(name, self.root / "peace"))
            taken = time.perf_counter() - began
            self.undisturbed[name] = fingerprint(self.root / "peace"), taken
            shutil.rmtree(self.root / "peace")

    def go(self, kills: int) -> None:
        """Kill so many times. Raises AssertionError for a result that is not the undisturbed one."""
        while self.counts["kills"] < kills:
            name = self.random.choice(list(RECIPES))
            out = self.root / "out"
            for _ in range(self.random.randint(1, KILLS_IN_A_ROW)):
                if self.counts["kills"] < kills and not out.exists():
                    self._disturb(name, out)
            if not out.exists():
                self._wait(self._start(name, out))
            expected = self.undisturbed[name][0]
            if fingerprint(out) != expected or out.with_name("out.partial").exists():
                raise AssertionError(f"{name}: {fingerprint(out)} instead of {expected}")
            self.counts["results compared"] += 1
            shutil.rmtree(out)

    def _disturb(self, name: str, out: Path) -> None:
        child = self._start(name, out)
        time.sleep(self.random.uniform(0, 1.1) * self.undisturbed[name][1])
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            self.counts["finished before the kill"] += 1
            return
        self.counts["kills"] += 1
        journal = out.with_name("out.partial") / JOURNAL_FILE
        if journal.is_file() and journal.read_bytes().count(b"\n") > 1:
            self.counts["kills that left finished work"] += 1

    def _start(self, name: str, out: Path) -> int:
        settings = Settings(threads=self.random.choice((1, 2)), memory=self.random.choice(MEMORY))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                merge(load_recipe(self._recipe(name)), out=out, settings=settings)
                code = 0
            finally:
                os._exit(code)
        return child

    def _wait(self, child: int) -> None:
        _, status = os.waitpid(child, 0)
        if status:
            raise AssertionError(f"a merge failed with status {status}")

    def _recipe(self, name: str) -> Path:
        return self.root / f"{name.replace(' ', '-')}.yaml"


def fingerprint(folder: Path) -> Mapping[str, str]:
    """The SHA-256 of every file of a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def main() -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--parameters", type=parse_size, default=parse_size("20M"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        endurance = Endurance(Path(root), random.Random(options.seed))
        endurance.prepare(options.parameters)
        endurance.go(options.kills)
    for what, count in sorted(endurance.counts.items()):
        print(f"{count:6} {what}")
    print("every digest was that of the undisturbed run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
