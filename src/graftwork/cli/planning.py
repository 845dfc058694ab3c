"""What `graft merge --plan` shows: what would be merged, how, and whether it is there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from graftwork.cli.render import console, count, size

if TYPE_CHECKING:
    from graftwork.merge.models.sources import Origin
    from graftwork.merge.plan.adapter_plan import AdapterPlan
    from graftwork.merge.plan.plan import Plan


def show_plan(planned: Plan | AdapterPlan, target: str, made_before: str | None) -> None:
    """A table of what a merge would do; `target` is the folder or artifact that its result goes to."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, value in _rows(planned, target, made_before):
        grid.add_row(name, Text(value))
    console().print(grid)


def _rows(planned: Plan | AdapterPlan, target: str, made_before: str | None) -> Iterator[tuple[str, str]]:
    recipe = planned.recipe
    summary: Mapping[str, Any] = planned.summary()
    yield "method", planned.method.name
    yield "base", str(summary["base"] or "-") if planned.base is None else _pinned(planned.base)
    for origin, entry in zip(planned.models, planned.entries, strict=True):
        yield "model", "  ".join(filter(None, (_pinned(origin), _values(entry.parameters))))
    if recipe.parameters:
        yield "parameters", _values(recipe.parameters)
    for modifier in recipe.modifiers:
        for name, settings in modifier.model_dump(exclude_none=True).items():
            yield "modifier", f"{name}: {_values(settings)}"
    if "modules" in summary:
        ranks = ", ".join(map(str, summary["ranks"]))
        yield "modules", f"{summary['modules']} of rank {ranks}; {summary['as_matrices']} are merged as matrices"
    else:
        yield "tensors", f"{summary['tensors_merged']} merged, {summary['tensors_copied']} copied"
        yield "parameters", f"{summary['parameters']:,} merged"
        yield "tokenizer", str(summary["tokenizer"])
        yield "memory", f"{size(summary['buffer_bytes'])} in {count(summary['threads'], 'thread')}"
    yield "dtype", ", ".join(summary["dtypes"])
    yield "size", f"{size(planned.output_bytes)}, of {size(planned.input_bytes)} that are read"
    yield "output", ", ".join((target, *(f"alias {alias}" for alias in recipe.output.aliases)))
    if made_before is not None:
        yield "made before", made_before


def _pinned(origin: Origin) -> str:
    """The version, and what the recipe calls it where that is another name."""
    name = origin.public_name if origin.version is not None else origin.label
    return name if name == origin.label else f"{name} ({origin.label})"


def _values(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
