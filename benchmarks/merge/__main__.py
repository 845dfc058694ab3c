"""`graft merge` against mergekit 0.1.5 and against the floor, each a whole process, in turn, in one run.

    python -m benchmarks.merge [--parameters 500M] [--methods ties,linear] [--mergekit-python PYTHON] [--rounds 1]
                               [--folder FOLDER] [--memory 500MB] [--device cpu] [--cold] [--json FILE]

Makes a synthetic Llama-shaped family (a base and three models, bfloat16). Without --mergekit-python, mergekit is
installed in an environment of its own under FOLDER; --no-mergekit leaves it out. Of several rounds the best counts,
for all sides alike; before each run the inputs are read once and what is dirty is written, so that no side finds the
page cache colder than another. With --cold they are dropped from it instead, and every side reads from the disk.

The floor is told twice: with its output on the disk when it ends, as ours is, and with its output in the page cache.

Memory is the largest resident set of the process: mergekit maps its inputs, so their pages count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.merge.children import Taken, measure
from benchmarks.merge.family import CHUNK, write_family
from graftwork.merge.method import methods
from graftwork.settings import parse_size

MERGEKIT = ("torch==2.13.0", "mergekit==0.1.5")
WEIGHTS = (0.5, 0.3, 0.4)
PARAMETERS: dict[str, dict[str, Any]] = {
    "linear": {},
    "task_arithmetic": {},
    "ties": {"density": 0.2},
    "dare_ties": {"density": 0.5},
    "slerp": {"t": 0.4},
    "model_stock": {},
    "breadcrumbs": {"density": 0.9, "gamma": 0.01},
    "della": {"density": 0.5, "epsilon": 0.1},
}
WANTED = {"ties": 25.0, "della": 25.0, "breadcrumbs": 25.0, "dare_ties": 12.0}
AT_LEAST = 4.0
OURS = ("PYTHONPATH", "OMP_NUM_THREADS")
"""Variables of this process that must not reach mergekit."""
MEAN = 12.0
HEADING = (
    f"{'method':16}{'ours s':>8}{'floor s':>9}{'x floor':>9}{'x cached':>10}{'mergekit s':>12}{'wall x':>8}"
    f"{'wanted':>8}{'cpu s':>8}{'theirs':>8}{'cpu x':>7}{'peak MB':>9}{'theirs':>8}"
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one method took on each side."""

    method: str
    ours: Taken
    floor: Taken
    cached_floor: Taken
    """With the output in the page cache."""
    theirs: Taken | None

    def line(self) -> str:
        """A line of the table."""
        ours, floor, theirs = self.ours, self.floor, self.theirs
        text = f"{self.method:16}{ours.wall:8.2f}{floor.wall:9.2f}{ours.wall / floor.wall:9.2f}"
        text += f"{ours.wall / self.cached_floor.wall:10.2f}"
        if theirs is None:
            return f"{text}{'-':>12}{'-':>8}{'-':>8}{ours.cpu:8.2f}{'-':>8}{'-':>7}{ours.resident / 1e6:9.0f}{'-':>8}"
        return (
            f"{text}{theirs.wall:12.1f}{theirs.wall / ours.wall:8.1f}{WANTED.get(self.method, AT_LEAST):8.0f}"
            f"{ours.cpu:8.2f}{theirs.cpu:8.1f}{theirs.cpu / ours.cpu:7.1f}"
            f"{ours.resident / 1e6:9.0f}{theirs.resident / 1e6:8.0f}"
        )


class Bench:
    """A folder with the family, and the sides to run on it."""

    def __init__(
        self, root: Path, family: Sequence[Path], mergekit: str | None, options: Sequence[str], *, cold: bool
    ) -> None:
        self.root, self.family, self.mergekit, self.options, self.cold = root, family, mergekit, options, cold
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.installed = {**kept, "PYTHONPYCACHEPREFIX": str(root / "bytecode")}
        """An environment in which byte code is kept, as pip leaves it for what it installs."""

    def row(self, method: str, rounds: int) -> Row:
        """Every side in turn, as often as asked; the best of each."""
        recipe = self.root / f"{method}.yaml"
        recipe.write_text(json.dumps(self._recipe(method)))
        measure([*self._graft(recipe), "--plan"], self.root / "ours.log", self.installed)  # writes the byte code
        taken = [
            (self._ours(recipe), self._floor(method, "--to-disk"), self._floor(method), self._theirs(recipe))
            for _ in range(rounds)
        ]
        ours, floors, cached, theirs = zip(*taken, strict=True)
        slow = [each for each in theirs if each is not None]
        return Row(method, _best(ours), _best(floors), _best(cached), _best(slow) if slow else None)

    def _inputs(self, method: str) -> Sequence[Path]:
        return self.family[:2] if method == "slerp" else self.family

    def _recipe(self, method: str) -> dict[str, Any]:
        base, *models = self._inputs(method)
        weighted = method not in ("slerp", "model_stock")
        entries = [
            {"model": str(model), **({"parameters": {"weight": weight}} if weighted else {})}
            for model, weight in zip(models, WEIGHTS, strict=False)
        ]
        if method == "linear":  # the base too is read and averaged
            entries = [{"model": str(base), "parameters": {"weight": 0.2}}, *entries]
        if method == "slerp":
            entries = [{"model": str(base)}, *entries]
        start = {} if method == "linear" else {"base_model": str(base)}
        return {
            "merge_method": method,
            **start,
            "models": entries,
            "parameters": PARAMETERS[method],
            "dtype": "bfloat16",
        }

    def _settle(self, method: str) -> None:
        """The inputs in the page cache, or out of it, and nothing that waits to be written."""
        os.sync()
        for folder in self._inputs(method):
            with (folder / "model.safetensors").open("rb", buffering=0) as file:
                if self.cold:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while not self.cold and file.read(CHUNK):
                    pass

    def _ours(self, recipe: Path) -> Taken:
        self._settle(recipe.stem)
        try:
            return measure(self._graft(recipe), self.root / "ours.log", self.installed)
        finally:
            shutil.rmtree(self.root / "ours", ignore_errors=True)

    def _graft(self, recipe: Path) -> list[str]:
        return [sys.executable, "-m", "graftwork.cli", "merge", str(recipe), str(self.root / "ours"), *self.options]

    def _floor(self, method: str, *options: str) -> Taken:
        self._settle(method)
        files = [str(folder / "model.safetensors") for folder in self._inputs(method)]
        size = str(Path(files[0]).stat().st_size)
        command = [sys.executable, "-m", "benchmarks.merge.floor", *options, str(self.root / "floor"), size, *files]
        return measure(command, self.root / "floor.log", self.installed)

    def _theirs(self, recipe: Path) -> Taken | None:
        if self.mergekit is None:
            return None
        self._settle(recipe.stem)
        out = self.root / "theirs"
        command = [str(Path(self.mergekit).with_name("mergekit-yaml")), str(recipe), str(out)]
        try:
            return measure(
                [*command, "--no-copy-tokenizer", "--quiet", "--random-seed", "0"],
                self.root / "theirs.log",
                {name: value for name, value in os.environ.items() if name not in OURS},
            )
        finally:
            shutil.rmtree(out, ignore_errors=True)


def install_mergekit(folder: Path) -> str:
    """An environment with mergekit; returns its Python."""
    python = folder / "mergekit" / "bin" / "python"
    if not python.with_name("mergekit-yaml").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "mergekit")], check=True)
        for package in MERGEKIT:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=True)
    return str(python)


def main() -> int:
    """Print the table and the geometric mean; 1 when a ratio that is wanted was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=parse_size, default=parse_size("500M"))
    parser.add_argument("--methods", default=",".join(PARAMETERS))
    parser.add_argument("--mergekit-python")
    parser.add_argument("--no-mergekit", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--memory")
    parser.add_argument("--device")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        return _run(options, options.folder)
    with tempfile.TemporaryDirectory() as root:
        return _run(options, Path(root))


def _run(options: argparse.Namespace, root: Path) -> int:
    asked, known = options.methods.split(","), methods()
    mergekit = None if options.no_mergekit else options.mergekit_python or install_mergekit(root)
    family = write_family(root / f"family-{options.parameters}", options.parameters)
    chosen = {"--memory": options.memory, "--device": options.device}
    ours = [word for option, value in chosen.items() if value for word in (option, value)]
    bench = Bench(root, family, mergekit, ours, cold=options.cold)
    print(HEADING)
    rows = []
    for method in asked:
        if method not in known:
            print(f"{method:16} is no merge method", flush=True)
            continue
        rows.append(bench.row(method, options.rounds))
        print(rows[-1].line(), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    return _judge(rows)


def _judge(rows: Sequence[Row]) -> int:
    ratios = {row.method: row.theirs.wall / row.ours.wall for row in rows if row.theirs is not None}
    if not ratios:
        return 0
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    print(f"geometric mean of {len(ratios)}: {mean:.1f} times mergekit's speed (wanted {MEAN:.0f})")
    missed = [method for method, ratio in ratios.items() if ratio < WANTED.get(method, AT_LEAST)]
    if missed:
        print(f"below what is wanted: {', '.join(missed)}")
    return int(bool(missed) or (len(ratios) == len(PARAMETERS) and mean < MEAN))


def _best(runs: Sequence[Taken]) -> Taken:
    return Taken(*(min(column) for column in zip(*((run.wall, run.cpu, run.resident) for run in runs), strict=True)))


if __name__ == "__main__":
    sys.exit(main())
