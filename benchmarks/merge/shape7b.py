"""Peak memory of `graft merge` on models of 0.5 and of 7 billion parameters, with the default --memory.

    python -m benchmarks.merge.shape7b [--methods ties,linear] [--models 1] [--folder FOLDER]

Writes a base and models with the shapes of Llama 2 7B in bfloat16, and the family of the merge benchmark with as many
models. Of the large ones the embedding, the head and the first layer hold weights; the other layers are holes in the
file, which are read as zeros like any weights but take no disk: each model takes 1 GB there, the output 13.5 GB. Prints
what each merge took, and fails when a process has more than 600 MB of memory of its own, which is what the system
counts as anonymous and no page of a file. Everything that was written is deleted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.merge.family import CHUNK, DEVIATION, Shape, write_family
from graftwork.registry.formats.safetensors import build_header

SEVEN = Shape(vocabulary=32_000, hidden=4096, intermediate=11_008, layers=32)
HALF = 500_000_000
LIMIT = 600_000_000
EVERY = 0.02
OTHERS = tuple(f"model.layers.{layer}." for layer in range(1, SEVEN.layers))


def write_sparse_model(folder: Path, number: int) -> Path:
    """One model of seven billion parameters; number 0 is the base."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SEVEN.config()))
    start, header = build_header([(name, "BF16", size) for name, size in SEVEN.tensors()], {"format": "pt"})
    with (folder / "model.safetensors").open("wb") as file:
        file.write(start)
        file.truncate(header.size)
        for position, (name, info) in enumerate(header.tensors.items()):
            if not name.startswith(OTHERS):
                file.seek(info.begin)
                _fill(file.fileno(), info.numel, position, number)
    return folder


def _fill(file: int, numel: int, position: int, number: int) -> None:
    base, step = np.random.default_rng([0, position]), np.random.default_rng([number, position])
    with open(file, "wb", closefd=False, buffering=0) as raw:
        for first in range(0, numel, CHUNK):
            count = min(CHUNK, numel - first)
            values = (base.standard_normal(count, np.float32) * np.float32(DEVIATION)).astype(ml_dtypes.bfloat16)
            if number:
                moved = values.astype(np.float32) + step.standard_normal(count, np.float32) * np.float32(1e-3)
                values = moved.astype(ml_dtypes.bfloat16)
            raw.write(values.tobytes())


def peaks(command: Sequence[str], log: Path) -> tuple[float, int]:
    """Seconds, and the most bytes of anonymous memory that a command had. Raises CalledProcessError."""
    began, most = time.perf_counter(), 0
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as child:
        while child.poll() is None:
            most = max(most, _anonymous(child.pid))
            time.sleep(EVERY)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, log.read_bytes()[-2000:])
    return time.perf_counter() - began, most


def _anonymous(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def main() -> int:
    """Print the table; the exit status says whether every peak was below the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="ties,linear")
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    most = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        small = write_family(Path(root) / "half", HALF, options.models)
        large = [write_sparse_model(Path(root) / f"seven-{number}", number) for number in range(options.models + 1)]
        print(f"{'method':16}{'parameters':>12}{'seconds':>9}{'MB of its own':>15}")
        for method in options.methods.split(","):
            for size, family in (("0.5B", small), ("7B", large)):
                seconds, peak = _merge(Path(root), method, family)
                print(f"{method:16}{size:>12}{seconds:9.1f}{peak / 1e6:15.0f}", flush=True)
                most = max(most, peak)
    return int(most > LIMIT)


def _merge(root: Path, method: str, family: Sequence[Path]) -> tuple[float, int]:
    base, *models = map(str, family)
    named = [base, *models] if method == "linear" else models
    recipe: dict[str, object] = {
        "merge_method": method,
        "models": [{"model": model} for model in named],
        "dtype": "bfloat16",
    }
    if method != "linear":
        recipe["base_model"] = base
    if method == "ties":
        recipe["parameters"] = {"density": 0.2}
    (root / "recipe.yaml").write_text(json.dumps(recipe))
    out = root / "merged"
    command = [sys.executable, "-m", "graftwork.cli", "merge", str(root / "recipe.yaml"), str(out)]
    try:
        return peaks(command, root / "log")
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
