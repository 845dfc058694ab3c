"""What is to be made again once a version is not to be used any more, and what cannot be, found before anything is.

Everything that was made of the version is looked at, each after what it was made of itself. What was merged or
extracted is made again from what was recorded of it; what cannot be is left out of what was made of it in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graftwork.errors import GraftworkError, InvalidRequest
from graftwork.merge.method import find_method
from graftwork.merge.models.sources import HUB
from graftwork.merge.plan.plan import plan as plan_merge
from graftwork.merge.rebuild import expert_sets
from graftwork.merge.rebuild.recipes import Pins, renamed, told_of_weights, too_few, without
from graftwork.merge.recipe.recipe import Recipe, load_recipe, references_of
from graftwork.registry.access.access import access
from graftwork.registry.access.grants import Scope
from graftwork.registry.formats.experts import Document
from graftwork.registry.registry import Registry
from graftwork.registry.versions.descent import Descendant, Descent
from graftwork.registry.versions.places import Place
from graftwork.registry.versions.version import Kind, Relation, Version
from graftwork.settings import Settings

MERGE, EXTRACT, EXPERTS = "merge", "extract", "experts"
TRAINED = {Relation.ADAPTER_OF: "an adapter on", Relation.BASE: "a fine-tune of"}


@dataclass(frozen=True, slots=True)
class Step:
    """One descendant: how it is made again, or the `reason` why it cannot be."""

    digest: str
    places: tuple[Place, ...]
    """The names under which it is registered again; or all that it has, where it cannot be rebuilt."""
    reason: str | None = None
    recipe: Recipe | None = None
    """Of a merge: pinned, without what is left out; what is rebuilt before is still called by its old reference."""
    extract: Mapping[str, Any] | None = None
    """Of an extraction: what was recorded of it."""
    experts: Document | None = None
    """Of an expert set: without what is left out, with the digests that it had before."""
    left_out: tuple[str, ...] = ()
    """The references of inputs that it is made without."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The digest of each reference that becomes another one."""
    notes: tuple[str, ...] = ()

    @property
    def is_rebuilt(self) -> bool:
        """Whether it can be made again."""
        return self.reason is None

    @property
    def how(self) -> str | None:
        """How it is made again; None where it cannot be."""
        made = {MERGE: self.recipe, EXTRACT: self.extract, EXPERTS: self.experts}
        return next((name for name, found in made.items() if found is not None), None)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for whom this is done."""
        return {
            "digest": self.digest,
            "refs": [place.ref for place in self.places if place.is_visible],
            "how": self.how,
            "left_out": list(self.left_out),
            "replaced": list(self.inputs),
            "notes": list(self.notes),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Rebuild:
    """All that is to be made again without `root`, or with `replacement` in its place, in the order to do it."""

    root: Version
    replacement: Version | None
    steps: tuple[Step, ...]


def plan_rebuild(registry: Registry, settings: Settings, root: Version, replacement: Version | None = None) -> Rebuild:
    """Look at everything that was made of `root`. Nothing is changed.

    Raises InvalidRequest for a replacement of another kind or by itself, VersionQuarantined or VersionWithdrawn for one
    that is not to be used either.
    """
    if replacement is not None:
        _check_replacement(registry, root, replacement)
    descent = registry.lineage.descent(root.digest, (MERGE, EXTRACT))
    planner = _Planner(registry, settings, descent)
    if replacement is None:
        planner.dropped.add(root.digest)
    else:
        planner.known[root.digest] = replacement.ref
    steps = tuple(planner.step(descendant) for descendant in descent.descendants)
    return Rebuild(root, replacement, steps)


def _check_replacement(registry: Registry, root: Version, replacement: Version) -> None:
    if replacement.digest == root.digest:
        raise InvalidRequest(field="replace_by", reason=f"{replacement.ref} is what is to be replaced")
    whole = {Kind.BASE, Kind.CHECKPOINT}
    if replacement.kind != root.kind and not {replacement.kind, root.kind} <= whole:
        reason = f"{root.ref} is of kind {root.kind}, and {replacement.ref} of kind {replacement.kind}"
        raise InvalidRequest(field="replace_by", reason=reason)
    registry.marks.require_usable(replacement)


class _Planner:
    """What is known so far: what is left out, what will be made again, and what has its new reference already."""

    def __init__(self, registry: Registry, settings: Settings, descent: Descent) -> None:
        self._registry = registry
        self._settings = settings
        self._names = descent.places
        self.dropped: set[str] = set()
        self.renewed: set[str] = set()
        self.known: dict[str, str] = {}

    def step(self, made: Descendant) -> Step:
        """How one descendant is made again; all that it was made of was looked at before."""
        ways = (self._of_names, self._of_recipe, self._of_extraction, self._of_experts, self._of_others)
        found = next(step for way in ways if (step := way(made)) is not None)
        (self.renewed if found.is_rebuilt else self.dropped).add(made.digest)
        return found

    def _refused(self, made: Descendant, reason: str) -> Step:
        return Step(made.digest, made.places or tuple(self._names[made.digest]), reason)

    def _of_names(self, made: Descendant) -> Step | None:
        """What cannot be registered again, whatever it is."""
        if not made.places:
            return self._refused(made, "it was withdrawn")
        if self._writable(made):
            return None
        if any(place.is_visible for place in made.places):
            namespaces = sorted({place.name.namespace for place in made.places if place.is_visible})
            return self._refused(made, f"{access.get().owner} may not write in {', '.join(namespaces)}")
        return self._refused(made, "it is private")

    def _writable(self, made: Descendant) -> tuple[Place, ...]:
        grants = access.get().grants
        return tuple(
            place for place in made.places if place.is_visible and grants.allow(Scope.WRITE, place.name.namespace)
        )

    def _of_recipe(self, made: Descendant) -> Step | None:
        if MERGE not in made.details:
            return None
        pins = Pins([place for parent in made.parents for place in self._names.get(parent.digest, ())])
        pinned = pins.pin(load_recipe(made.details[MERGE]["recipe"]))
        if pins.problem is not None:
            return self._refused(made, pins.problem)
        out = [ref for ref, digest in pins.digests.items() if digest in self.dropped]
        inputs = {ref: digest for ref, digest in pins.digests.items() if digest in self.renewed or digest in self.known}
        if not out and not inputs:
            return self._refused(made, f"it was {self._by_relation(made)}, which its recipe does not name")
        method = find_method(pinned.merge_method)
        left = without(pinned, out)
        if isinstance(left, str):
            return self._refused(made, left)
        inputs = {ref: digest for ref, digest in inputs.items() if ref in _parts(left)}
        reason = too_few(left, pinned, method) or self._problem(left, inputs)
        if reason is not None:
            return self._refused(made, reason)
        notes = [f"{told_of_weights(left, method)}"] if out else []
        return Step(
            made.digest,
            self._writable(made),
            recipe=left,
            left_out=tuple(out),
            inputs=inputs,
            notes=(*notes, *self._other_names(made)),
        )

    def _of_extraction(self, made: Descendant) -> Step | None:
        if EXTRACT not in made.details:
            return None
        told = made.details[EXTRACT]
        digests = {told[part]: told[f"{part}_digest"] for part in ("model", "base")}
        for ref, digest in digests.items():
            if digest is None:
                return self._refused(made, f"it was extracted from the folder {ref}")
            if digest in self.dropped:
                return self._refused(made, f"it is what {told['model']} adds to {told['base']}, and nothing else")
        inputs = {ref: digest for ref, digest in digests.items() if digest in self.renewed or digest in self.known}
        if not inputs:
            return self._refused(made, f"it was {self._by_relation(made)}")
        return Step(
            made.digest, self._writable(made), extract=told, inputs=inputs, notes=tuple(self._other_names(made))
        )

    def _of_experts(self, made: Descendant) -> Step | None:
        if made.kind is not Kind.EXPERT_SET:
            return None
        version = self._registry.catalog.by_digest(made.digest)
        if version.base in self.dropped or version.base in self.renewed or version.base in self.known:
            return self._refused(made, f"it was {self._by_relation(made)}: train its experts again")
        left = expert_sets.without(self._registry, version, self.dropped)
        if isinstance(left, str):
            return self._refused(made, left)
        members = {parent.digest for parent in made.parents if parent.relation == Relation.EXPERT}
        refs = {digest: self._names[digest][0].shown for digest in sorted(members)}
        inputs = {refs[digest]: digest for digest in refs if digest in self.renewed or digest in self.known}
        out = tuple(refs[digest] for digest in refs if digest in self.dropped)
        notes = ["the router goes on with the experts that are left"] if out else []
        return Step(
            made.digest,
            self._writable(made),
            experts=left,
            left_out=out,
            inputs=inputs,
            notes=(*notes, *self._other_names(made)),
        )

    def _of_others(self, made: Descendant) -> Step:
        return self._refused(made, f"it was {self._by_relation(made)}, and how is not recorded here: train it again")

    def _by_relation(self, made: Descendant) -> str:
        """How it was made of the first of its parents that is not to be used."""
        touched = self.dropped | self.renewed | set(self.known)
        parent = next(parent for parent in made.parents if parent.digest in touched)
        named = self._names[parent.digest][0].shown
        for relation, words in TRAINED.items():
            if parent.relation == relation:
                return f"registered as {words} {named}"
        return f"made of {named}"

    def _problem(self, recipe: Recipe, inputs: Mapping[str, str]) -> str | None:
        """What the planner of merges says against a recipe whose inputs are all there."""
        if not set(inputs.values()) <= self.known.keys() or any(ref.startswith(HUB) for ref in _parts(recipe)):
            return None
        ready = renamed(recipe, {ref: self.known[digest] for ref, digest in inputs.items()})
        try:
            plan_merge(ready, settings=self._settings, registry=self._registry, paths=False).close()
        except GraftworkError as error:
            return str(error).rstrip(".")
        return None

    def _other_names(self, made: Descendant) -> list[str]:
        skipped = [place.ref for place in made.places if place.is_visible and place not in self._writable(made)]
        return [f"it stays as it is under {ref}, where {access.get().owner} may not write" for ref in skipped]


def _parts(recipe: Recipe) -> set[str]:
    """Every reference of a recipe, those of adapters apart."""
    return {part for reference in references_of(recipe) for part in reference.split("+")}
