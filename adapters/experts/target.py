"""What a request's `model` names: a base, an adapter, a mixture of adapters, or an expert set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from graftwork.adapters.changes import BaseWeights, Lowered
from graftwork.adapters.experts.blend import Blend
from graftwork.adapters.experts.expert_set import load_expert_set
from graftwork.adapters.experts.lowering import lower_experts
from graftwork.adapters.experts.members import load_member
from graftwork.adapters.experts.mixture import Mixture, parse_mixture
from graftwork.adapters.experts.selection import parse_selection, selection_digest
from graftwork.adapters.variants.lora import LoraAdapter
from graftwork.errors import InvalidRequest, ModelNotFound
from graftwork.registry.formats.experts import ExpertsLayout, read_experts
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind, Version

SERVED = "a base, a checkpoint, an adapter or an expert set can be"

Source = Path | Callable[[], Lowered]


class SourceFor(Protocol):
    """Makes what `Residency.acquire` loads."""

    def __call__(self, dtype: torch.dtype, device: torch.device, base: BaseWeights | None = None) -> Source:
        """For an engine of this dtype on this device; without its `base`, formats that need one are refused."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request was resolved to, once and for good: aliases may move while it runs."""

    base: Version
    version: Version | None
    """The version that answers; None for a mixture, which is no version of the registry."""
    digest: str
    """What `Residency.acquire` knows it by; the base's own when there is nothing to acquire."""
    name: str
    """What messages call it."""
    source: SourceFor | None = None
    """None for the base alone."""
    made_of: tuple[str, ...] = ()
    """The digests of the versions that a mixture or an expert set is made of."""
    routes_requests: bool = False
    """Whether each request is routed by its prompt: `request.route` takes the acquired lease over."""
    parts: tuple[Version, ...] = ()
    """The versions that a mixture names."""

    @property
    def named(self) -> tuple[Version, ...]:
        """What the request itself names: the version that answers, or the parts of the mixture."""
        return self.parts if self.version is None else (self.version,)

    @property
    def digests(self) -> frozenset[str]:
        """Everything that has to be there for it: itself, its base, its version, and what it is made of."""
        version = () if self.version is None else (self.version.digest,)
        return frozenset((self.digest, self.base.digest, *version, *self.made_of))

    @property
    def served(self) -> str:
        """What answers: `ns/name@<12 digits of the digest>`, or `mixture@<12 digits>`."""
        if self.version is None:
            return f"mixture@{self.digest[:12]}"
        return f"{self.version.name}@{self.version.digest[:12]}"


def find_target(registry: Registry, model: str) -> Target:
    """Resolve every reference in `model` now.

    Raises ModelNotFound for an artifact of another kind, InvalidRequest for malformed mixtures and for a task that is
    missing, unknown or out of place, what `Blend.of` raises, and what resolving raises.
    """
    mixture = parse_mixture(model)
    if mixture is not None:
        return _mixture(registry, mixture)
    selection = parse_selection(model)
    version = registry.catalog.resolve(selection.ref)
    if version.kind is Kind.EXPERT_SET:
        return _expert_set(registry, version, _checked(registry, version, selection.task))
    if selection.task is not None:
        raise ModelNotFound(model=model, reason=f"{version.ref} is no expert set and has no tasks")
    return target_of(registry, version, model=model)


def target_of(registry: Registry, version: Version, *, model: str = "") -> Target:
    """What serves a version of the registry; of an expert set with tasks, its first task.

    Raises ModelNotFound for a version that cannot be served.
    """
    if version.kind is Kind.EXPERT_SET:
        return _expert_set(registry, version, next(iter(_layout(registry, version).document.router.tasks), None))
    if version.kind in (Kind.BASE, Kind.CHECKPOINT):
        return Target(version, version, version.digest, version.ref)
    if version.kind is not Kind.ADAPTER or version.base is None:
        raise ModelNotFound(model=model or version.ref, reason=f"it is {version.kind.called}; {SERVED}")

    def source(dtype: torch.dtype, device: torch.device, base: BaseWeights | None = None) -> Source:
        return materialise(registry, version)

    return Target(registry.catalog.by_digest(version.base), version, version.digest, version.ref, source)


def _mixture(registry: Registry, mixture: Mixture) -> Target:
    blend = Blend.of([(registry.catalog.resolve(part.ref), part.weight) for part in mixture.parts])

    def source(dtype: torch.dtype, device: torch.device, base: BaseWeights | None = None) -> Source:
        if blend.digest == blend.terms[0].version.digest:
            return materialise(registry, blend.terms[0].version)
        return blend.source(lambda version: materialise(registry, version), dtype, base)

    parts = tuple(term.version for term in blend.terms)
    made_of = tuple(part.digest for part in parts)
    base = registry.catalog.by_digest(blend.base)
    return Target(base, None, blend.digest, blend.name, source, made_of, parts=parts)


def _checked(registry: Registry, version: Version, task: str | None) -> str | None:
    """The task that a request names, if the set has it."""
    tasks = _layout(registry, version).document.router.tasks
    if task is None and tasks:
        reason = f"{version.ref} needs a task, as in {version.name}[{next(iter(tasks))}]; it has {', '.join(tasks)}"
    elif task is not None and task not in tasks:
        reason = f"{version.ref} has no task {task!r}; it has {', '.join(tasks) or 'none'}"
    else:
        return task
    raise InvalidRequest(field="model", reason=reason)


def _layout(registry: Registry, version: Version) -> ExpertsLayout:
    return _read_layout(materialise(registry, version))


@lru_cache(maxsize=1024)
def _read_layout(folder: Path) -> ExpertsLayout:
    """A snapshot never changes, so it is read once for many requests."""
    return read_experts(folder)


def _expert_set(registry: Registry, version: Version, task: str | None) -> Target:
    layout = _layout(registry, version)
    router = layout.document.router

    def source(dtype: torch.dtype, device: torch.device, base: BaseWeights | None = None) -> Source:
        def member(digest: str) -> LoraAdapter:
            found = registry.catalog.by_digest(digest)
            return load_member(materialise(registry, found), found.ref, base)

        return lambda: lower_experts(load_expert_set(layout.root, member, version.ref), task, dtype, device)

    name = version.ref if task is None else f"{version.ref}[{task}]"
    routes = router.routes_rows and router.granularity == "request"
    base = registry.catalog.by_digest(str(version.base))
    return Target(base, version, selection_digest(version.digest, task), name, source, layout.members, routes)
