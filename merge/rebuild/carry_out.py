"""Making descendants again as planned: each is registered beside the version that it takes the place of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import AliasConflict, Conflict, InvalidContent, InvalidInput, NotFound
from graftwork.merge.extract.extract import extract_version
from graftwork.merge.rebuild import expert_sets
from graftwork.merge.rebuild.plan import Rebuild, Step
from graftwork.merge.rebuild.recipes import renamed
from graftwork.merge.run.publish import publish
from graftwork.progress import Progress, silent
from graftwork.registry.access.access import doer
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.places import Place
from graftwork.registry.versions.version import Parent, Relation, Version
from graftwork.settings import Settings

LAST = 1_000_000
"""The position of the edge to what a version takes the place of: after all that it was made of."""
SHARES = {"measure": (0.0, 0.3), "merge": (0.3, 0.6), "extract": (0.0, 0.9), "import": (0.9, 0.1)}
PARTS = 1000
WRONG = (InvalidInput, InvalidContent, NotFound, Conflict)
"""Failures that trying again would not mend: the descendant is named with the reason, and the others go on."""


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias at a version that was rebuilt, and whether it is at the new one now."""

    ref: str
    moved: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one step: the new versions, one a name, or the reason why there is none."""

    step: Step
    versions: tuple[Version, ...] = ()
    reason: str | None = None
    aliases: tuple[Alias, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, those of the step among them."""
        return self.step.as_json() | {
            "reason": self.reason,
            "made": [version.ref for version in self.versions],
            "made_digest": self.versions[0].digest if self.versions else None,
            "aliases": [{"ref": alias.ref, "moved": alias.moved, "reason": alias.reason} for alias in self.aliases],
        }


def carry_out(
    rebuild: Rebuild,
    *,
    registry: Registry,
    settings: Settings,
    move_aliases: bool = False,
    actor: str = "",
    progress: Progress = silent,
    keep: Callable[[], bool] = lambda: False,
) -> list[Outcome]:
    """Make again what can be, in order. What an earlier run of the same rebuild made is not made again.

    move_aliases: point each version's aliases at the one that takes its place, unless somebody moved them meanwhile
    keep:         see `graftwork.merge.run.publish.publish`

    Raises what is no fault of a recipe or its inputs: Cancelled, StorageFull, HubUnavailable, InputChanged and so on.
    """
    work = _Work(rebuild, registry, settings, keep)
    todo = sum(step.is_rebuilt for step in rebuild.steps)
    outcomes = []
    for step in rebuild.steps:
        if step.reason is not None:
            outcomes.append(Outcome(step, reason=step.reason))
            continue
        done = sum(bool(outcome.versions) for outcome in outcomes)
        outcome = work.make(step, _within(progress, done, todo))
        if outcome.versions:
            aliases = [
                alias
                for place, version in zip(step.places, outcome.versions, strict=True)
                for alias in _aliases(registry, place, version, move_aliases, actor, rebuild.root.ref)
            ]
            outcome = Outcome(step, outcome.versions, aliases=tuple(aliases))
        outcomes.append(outcome)
    return outcomes


class _Work:
    """What was made so far."""

    def __init__(self, rebuild: Rebuild, registry: Registry, settings: Settings, keep: Callable[[], bool]) -> None:
        self._registry = registry
        self._settings = settings
        self._keep = keep
        self._made: dict[str, Version] = {}
        self._failed: dict[str, str] = {}
        if rebuild.replacement is not None:
            self._made[rebuild.root.digest] = rebuild.replacement

    def make(self, step: Step, progress: Progress) -> Outcome:
        """Make one descendant again, under all of its names."""
        for ref, digest in step.inputs.items():
            if digest in self._failed:
                self._failed[step.digest] = reason = f"{ref} could not be rebuilt"
                return Outcome(step, reason=reason)
        names = {ref: self._made[digest].ref for ref, digest in step.inputs.items()}
        told = {
            "rebuild": {
                "of": step.digest,
                "left_out": list(step.left_out),
                "replaced": {ref: self._made[digest].digest for ref, digest in sorted(step.inputs.items())},
            }
        }
        try:
            first = self._find(step, step.places[0].name, told) or self._make(step, names, told, progress)
        except WRONG as error:
            self._failed[step.digest] = reason = str(error).rstrip(".")
            return Outcome(step, reason=reason)
        self._made[step.digest] = first
        others = [self._find(step, place.name, told) or self._copy(first, place.name) for place in step.places[1:]]
        return Outcome(step, (first, *others))

    def _find(self, step: Step, name: Name, told: Mapping[str, Any]) -> Version | None:
        """What an earlier run registered."""
        edges = self._registry.lineage.children(step.digest)
        made = {edge.child for edge in edges if edge.relation == Relation.REBUILD_OF}
        for version in self._registry.catalog.versions(name) if made else ():
            if version.digest in made and version.metadata.get("rebuild") == told["rebuild"]:
                return None if self._registry.marks.of(version) else version
        return None

    def _make(self, step: Step, names: Mapping[str, str], told: Mapping[str, Any], progress: Progress) -> Version:
        name, edge = step.places[0].name, Parent(step.digest, Relation.REBUILD_OF, None, LAST)
        if step.recipe is not None:
            return publish(
                renamed(step.recipe, names),
                registry=self._registry,
                settings=self._settings,
                progress=progress,
                name=str(name),
                paths=False,
                keep=self._keep,
                parents=[edge],
                metadata=told,
            )
        if step.experts is not None:
            was = self._registry.catalog.by_digest(step.digest)
            digests = {digest: self._made[digest].digest for digest in step.inputs.values()}
            return expert_sets.register(self._registry, was, step.experts, digests, name, edge, told)
        assert step.extract is not None  # noqa: S101  the plan says one of the three
        then = step.extract
        version, _ = extract_version(
            names.get(then["model"], then["model"]),
            names.get(then["base"], then["base"]),
            name,
            registry=self._registry,
            settings=self._settings,
            rank=then.get("rank"),
            dtype=then.get("dtype", "float32"),
            seed=then.get("seed", 0),
            progress=progress,
            paths=False,
            parents=[edge],
            metadata=told,
        )
        return version

    def _copy(self, version: Version, name: Name) -> Version:
        """The same content under another name."""
        edges = self._registry.lineage.parents(version.digest)
        return self._registry.catalog.register(
            name,
            version.kind,
            version.files,
            tensors=self._registry.catalog.tensors(version),
            base=version.base,
            parents=[Parent(edge.parent, edge.relation, edge.weight, edge.position) for edge in edges],
            metadata=version.metadata,
            actor=doer("rebuild"),
        )


def _aliases(registry: Registry, place: Place, version: Version, move: bool, actor: str, root: str) -> Sequence[Alias]:
    found = []
    for alias, entry in registry.aliases.get(place.name).items():
        if entry.digest not in (place.digest, version.digest):
            continue
        ref = f"{place.name}@{alias}"
        if not move:
            found += [Alias(ref, False, f"it is at {place.ref}")] if entry.digest == place.digest else []
            continue
        try:
            registry.aliases.set(
                place.name, alias, version.digest, expected=entry.digest, actor=actor, reason=f"rebuilt for {root}"
            )
            found.append(Alias(ref, True))
        except AliasConflict as conflict:
            found.append(Alias(ref, False, str(conflict).rstrip(".")))
    return found


def _within(progress: Progress, before: int, count: int) -> Progress:
    """Progress of the whole from the stages of one of its parts."""

    def told(stage: str, done: int, total: int) -> None:
        begin, share = SHARES.get(stage, (0.0, 1.0))
        part = begin + share * (done / total if total else 1.0)
        progress("rebuild", int(PARTS * (before + part)), PARTS * count)

    return told
