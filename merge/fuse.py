"""Carry a plan for adapters out: one module after another, whole, since factors are small."""

from __future__ import annotations

from graftwork.adapters.algebra import scale
from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors, load_module, save_lora
from graftwork.merge.adapter_plan import AdapterPlan
from graftwork.merge.writer import OutputFolder
from graftwork.progress import Progress
from graftwork.registry.blobs import refuse_full


def write_adapter(plan: AdapterPlan, output: OutputFolder, progress: Progress) -> None:
    """Write the merged adapter as PEFT does. Raises NonFiniteTensor, StorageFull, and whatever `progress` raises."""
    merged: dict[str, LoraFactors] = {}
    total = sum(module.rank * (module.in_features + module.out_features) for module in plan.modules)
    done = 0
    progress("merge", 0, total)
    for module in plan.modules:
        factors = [
            load_module(layout, module.name) if module.name in layout.modules else None for layout in plan.layouts
        ]
        merged[module.name] = scale(module.method.merge(module.name, factors, plan.recipe.seed), module.scale)
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
