"""Carry a plan for adapters out: one module after another, whole, since factors are small."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from graftwork.adapters.algebra.algebra import cat, scale, truncate
from graftwork.adapters.algebra.lowrank import Approximation, nearest
from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors, load_module, load_raw, save_lora
from graftwork.merge.lora.products import Change, Changes, combine, measure, measure_module, weights
from graftwork.merge.output.writer import OutputFolder
from graftwork.merge.plan.adapter_plan import AdapterPlan, ModulePlan
from graftwork.merge.statistics.passes import Extent, Statistic
from graftwork.progress import Progress
from graftwork.registry.formats.peft import AdapterLayout
from graftwork.registry.storage.blobs import refuse_full

ENERGY_FILE = "energy.json"
"""For each module that was brought to a rank the share of its squared Frobenius norm that was kept."""
Pair = TypeVar("Pair")


def write_adapter(plan: AdapterPlan, output: OutputFolder, progress: Progress) -> None:
    """Write the merged adapter as PEFT does. Raises NonFiniteTensor, StorageFull, and whatever `progress` raises."""
    merged: dict[str, LoraFactors] = {}
    energy: dict[str, float] = {}
    total = sum(module.rank * (module.in_features + module.out_features) for module in plan.modules)
    done = 0
    progress("merge", 0, total)
    fusion = _Fusion(plan)
    for module in plan.modules:
        result = fusion.merge(module)
        merged[module.name] = result.factors
        if module.form != "factors":
            energy[module.name] = result.energy
        done += module.rank * (module.in_features + module.out_features)
        progress("merge", done, total)
    first = plan.layouts[0].config
    task = first.raw.get("task_type")
    with refuse_full(output.out.parent):
        save_lora(
            LoraAdapter(output.out.name, merged),
            output.partial,
            base_model=plan.base_model,
            dtype=plan.dtype,
            fan_in_fan_out=first.fan_in_fan_out,
            task_type=task if isinstance(task, str) else None,
            target_modules=_common_targets(plan),
        )
    if energy:
        output.write_file(ENERGY_FILE, json.dumps(energy, indent=2).encode() + b"\n")


@dataclass
class _Fusion:
    """The methods of a plan at work; what is measured of the whole adapters is kept."""

    plan: AdapterPlan
    of_model: dict[Statistic[Any], Any] = field(default_factory=dict)

    def merge(self, module: ModulePlan) -> Approximation:
        """One module of the result, scaled as LiNeS asks."""
        if module.form == "factors":
            load = load_raw if getattr(module.method, "raw", False) else load_module
            factors = [_loaded(layout, module.name, load) for layout in self.plan.layouts]
            whole = module.method.merge(module.name, factors, self.plan.recipe.seed)
            return Approximation(scale(whole, module.scale), 1.0)
        if module.form == "weights":
            return self._weighted(module)
        changes = self._changes(module)
        inside, outside = (module.scale, 1.0) if self.plan.method.space == "delta" else (1.0, module.scale)
        matrix = combine(module.method, changes, self._measured(module, changes), inside)
        found = nearest(matrix, module.rank, seed=self.plan.recipe.seed, name=module.name)
        return Approximation(scale(found.factors, outside), found.energy)

    def _weighted(self, module: ModulePlan) -> Approximation:
        """The factors side by side with the method's weights, cut to the rank where they are more."""
        origin, inputs = self._load(module)
        empty = _nothing(module)
        found = weights(
            module.method,
            module.name,
            None if self.plan.origin is None else origin or empty,
            [pair or empty for pair in inputs],
            self.plan.method.needs_base,
        )
        sides = inputs if self.plan.origin is None else [origin, *inputs]
        if self.plan.origin is not None and self.plan.method.space == "delta":
            found = [1 - module.scale * (1 - found[0]), *(module.scale * weight for weight in found[1:])]
        else:
            found = [module.scale * weight for weight in found]
        present = [(pair, weight) for pair, weight in zip(sides, found, strict=True) if pair is not None]
        exact = cat([pair for pair, _ in present], [weight for _, weight in present])
        return Approximation(exact, 1.0) if exact.rank <= module.rank else truncate(exact, module.rank)

    def _measured(self, module: ModulePlan, changes: Changes) -> Any:
        statistic = module.method.statistic()
        if statistic is None or statistic.scope == "tensor":
            return measure_module(module.method, changes)
        if statistic not in self.of_model:
            matrices = [other for other in self.plan.modules if other.form == "matrix"]
            numel = sum(other.in_features * other.out_features for other in matrices)
            extent = Extent(numel, len(self.plan.models))
            self.of_model[statistic] = measure(statistic, extent, lambda: map(self._changes, matrices))
        return self.of_model[statistic]

    def _changes(self, module: ModulePlan) -> Changes:
        origin, inputs = self._load(module)
        width = module.in_features
        base = Change(width, factors=origin) if self.plan.origin is not None or self.plan.method.needs_base else None
        shape = module.out_features, width
        changes = tuple(Change(width, factors=pair) for pair in inputs)
        return Changes(module.name, shape, base, changes, self.plan.recipe.seed)

    def _load(self, module: ModulePlan) -> tuple[LoraFactors | None, list[LoraFactors | None]]:
        """The factors of the base, where it is an adapter, and of the models; None where one lacks the module."""
        origin = self.plan.origin
        own = None if origin is None else _loaded(origin, module.name, load_module)
        return own, [_loaded(layout, module.name, load_module) for layout in self.plan.layouts]


def _loaded(layout: AdapterLayout, module: str, load: Callable[[AdapterLayout, str], Pair]) -> Pair | None:
    return load(layout, module) if module in layout.modules else None


def _nothing(module: ModulePlan) -> LoraFactors:
    """A change of rank 0."""
    return LoraFactors(np.zeros((0, module.in_features), np.float32), np.zeros((module.out_features, 0), np.float32))


def _common_targets(plan: AdapterPlan) -> list[str] | None:
    """The target_modules of the inputs, where they say the same and adapt the same modules; None for full names."""
    first = plan.layouts[0]
    named = first.config.target_modules
    narrowed = any(
        layout.config.raw.get(key)
        for layout in plan.layouts
        for key in ("layers_to_transform", "layers_pattern", "exclude_modules")
    )
    same = all(
        isinstance(layout.config.target_modules, tuple)
        and set(layout.config.target_modules) == set(named or ())
        and layout.modules.keys() == first.modules.keys()
        for layout in plan.layouts
    )
    return list(named) if isinstance(named, tuple) and same and not narrowed else None
