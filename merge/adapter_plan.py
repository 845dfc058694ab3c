"""What a merge of adapters will do, found from headers and configurations alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import IncompatibleModels, InvalidRecipe
from graftwork.merge.binding import Binding
from graftwork.merge.layers import depth_of, find_blocks
from graftwork.merge.method import Method
from graftwork.merge.modifiers.lines import Lines
from graftwork.merge.recipe import DTYPES, ModelEntry, Recipe
from graftwork.merge.sources import Finder, Origin, open_adapter
from graftwork.merge.writer import tensor_bytes
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.peft import AdapterLayout, check_against_base


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """One module of the output: its sizes, its rank, its method's parameters and the factor LiNeS gives it."""

    name: str
    in_features: int
    out_features: int
    rank: int
    method: Any
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """A merge of adapters of one base into one adapter."""

    recipe: Recipe
    method: Method
    models: tuple[Origin, ...]
    layouts: tuple[AdapterLayout, ...]
    base: Origin | None
    base_model: str | None
    modules: tuple[ModulePlan, ...]
    dtype: str

    @property
    def output_bytes(self) -> int:
        """Bytes of all factors of the output."""
        return sum(
            tensor_bytes(self.dtype, (module.rank, module.in_features + module.out_features)) for module in self.modules
        )

    @property
    def input_bytes(self) -> int:
        """Bytes of all factors that are read."""
        return sum(info.nbytes for layout in self.layouts for info in layout.header.tensors.values())

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """What the recipe says of each of `models`."""
        return self.recipe.models

    def summary(self) -> dict[str, object]:
        """What the command line prints: plain values by name."""
        return {
            "method": self.method.name,
            "space": self.method.space,
            "base": self.base_model,
            "models": [origin.label for origin in self.models],
            "modules": len(self.modules),
            "ranks": sorted({module.rank for module in self.modules}),
            "dtypes": [self.dtype],
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
        }

    def close(self) -> None:
        """Nothing is held open."""


def plan_adapters(recipe: Recipe, method: Method, lines: Lines | None, finder: Finder) -> AdapterPlan:
    """Check that the adapters fit together, and lay the result out.

    Raises IncompatibleModels, IncompatibleAdapter naming the module, InvalidRecipe for parameters, and what reading
    the adapters raises.
    """
    if lines is not None and lines.alpha is None:
        raise InvalidRecipe(where="modifiers[0].lines.alpha", reason="auto is for whole models; give a number")
    if recipe.tokenizer_source is not None:
        raise InvalidRecipe(where="tokenizer_source", reason="an adapter has no tokenizer of its own")
    models = tuple(finder.find(entry.model) for entry in recipe.models)
    layouts = tuple(open_adapter(origin) for origin in models)
    _check_layouts(models, layouts)
    base = finder.find(recipe.base_model) if recipe.base_model else None
    base_model = _check_base(recipe, base, models, layouts)
    dtype = recipe.out_dtype or recipe.dtype
    return AdapterPlan(
        recipe=recipe,
        method=method,
        models=models,
        layouts=layouts,
        base=base,
        base_model=base_model,
        modules=_plan_modules(Binding(method, recipe, recipe.models), layouts, lines),
        dtype=DTYPES[dtype] if dtype else "F32",
    )


def _check_layouts(models: Sequence[Origin], layouts: Sequence[AdapterLayout]) -> None:
    for origin, layout in zip(models[1:], layouts[1:], strict=True):
        if layout.config.fan_in_fan_out != layouts[0].config.fan_in_fan_out:
            reason = "fan_in_fan_out is true in only one of them"
            raise IncompatibleModels(model=origin.label, other=models[0].label, reason=reason)
    sizes: dict[str, tuple[int, int, str]] = {}
    for origin, layout in zip(models, layouts, strict=True):
        for module in layout.modules.values():
            size = (module.out_features, module.in_features)
            *known, owner = sizes.setdefault(module.module, (*size, origin.label))
            if tuple(known) != size:
                reason = f"{module.module!r} is {list(size)} in the one and {known} in the other"
                raise IncompatibleModels(model=origin.label, other=owner, reason=reason)


def _check_base(
    recipe: Recipe, base: Origin | None, models: Sequence[Origin], layouts: Sequence[AdapterLayout]
) -> str | None:
    """The name of the one base of all adapters, for adapter_config.json."""
    if base is not None:
        shapes = {name: located.info for name, located in _base_tensors(base).items()}
        for origin, layout in zip(models, layouts, strict=True):
            check_against_base(layout, shapes, adapter_name=origin.label, base_name=base.label)
        return recipe.base_model
    pinned = {origin.version.base for origin in models if origin.version is not None}
    named = [layout.config.base_model_name_or_path for layout in layouts]
    if len(pinned) == 1 and all(origin.version is not None for origin in models):
        return named[0]
    for origin, name in zip(models, named, strict=True):
        if name != named[0] or len(pinned) > 1:
            reason = f"they are for different bases, {name!r} and {named[0]!r}; if they are one, name it as base_model"
            raise IncompatibleModels(model=origin.label, other=models[0].label, reason=reason)
    return named[0]


def _base_tensors(base: Origin) -> Any:
    return read_checkpoint(base.root, links_to=base.links_to).tensors


def _plan_modules(binding: Binding, layouts: Sequence[AdapterLayout], lines: Lines | None) -> tuple[ModulePlan, ...]:
    names = list(dict.fromkeys(name for layout in layouts for name in layout.modules))
    blocks = find_blocks(names)
    planned = []
    for name in names:
        members = [layout.modules[name] for layout in layouts if name in layout.modules]
        method = binding.at(name, depth_of(name, blocks))
        scale = 1.0 if lines is None else lines.coefficient(blocks.get(name), lines.alpha or 0.0)
        rank = method.rank([member.rank for member in members])
        planned.append(ModulePlan(name, members[0].in_features, members[0].out_features, rank, method, scale))
    _check_rank(planned, layouts)
    return tuple(planned)


def _check_rank(planned: Sequence[ModulePlan], layouts: Sequence[AdapterLayout]) -> None:
    """A rank that no module can reach is a mistake; one that some cannot reach, because adapters lack them, is not."""
    for module in planned:
        wanted = getattr(module.method, "rank_", None)
        if wanted is None or module.rank == wanted:
            return
    units = max(sum(layout.modules[m.name].rank for layout in layouts if m.name in layout.modules) for m in planned)
    reason = f"rank is {planned[0].method.rank_}, and the adapters' ranks add up to at most {units}"
    raise InvalidRecipe(where="parameters.rank", reason=reason)
