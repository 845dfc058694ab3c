"""`graft adapters`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from graftwork.adapters.inspection.duplicates import Products, products
from graftwork.adapters.inspection.inspection import AdapterReport, ModuleReport, inspect, shapes_of
from graftwork.cli.options import json_option
from graftwork.cli.place import local_option
from graftwork.cli.render import console, count, print_json, say, show_table, table, tell
from graftwork.errors import InvalidReference, InvalidRequest, SourceNotFound
from graftwork.registry.formats.peft import CONFIG_FILE, read_adapter
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import load_settings

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
BARS = "▁▂▃▄▅▆▇█"
PAGE = 500


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Another adapter of the same base that points in nearly the same direction."""

    ref: str
    cosine: float


@click.group()
def adapters() -> None:
    """Look into adapters.

    \b
    Example:
        graft adapters inspect acme/support@prod
    """


@adapters.command("inspect")
@click.argument("ref")
@click.option("--modules", "every", is_flag=True, help="Print every module and not only the layers.")
@click.option(
    "--similar",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="From which cosine on another adapter is a near-duplicate; 1 looks for none.",
)
@local_option
@json_option
def inspect_(ref: str, every: bool, similar: float, home: Path | None, as_json: bool) -> None:
    """Show the spectrum, the norms and the effective rank of an adapter, and its near-duplicates.

    REF is NS/NAME (the newest), NS/NAME@ALIAS, NS/NAME@v3, NS/NAME@ and the start of a digest, or an adapter's folder.

    The effective rank is the exponential of the entropy of the singular values (Roy and Vetterli, 2007).
    Near-duplicates are looked for among the newest versions of the registry's other adapters of the same base, and
    this one's other versions.

    \b
    Example:
        graft adapters inspect acme/support@prod --modules
    """
    folder = Path(ref).expanduser()
    duplicates: list[Duplicate] | None = None  # not looked for
    if (folder / CONFIG_FILE).is_file():
        layout = read_adapter(folder)
        base_name = layout.config.base_model_name_or_path
        report = inspect(layout)
    else:
        with Registry.open(load_settings(home=home)) as registry:
            version = _found(registry, ref)
            if version.kind is not Kind.ADAPTER:
                raise InvalidRequest(field="ref", reason=f"{version.ref} is {version.kind.called}, and not an adapter")
            layout = read_adapter(materialise(registry, version))
            base = registry.catalog.by_digest(str(version.base))
            ref, base_name = version.ref, base.ref
            shapes = {tensor.name: tuple(tensor.shape) for tensor in registry.catalog.tensors(base)}
            report = inspect(layout, shapes_of(layout, shapes))
            own = products(layout, shapes_of(layout, shapes))
            if similar < 1 and own.norm:
                duplicates = sorted(_duplicates(registry, version, own, shapes, similar), key=lambda at: -at.cosine)
    if as_json:
        print_json(_json(ref, base_name, report, duplicates or []))
        return
    _show(ref, base_name, report)
    show_table(_modules(report) if every else _layers(report))
    _show_unmeasured(report)
    _show_energy(report)
    if duplicates is not None:
        _show_duplicates(duplicates, similar)


def _found(registry: Registry, ref: str) -> Version:
    """The version that `ref` names. Raises SourceNotFound for what can be no reference, and is no adapter's folder."""
    try:
        return registry.catalog.resolve(ref)
    except InvalidReference:
        expected = f"a folder with an {CONFIG_FILE}, or NAMESPACE/NAME[@REVISION] of the registry"
        raise SourceNotFound(source=ref, expected=expected) from None


def _duplicates(
    registry: Registry, version: Version, own: Products, shapes: dict[str, tuple[int, ...]], similar: float
) -> Iterator[Duplicate]:
    for other in _others(registry, version):
        layout = read_adapter(materialise(registry, other))
        cosine = own.cosine(products(layout, shapes_of(layout, shapes)))
        if cosine is not None and cosine >= similar:
            yield Duplicate(other.ref, cosine)


def _others(registry: Registry, version: Version) -> Iterator[Version]:
    """The other versions of the artifact, and the newest of every other adapter of the base."""
    seen = {version.ref}
    candidates = registry.catalog.versions(version.name)
    after: str | None = None
    while page := registry.catalog.list(kind=Kind.ADAPTER, limit=PAGE, after=after):
        candidates += [artifact.latest for artifact in page]
        after = str(page[-1].name)
    for other in candidates:
        if other.base == version.base and other.ref not in seen:
            seen.add(other.ref)
            yield other


def _show(ref: str, base: str | None, report: AdapterReport) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("adapter", Text(ref, style="bold"))
    facts.add_row("format", ", ".join(report.kinds))
    facts.add_row("base", base or "-")
    facts.add_row("changes", f"{count(len(report.modules), 'module')}, {report.parameters:,} parameters")
    norm = _norm(report.modules)
    facts.add_row("rank", "-" if norm is None else f"{report.rank} at most")
    facts.add_row("norm", "-" if norm is None else f"{norm:.4g}")
    console().print(facts)


def _layers(report: AdapterReport) -> Table:
    numbers = ("layer", "modules", "norm", "largest", "effective rank", "of rank")
    grid = table("layer", "modules", "norm", "largest", "effective rank", "of rank", "spectrum", right=numbers)
    norms = {layer: _norm(modules) for layer, modules in report.layers.items()}
    top = max((norm for norm in norms.values() if norm is not None), default=0.0)
    for layer, modules in report.layers.items():
        ranked = [module for module in modules if module.rank]
        effective = sum(module.effective_rank for module in ranked) / len(ranked) if ranked else 0.0
        longest = max(ranked, key=lambda module: module.norm, default=None)
        grid.add_row(
            "-" if layer is None else str(layer),
            str(len(modules)),
            "-" if (norm := norms[layer]) is None else Text(f"{norm:.4g}", style="bold" if norm == top else ""),
            "-" if longest is None else f"{longest.singular_values[0]:.4g}",
            f"{effective:.1f}" if ranked else "-",
            str(max((module.rank or 0 for module in ranked), default=0)) if ranked else "-",
            _bars(longest),
        )
    return grid


def _modules(report: AdapterReport) -> Table:
    numbers = ("rank", "norm", "largest", "effective rank", "half of it in")
    grid = table("module", "format", *numbers, "spectrum", right=numbers)
    for module in report.modules:
        half = next((rank for rank in range(1, (module.rank or 0) + 1) if module.energy(rank) >= 0.5), None)
        grid.add_row(
            Text(module.module),
            Text(module.kind, style="dim"),
            "-" if module.rank is None else str(module.rank),
            f"{module.norm:.4g}" if module.rank else "-",
            f"{module.singular_values[0]:.4g}" if module.rank else "-",
            f"{module.effective_rank:.1f}" if module.rank else "-",
            "-" if half is None else f"rank {half}",
            _bars(module),
        )
    return grid


def _show_unmeasured(report: AdapterReport) -> None:
    if kinds := dict.fromkeys(module.kind for module in report.unmeasured):
        what = f"{count(len(report.unmeasured), 'module')} ({', '.join(kinds)})"
        say(Text(f"not part of the norms: {what}, whose change is not known from the adapter alone", style="dim"))


def _show_energy(report: AdapterReport) -> None:
    ranks = [rank for rank in RANKS if rank < report.rank]
    if report.norm and ranks:
        kept = "   ".join(f"rank {rank}: {report.energy(rank):.1%}" for rank in [*ranks, report.rank])
        tell(Text("energy kept when cut to", style="dim"), kept)


def _show_duplicates(duplicates: list[Duplicate], similar: float) -> None:
    if not duplicates:
        say(Text(f"no other adapter of this base in the registry has a cosine of {similar:g} or more", style="dim"))
        return
    grid = table("near-duplicate", "cosine", right=("cosine",))
    for other in duplicates:
        grid.add_row(other.ref, Text(f"{other.cosine:.4f}", style="yellow"))
    show_table(grid)


def _norm(modules: tuple[ModuleReport, ...]) -> float | None:
    """The norm of the changes that are known; None where none of them is."""
    measured = [module.norm**2 for module in modules if module.is_measured]
    return float(sum(measured) ** 0.5) if measured else None


def _bars(module: ModuleReport | None) -> Text:
    """The singular values as a row of bars, the largest first."""
    values = () if module is None else module.singular_values[:32]
    if not values or not values[0]:
        return Text("")
    return Text("".join(BARS[round(value / values[0] * (len(BARS) - 1))] for value in values), style="cyan")


def _json(ref: str, base: str | None, report: AdapterReport, duplicates: list[Duplicate]) -> dict[str, Any]:
    ranks = [rank for rank in RANKS if rank < report.rank]
    return {
        "adapter": ref,
        "base": base,
        "formats": list(report.kinds),
        "rank": report.rank,
        "parameters": report.parameters,
        "norm": _norm(report.modules),
        "energy": {str(rank): report.energy(rank) for rank in [*ranks, report.rank] if rank},
        "layers": [
            {"layer": layer, "modules": len(modules), "norm": _norm(modules)}
            for layer, modules in report.layers.items()
        ],
        "modules": [
            {
                "module": module.module,
                "format": module.kind,
                "layer": module.layer,
                "rank": module.rank,
                "parameters": module.parameters,
                "norm": module.norm if module.rank else None,
                "effective_rank": module.effective_rank if module.rank else None,
                "singular_values": list(module.singular_values),
            }
            for module in report.modules
        ],
        "near_duplicates": [{"ref": other.ref, "cosine": other.cosine} for other in duplicates],
    }
