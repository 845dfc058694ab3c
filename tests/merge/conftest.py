"""Small checkpoints written straight as safetensors, and recipes over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from graftwork.merge.recipe.recipe import Recipe, load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

Tensors = dict[str, NDArray[Any]]
NUMPY_DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (37, 11),
    "model.layers.0.mlp.weight": (257, 301),
    "model.layers.1.mlp.weight": (257, 301),
    "model.layers.2.mlp.weight": (257, 301),
    "model.norm.weight": (13,),
    "model.scale": (),
    "model.empty": (0, 5),
}


@dataclass
class Workbench:
    """A folder of checkpoints that share SHAPES, and ways to merge them."""

    root: Path

    def write(self, name: str, tensors: Mapping[str, NDArray[Any]], *, shards: int = 1) -> str:
        """Write a checkpoint, in several files if asked for; returns its path."""
        folder = self.root / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "torch_dtype": "float32"}))
        (folder / "tokenizer.json").write_text(json.dumps({"from": name}))
        names = list(tensors)
        if shards == 1:
            save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
            return str(folder)
        weight_map: dict[str, str] = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            chosen = {tensor: tensors[tensor] for tensor in names[shard::shards]}
            save_file(chosen, folder / file, {"format": "pt"})
            weight_map |= dict.fromkeys(chosen, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return str(folder)

    def random(self, seed: int, dtype: str = "F32", around: Tensors | None = None, spread: float = 0.01) -> Tensors:
        """Random weights, or random steps away from others."""
        random = np.random.default_rng(seed)
        tensors = {}
        for name, shape in SHAPES.items():
            values = random.normal(size=shape)
            if around is not None:
                values = around[name].astype(np.float64) + spread * values
            tensors[name] = np.asarray(values).astype(NUMPY_DTYPES[dtype])
        return tensors

    def family(self, models: int = 2, dtype: str = "F32") -> tuple[list[str], list[Tensors]]:
        """A base and models near it: their paths and their weights, the base first."""
        base = self.random(0, dtype)
        weights = [base] + [self.random(seed, dtype, base, 0.01 * seed) for seed in range(1, models + 1)]
        return [self.write(f"model-{number}", tensors) for number, tensors in enumerate(weights)], weights

    def recipe(self, method: str, paths: list[str], *, base: bool = True, **more: Any) -> Recipe:
        """A recipe over `paths`, the first of which is the base if there is one."""
        per_model = more.pop("per_model", [{}] * len(paths))
        models = paths[1:] if base else paths
        raw = {
            "merge_method": method,
            "models": [
                {"model": path, "parameters": parameters} for path, parameters in zip(models, per_model, strict=False)
            ],
            **({"base_model": paths[0]} if base else {}),
            **more,
        }
        return load_recipe(raw)

    def merge(self, recipe: Recipe, name: str = "merged", **settings: Any) -> Tensors:
        """Merge into a folder and read it back."""
        return self.read(merge(recipe, out=self.root / name, settings=Settings(**{"threads": 2, **settings})))

    def read(self, folder: Path) -> Tensors:
        """The tensors of a checkpoint."""
        tensors: Tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """An empty workbench."""
    return Workbench(tmp_path)


@pytest.fixture
def close() -> Callable[[Tensors, Tensors, str], None]:
    """Asserts that merged tensors are float64 results rounded once to a dtype, give or take float32 arithmetic."""

    def check(actual: Tensors, expected: Tensors, dtype: str) -> None:
        assert actual.keys() == expected.keys()
        steps = {"F32": 2.0**-22, "F16": 2.0**-10, "BF16": 2.0**-7}
        for name, values in expected.items():
            assert actual[name].dtype == NUMPY_DTYPES[dtype]
            assert actual[name].shape == values.shape
            got = actual[name].astype(np.float64)
            np.testing.assert_allclose(got, values, rtol=steps[dtype], atol=1e-6, err_msg=name)

    return check
