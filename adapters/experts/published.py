"""Checkpoints of trained mixtures of LoRA experts, as their authors' code and PEFT save them, made expert sets.

A folder has `adapter_config.json` beside `adapter_model.safetensors` (pickles are not read; save them as safetensors
first). The layout is told by the tensors' names:

SMoRA   github.com/StyxXuan/smora: MODULE.lora_A, lora_B, lora_router [.weight], lora_biases; activate_r, rank_partition
MoLA    github.com/GCYZSL/MoLA: MODULE.lora_A_E.weight (or lora_A.NAME_E.weight), lora_B_E, router.router.weight; top_k
Poly    PEFT's POLY (also MHR): MODULE.poly_lora_A, poly_lora_B, poly_router.module_logits; n_tasks, n_skills, n_splits
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.adapters.experts.expert_set import Values, read_values
from graftwork.errors import InvalidExpertSet
from graftwork.registry.formats.config import read_object
from graftwork.registry.formats.experts import CONFIG_FILE, FORMAT, WEIGHTS_FILE
from graftwork.registry.formats.safetensors import build_header, read_header

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
SMORA = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_router|lora_biases)(\.weight)?")
MOLA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.[A-Za-z0-9-]+)?_(?P<expert>\d+)\.weight")
MOLA_ROUTER = re.compile(r"(?P<module>.+)\.router\.router\.weight")
POLY = re.compile(r"(?P<module>.+)\.(?P<part>poly_lora_A|poly_lora_B|poly_router\.module_logits)")
EPSILON = 1e-12
"""What PEFT adds to the sum of a task's weights."""


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint in the form of an expert set: the document, and the tensors of the weights."""

    layout: str
    document: Mapping[str, Any]
    tensors: Mapping[str, Values]

    def write(self, folder: Path) -> None:
        """The two files, in float32, into an existing folder."""
        text = json.dumps(self.document, indent=2, sort_keys=True, allow_nan=False)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        start, _ = build_header([(name, "F32", values.shape) for name, values in self.tensors.items()], {})
        with (folder / WEIGHTS_FILE).open("wb") as file:
            file.write(start)
            for values in self.tensors.values():
                file.write(np.ascontiguousarray(values, np.float32).tobytes())


def read_published(folder: Path) -> Published:
    """The checkpoint in `folder`. Raises InvalidExpertSet for a layout that is none of the above, NonFiniteTensor."""
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise InvalidExpertSet(path=str(folder), reason=f"it has no {name}")
    config = read_object(folder / PEFT_CONFIG, PEFT_CONFIG)
    header = read_header(folder / PEFT_WEIGHTS, label=PEFT_WEIGHTS)
    tensors = {
        name.removeprefix(PREFIX): read_values(folder / PEFT_WEIGHTS, info) for name, info in header.tensors.items()
    }
    names = list(tensors)
    if any("poly_lora_" in name for name in names):
        return _poly(folder, config, tensors)
    if any("lora_router" in name for name in names):
        return _smora(folder, config, tensors)
    if any(MOLA_ROUTER.fullmatch(name) for name in names):
        return _mola(folder, config, tensors)
    raise InvalidExpertSet(path=str(folder), reason="it is neither SMoRA, MoLA nor Poly: it has no router's tensors")


def _smora(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Values]) -> Published:
    """y = (alpha / k) B (k g A x): the bias is among the gates, as in the authors' code."""
    top, alpha = _number(folder, config, "activate_r"), _number(folder, config, "lora_alpha")
    modules = _grouped(folder, tensors, SMORA, "SMoRA", ("lora_A", "lora_B", "lora_router"))
    written: dict[str, Values] = {}
    for module, parts in modules.items():
        written[f"experts.smora.{module}.lora_A"] = parts["lora_A"]
        written[f"experts.smora.{module}.lora_B"] = parts["lora_B"] * np.float32(alpha / top)
        written[f"router.{module}.weight"] = parts["lora_router"]
        if "lora_biases" in parts:
            written[f"router.{module}.bias"] = parts["lora_biases"]
    router = {
        "kind": "linear", "unit": "rank", "activation": "sigmoid", "top_k": int(top), "bias": "gates",
        "renormalise": True, "gate_scale": top,
    }  # fmt: skip
    return Published("SMoRA", _document(["smora"], router), written)


def _mola(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Values]) -> Published:
    """Softmax over the experts of a layer, its top k at sum 1, each times alpha / rank."""
    alpha = _number(folder, config, "lora_alpha")
    tops = config.get("top_k", 2)
    top = set(tops) if isinstance(tops, list) else {tops}
    if len(top) != 1 or not isinstance(next(iter(top)), int):
        raise InvalidExpertSet(path=str(folder), reason=f"its top_k is {tops!r}; one number for all layers is accepted")
    written: dict[str, Values] = {}
    experts: set[int] = set()
    for name, values in tensors.items():
        if (match := MOLA_ROUTER.fullmatch(name)) is not None:
            written[f"router.{match['module']}.weight"] = values
        elif (match := MOLA.fullmatch(name)) is not None:
            expert = int(match["expert"])
            experts.add(expert)
            scaled = values * np.float32(alpha / values.shape[1]) if match["side"] == "B" else values
            written[f"experts.e{expert}.{match['module']}.lora_{match['side']}"] = scaled
        else:
            raise InvalidExpertSet(path=str(folder), reason=f"the tensor {name!r} has no place in MoLA")
    router = {"kind": "linear", "top_k": next(iter(top))}
    return Published("MoLA", _document([f"e{expert}" for expert in sorted(experts)], router), written)


def _poly(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Values]) -> Published:
    """A [heads, skills, in / heads, r] and B [heads, skills, r, out / heads], mixed as factors; y = x A B / r."""
    needed = ("poly_lora_A", "poly_lora_B", "poly_router.module_logits")
    written: dict[str, Values] = {}
    tasks = skills = 0
    for module, parts in _grouped(folder, tensors, POLY, "Poly", needed).items():
        a, b, logits = (parts[part] for part in needed)
        heads, skills, share, rank = a.shape
        tasks = len(logits)
        for skill in range(skills):
            key = f"experts.s{skill}.{module}"
            written[f"{key}.lora_A"] = a[:, skill].reshape(heads * share, rank).T
            written[f"{key}.lora_B"] = b[:, skill].transpose(0, 2, 1).reshape(-1, rank) / np.float32(rank)
        gates = 1 / (1 + np.exp(-logits.reshape(tasks, heads, skills).astype(np.float64)))
        written[f"tasks.{module}"] = (gates / (gates.sum(axis=-1, keepdims=True) + EPSILON)).astype(np.float32)
    router = {"kind": "task-table", "combine": "factors", "tasks": [str(task) for task in range(tasks)]}
    return Published("Poly", _document([f"s{skill}" for skill in range(skills)], router), written)


def _grouped(
    folder: Path, tensors: Mapping[str, Values], pattern: re.Pattern[str], layout: str, needed: tuple[str, ...]
) -> dict[str, dict[str, Values]]:
    modules: dict[str, dict[str, Values]] = {}
    for name, values in tensors.items():
        match = pattern.fullmatch(name)
        if match is None:
            raise InvalidExpertSet(path=str(folder), reason=f"the tensor {name!r} has no place in {layout}")
        modules.setdefault(match["module"], {})[match["part"]] = values
    for module, parts in modules.items():
        if missing := set(needed) - set(parts):
            raise InvalidExpertSet(path=str(folder), reason=f"{module} has no {min(missing)}")
    return modules


def _number(folder: Path, config: Mapping[str, object], field: str) -> float:
    value = config.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        reason = f"the {field} of its {PEFT_CONFIG} is {value!r}; a positive number is due"
        raise InvalidExpertSet(path=str(folder), reason=reason)
    return float(value)


def _document(experts: list[str], router: Mapping[str, object]) -> dict[str, object]:
    return {"format": FORMAT, "experts": [{"name": name} for name in experts], "router": dict(router)}
