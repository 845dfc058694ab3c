"""The demo's recipes: the full fine-tunes merged in three ways, the adapters in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NAMESPACE = "demo"
BASE = f"{NAMESPACE}/base"


@dataclass(frozen=True, slots=True)
class Merge:
    """One way to merge: its heading in the table, the artifact it makes, and its recipe without the models."""

    title: str
    name: str
    of_adapters: bool
    settings: dict[str, Any]

    @property
    def artifact(self) -> str:
        """The artifact, `ns/name`."""
        return f"{NAMESPACE}/{self.name}"

    def recipe(self, base: str, models: Sequence[str]) -> dict[str, Any]:
        """The whole recipe, over references to the base and the models."""
        entries = [{"model": model} for model in models]
        return {**self.settings, "base_model": base, "models": entries, "output": {"name": self.artifact}}


MERGES = (
    Merge(
        "task\narithmetic",
        "task-arithmetic",
        False,
        {"merge_method": "task_arithmetic", "parameters": {"lambda": 0.35}},
    ),
    Merge(
        "TIES",
        "ties",
        False,
        {"merge_method": "ties", "parameters": {"density": 0.5, "lambda": 0.8}},
    ),
    Merge(
        "TIES +\nLiNeS",
        "ties-lines",
        False,
        {
            "merge_method": "ties",
            "parameters": {"density": 0.5},
            "modifiers": [{"lines": {"alpha": 0.75, "beta": 0.25}}],
        },
    ),
    Merge(
        "LoRA\ncat",
        "lora-cat",
        True,
        {"merge_method": "lora_cat", "parameters": {"weight": 0.4}},
    ),
    Merge(
        "LoRA\nLEGO",
        "lora-lego",
        True,
        {"merge_method": "lora_lego", "parameters": {"rank": 32}},
    ),
)


def write_recipes(folder: Path, base: str, fine_tunes: Sequence[str], adapters: Sequence[str]) -> dict[str, Path]:
    """One file a merge, for the user to read and change; by the name of the merge. Models are given as references."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for merge in MERGES:
        recipe = merge.recipe(base, adapters if merge.of_adapters else fine_tunes)
        paths[merge.name] = folder / f"{merge.name}.yaml"
        paths[merge.name].write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return paths
