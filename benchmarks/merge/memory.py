"""Peak memory of `graft merge --memory 256MB` on inputs far larger than that.

    python -m benchmarks.merge.memory [--largest 1GB] [--total 2GB] [--memory 256MB] [--folder FOLDER]

Writes a base and a model of `total` bytes each, bfloat16, with one tensor of `largest` bytes, merges them by several
methods in a child process each, prints one row a method, and fails when a peak is above 700 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks.merge.children import measure
from graftwork.registry.formats.safetensors import build_header
from graftwork.settings import parse_size

LIMIT = 700_000_000
CHUNK = 1 << 22
WIDTH = 4096
RECIPES: dict[str, dict[str, object]] = {
    "ties": {"merge_method": "ties", "parameters": {"density": 0.2}},
    "ties, paper, lines auto": {
        "merge_method": "ties",
        "parameters": {"density": 0.2, "variant": "paper"},
        "modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}],
    },
    "slerp": {"merge_method": "slerp", "parameters": {"t": 0.5}},
}


def write_model(folder: Path, seed: int, largest: int, total: int) -> None:
    """A checkpoint of random bfloat16 weights, written in chunks."""
    folder.mkdir()
    block = largest // 16
    rows = [("model.embed_tokens.weight", largest)]
    rows += [(f"model.layers.{layer}.mlp.weight", block) for layer in range((total - largest) // block)]
    tensors = [(name, "BF16", (size // 2 // WIDTH, WIDTH)) for name, size in rows]
    start, header = build_header(tensors, {"format": "pt"})
    random = np.random.default_rng(seed)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(start)
        left = (header.size - len(start)) // 2
        while left:
            count = min(left, CHUNK)
            file.write(random.standard_normal(count, np.float32).astype(ml_dtypes.bfloat16).tobytes())
            left -= count


def main() -> int:
    """Print the table; the exit status says whether every peak was below the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=parse_size, default=parse_size("1GB"))
    parser.add_argument("--total", type=parse_size, default=parse_size("2GB"))
    parser.add_argument("--memory", default="256MB")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        folder = Path(root)
        for seed, name in enumerate(("base", "model")):
            write_model(folder / name, seed, options.largest, options.total)
        print(
            f"{'method':28} {'seconds':>8} {'peak MB':>8}   (limit {LIMIT // 1_000_000} MB, --memory {options.memory})"
        )
        peaks = [_merge(folder, name, options.memory) for name in RECIPES]
    return int(max(peaks) > LIMIT)


def _merge(folder: Path, name: str, memory: str) -> int:
    recipe = {**RECIPES[name], "base_model": str(folder / "base"), "models": [{"model": str(folder / "model")}]}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    out = folder / "merged"
    command = ["merge", str(folder / "recipe.yaml"), str(out), "--memory", memory]
    taken = measure([sys.executable, "-m", "graftwork.cli", *command], folder / "log")
    shutil.rmtree(out)
    print(f"{name:28} {taken.wall:8.1f} {taken.resident / 1e6:8.0f}", flush=True)
    return taken.resident


if __name__ == "__main__":
    sys.exit(main())
