"""What a merge of adapters will do, found from headers and configurations alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graftwork.adapters.algebra.lowrank import working_bytes
from graftwork.errors import IncompatibleModels, InvalidAdapter, InvalidRecipe, InvalidSetting
from graftwork.merge.lora.products import SLICE, is_linear
from graftwork.merge.method import Method
from graftwork.merge.models.copies import without_copies
from graftwork.merge.models.layers import depth_of, find_blocks
from graftwork.merge.models.sources import Finder, Origin, open_adapter
from graftwork.merge.modifiers.lines import Lines
from graftwork.merge.output.shards import tensor_bytes
from graftwork.merge.plan.binding import Binding
from graftwork.merge.recipe.recipe import DTYPES, ModelEntry, Recipe
from graftwork.registry.formats.adapters.names import by_every_name
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.peft import AdapterLayout, check_against_base
from graftwork.settings import Settings

Form = Literal["factors", "weights", "matrix"]
"""How a module is merged: by a method for factors; as a weighted sum of the products b @ a, with weights found from the
factors alone; or as a matrix, which is then brought to a rank."""


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """One module of the output: its sizes, its rank, its method's parameters and the factor LiNeS gives it."""

    name: str
    in_features: int
    out_features: int
    rank: int
    method: Any
    scale: float
    form: Form


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
    entries: tuple[ModelEntry, ...]
    """What the recipe says of each of `models`."""
    origin: AdapterLayout | None = None
    """The adapter that the changes of the others are taken from, where the recipe's base_model is an adapter."""

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

    def summary(self) -> dict[str, object]:
        """What the command line prints: plain values by name."""
        return {
            "method": self.method.name,
            "space": self.method.space,
            "base": self.base_model,
            "models": [origin.label for origin in self.models],
            "modules": len(self.modules),
            "ranks": sorted({module.rank for module in self.modules}),
            "as_matrices": sum(module.form == "matrix" for module in self.modules),
            "dtypes": [self.dtype],
            "input_bytes": self.input_bytes,
            "output_bytes": self.output_bytes,
        }

    def close(self) -> None:
        """Nothing is held open."""


def plan_adapters(
    recipe: Recipe, method: Method, lines: Lines | None, settings: Settings, finder: Finder
) -> AdapterPlan:
    """Check that the adapters fit together, and lay the result out.

    Raises IncompatibleModels, IncompatibleAdapter naming the module, InvalidRecipe for parameters, InvalidSetting for
    a memory limit that does not hold one module's matrix, and what reading the adapters raises.
    """
    if lines is not None and lines.alpha is None:
        raise InvalidRecipe(where="modifiers[0].lines.alpha", reason="auto is for whole models; give a number")
    if recipe.tokenizer_source is not None:
        raise InvalidRecipe(where="tokenizer_source", reason="an adapter has no tokenizer of its own")
    if method.space == "adapter" and recipe.output.rank is not None:
        reason = f"it is for methods on the products of the factors, and {method.name} has its own rule for ranks"
        raise InvalidRecipe(where="output.rank", reason=reason)
    base = finder.find(recipe.base_model) if recipe.base_model else None
    origin = _products_of(base, None, finder) if base is not None and base.is_adapter else None
    found = [(entry, finder.find(entry.model)) for entry in recipe.models]
    if origin is not None and base is not None:
        found = [(entry, model) for entry, model in found if model.root.resolve() != base.root.resolve()]
    entries, models = tuple(entry for entry, _ in found), tuple(model for _, model in found)
    _check_roles(method, base, origin, len(models))
    layouts = tuple(_products_of(model, base if origin is None else None, finder) for model in models)
    sides = (base, *models) if base is not None and origin is not None else models
    side_layouts = (origin, *layouts) if origin is not None else layouts
    _check_layouts(sides, side_layouts)
    base_model = _check_base(recipe, base if origin is None else None, sides, side_layouts)
    dtype = recipe.out_dtype or recipe.dtype
    modules = _plan_modules(Binding(method, recipe, entries), recipe, side_layouts, lines)
    _check_memory(modules, len(sides), settings)
    return AdapterPlan(
        recipe=recipe,
        method=method,
        models=models,
        layouts=layouts,
        base=base,
        base_model=base_model,
        modules=modules,
        dtype=DTYPES[dtype] if dtype else "F32",
        entries=entries,
        origin=origin,
    )


def _products_of(origin: Origin, base: Origin | None, finder: Finder) -> AdapterLayout:
    """An adapter that is products of factors alone, beside copies of what its base has; the base is looked up."""
    layout = open_adapter(origin)
    if layout.unfoldable is not None and any(part.own for part in layout.parts.values()):
        base = base or finder.base_of(origin)
        layout = layout if base is None else without_copies(layout, base)
    if layout.unfoldable is not None:
        raise InvalidAdapter(path=origin.label, reason=layout.unfoldable)
    return layout


def _check_roles(method: Method, base: Origin | None, origin: AdapterLayout | None, count: int) -> None:
    if getattr(method.kind, "matched", False):
        raise InvalidRecipe(where="merge_method", reason=f"{method.name} is for whole models, and these are adapters")
    if origin is not None and not method.takes_base:
        raise InvalidRecipe(where="base_model", reason=f"it is an adapter, and {method.name} has no use for one")
    if method.space == "weight" and method.needs_base and origin is None:
        label = "none is given" if base is None else f"{base.label} is a whole model"
        reason = f"{method.name} begins at the base_model, which must be an adapter like the models; {label}"
        raise InvalidRecipe(where="base_model", reason=reason)
    least, most = method.models
    if count < least or (most is not None and count > most):
        expected = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        beside = " besides the base" if method.needs_base else ""
        reason = f"{method.name} takes {expected} adapter{'' if expected == '1' else 's'}{beside}; there are {count}"
        raise InvalidRecipe(where="models", reason=reason)


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
        tensors = _base_tensors(base)
        for origin, layout in zip(models, layouts, strict=True):
            shapes = by_every_name(tensors, layout.parts)
            check_against_base(layout, shapes, adapter_name=origin.label, base_name=base.label, tied_head=True)
        return recipe.base_model
    named = [layout.config.base_model_name_or_path for layout in layouts]
    pinned = [None if origin.version is None else origin.version.base for origin in models]
    for origin, name, digest in zip(models, named, pinned, strict=True):
        if digest is not None and pinned[0] is not None:
            differ, bases = digest != pinned[0], f"the versions {digest[:12]} and {pinned[0][:12]}"
        else:
            differ, bases = name != named[0], f"{name!r} and {named[0]!r}"
        if differ:
            reason = f"they are for different bases, {bases}; if they are one, name it as base_model"
            raise IncompatibleModels(model=origin.label, other=models[0].label, reason=reason)
    return named[0]


def _base_tensors(base: Origin) -> Any:
    layout = read_checkpoint(base.root, links_to=base.links_to, in_place=True)
    return {name: located.info for name, located in layout.tensors.items()}


def _plan_modules(
    binding: Binding, recipe: Recipe, layouts: Sequence[AdapterLayout], lines: Lines | None
) -> tuple[ModulePlan, ...]:
    names = list(dict.fromkeys(name for layout in layouts for name in layout.modules))
    blocks = find_blocks(names)
    planned = []
    for name in names:
        members = [layout.modules[name] for layout in layouts if name in layout.modules]
        method = binding.at(name, depth_of(name, blocks))
        scale = 1.0 if lines is None else lines.coefficient(blocks.get(name), lines.alpha or 0.0)
        ranks = [member.rank for member in members]
        first = members[0]
        form = _form(binding.method, method)
        if form == "factors":
            rank = _factors_rank(method, name, ranks)
        else:
            rank = _product_rank(recipe.output.rank, form, sum(ranks), min(first.in_features, first.out_features))
        planned.append(ModulePlan(name, first.in_features, first.out_features, rank, method, scale, form))
    _check_rank(planned, recipe, layouts)
    return tuple(planned)


def _form(method: Method, bound: Any) -> Form:
    if method.space == "adapter":
        return "factors"
    return "weights" if is_linear(method, bound) else "matrix"


def _factors_rank(method: Any, name: str, ranks: Sequence[int]) -> int:
    try:
        rank: int = method.rank(ranks)
    except ValueError as error:
        raise InvalidRecipe(where=f"the module {name}", reason=error) from None
    return rank


def _product_rank(wanted: int | str | None, form: Form, units: int, side: int) -> int:
    """The rank of a merge of products: by default that of all adapters together, `full` the one that loses nothing."""
    most = min(units, side) if form == "weights" else side
    if wanted is None or wanted == "full":
        return min(units, side) if wanted is None else most
    return min(int(wanted), most)


def _check_rank(planned: Sequence[ModulePlan], recipe: Recipe, layouts: Sequence[AdapterLayout]) -> None:
    """A rank that no module can reach is a mistake; one that some cannot reach, because adapters lack them, is not."""
    wanted: int | None = None
    for module in planned:
        own = getattr(module.method, "rank_", None) if module.form == "factors" else recipe.output.rank
        if not isinstance(own, int) or module.rank == own:
            return
        wanted = own
    units = max(sum(layout.modules[m.name].rank for layout in layouts if m.name in layout.modules) for m in planned)
    if planned[0].form == "factors":
        reason = f"rank is {wanted}, and the adapters' ranks add up to at most {units}"
        raise InvalidRecipe(where="parameters.rank", reason=reason)
    most = max(module.rank for module in planned)
    raise InvalidRecipe(where="output.rank", reason=f"it is {wanted}, and no module can have more than {most}")


def _check_memory(planned: Sequence[ModulePlan], sides: int, settings: Settings) -> None:
    """A module that is merged as a matrix is held whole, once, beside the slices of the adapters' products."""
    for module in planned:
        if module.form != "matrix":
            continue
        shape = module.out_features, module.in_features
        slices = 8 * (sides + 1) * (min(SLICE, shape[0] * shape[1]) + shape[1])
        needed = 4 * shape[0] * shape[1] + slices + working_bytes(shape, module.rank)
        if needed > settings.memory:
            expected = f"at least {needed} bytes for the module {module.name}"
            raise InvalidSetting(name="memory", value=settings.memory, expected=expected)
