"""`python -m benchmarks.agreement`: the same YAML in mergekit 0.1.5 and here, tensor by tensor.

    python -m benchmarks.agreement [--mergekit PYTHON] [--only NAME]

mergekit is installed into an environment of its own, unless the Python of one that has it is named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.agreement.cases import Case, cases
from benchmarks.agreement.environment import mergekit_python
from benchmarks.agreement.models import make_models
from graftwork.errors import GraftworkError
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

THEIRS = Path(__file__).with_name("theirs.py")
CLOSE = 2e-6
"""What float32 arithmetic may differ by, relative to the largest element of a tensor."""
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest difference of an element, relative to the largest element of its tensor, and where it is."""

    value: float
    tensor: str = ""
    error: str = ""

    @property
    def is_small(self) -> bool:
        """Whether arithmetic in float32 accounts for it."""
        return not self.error and self.value <= CLOSE

    @property
    def place(self) -> str:
        """Where it is, or what went wrong."""
        return self.error or self.tensor or "nowhere"

    def __str__(self) -> str:
        return "error" if self.error else f"{self.value:.1e}"


def main() -> int:
    """Print the table; 1 when something differs that is not listed as different."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement")
    parser.add_argument("--mergekit", type=Path, help="the Python of an environment that has mergekit 0.1.5")
    parser.add_argument("--only", help="a part of a case's name")
    options = parser.parse_args()
    python = options.mergekit or mergekit_python()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="agreement-") as root:
        for dtype in ("float32", "bfloat16"):
            failed += _compare(Path(root) / dtype, dtype, python, options.only or "")
    return 1 if failed else 0


def _compare(root: Path, dtype: str, python: Path, only: str) -> int:
    root.mkdir()
    models = make_models(root, dtype)
    chosen = [case for case in cases(models, dtype) if only in case.name]
    recipes, theirs = root / "recipes", root / "theirs"
    recipes.mkdir()
    theirs.mkdir()
    for case in chosen:
        (recipes / f"{case.name}.yaml").write_text(yaml.safe_dump(case.recipe, sort_keys=False))
    subprocess.run([python, THEIRS, recipes, theirs], check=True, stdout=subprocess.DEVNULL)
    print(f"\ninputs in {dtype}, arithmetic in float32\n")
    print(f"{'case':<24}{'default':<12}{'compat':<12}note")
    return sum(_report(case, root, dtype) for case in chosen)


def _report(case: Case, root: Path, dtype: str) -> int:
    expected = root / "theirs" / case.name
    if not expected.is_dir():
        said = expected.with_name(f"{case.name}.error").read_text()
        print(f"{case.name:<24}mergekit: {said[:100]}", flush=True)
        return 0
    default = _difference(case.recipe, expected, root / "ours" / case.name)
    compat = _difference({**case.recipe, "compat": "mergekit"}, expected, root / "compat" / case.name)
    excuse = case.excuse(dtype)
    agrees = bool(excuse) or (compat.is_small if case.differs else default.is_small and compat.is_small)
    note = excuse or case.differs or case.note
    print(f"{case.name:<24}{default!s:<12.11}{compat!s:<12.11}{'' if agrees else 'DISAGREES '}{note}", flush=True)
    if not agrees:
        print(f"{'':<24}default: {default.place}; compat: {compat.place}")
    return 0 if agrees else 1


def _difference(recipe: dict[str, Any], expected: Path, out: Path) -> Difference:
    try:
        merge(load_recipe(recipe), out=out, settings=Settings(threads=1))
    except GraftworkError as error:
        return Difference(0, error=f"{type(error).__name__}: {error}")
    ours, theirs = _read(out), _read(expected)
    if ours.keys() != theirs.keys():
        return Difference(0, error=f"only one has {sorted(ours.keys() ^ theirs.keys())[0]}")
    order = _order(out, expected)
    worst = Difference(0.0)
    for name, values in theirs.items():
        mine = ours[name]
        if order is not None and name in ("model.embed_tokens.weight", "lm_head.weight"):
            mine, values = mine[order[0]], values[order[1]]
        if mine.shape != values.shape:
            return Difference(0, error=f"{name} is {mine.shape}, not {values.shape}")
        scale = float(np.abs(values).max(initial=0)) or 1.0
        found = float(np.abs(mine - values).max(initial=0)) / scale
        if not found <= worst.value:
            worst = Difference(found, name)
    return worst


def _order(ours: Path, theirs: Path) -> tuple[list[int], list[int]] | None:
    """Rows of the same tokens: mergekit numbers the tokens that it adds differently each time."""
    ids = [_tokens(folder) for folder in (ours, theirs)]
    if ids[0] == ids[1] or not all(ids):
        return None
    shared = sorted(ids[0].keys() | ids[1].keys())
    return [ids[0][token] for token in shared], [ids[1][token] for token in shared]


def _tokens(folder: Path) -> dict[str, int]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    raw = json.loads(path.read_text())
    return {**raw["model"]["vocab"], **{entry["content"]: entry["id"] for entry in raw["added_tokens"]}}


def _read(folder: Path) -> Tensors:
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= {name: tensor.double().numpy() for name, tensor in load_file(path).items()}
    return tensors


if __name__ == "__main__":
    sys.exit(main())
