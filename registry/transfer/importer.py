"""Taking a model into the registry: checked first, read once, registered whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy.orm import Session

from graftwork.errors import (
    ArtifactNotFound,
    GraftworkError,
    IncompatibleAdapter,
    InvalidAdapter,
    InvalidCheckpoint,
    InvalidExpertSet,
    InvalidReference,
    InvalidRequest,
    OperationFailed,
    SourceNotFound,
)
from graftwork.progress import Progress, silent
from graftwork.registry.formats import experts
from graftwork.registry.formats.adapters.names import by_every_name
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.dataset import is_dataset, read_dataset
from graftwork.registry.formats.encoders import names_for_adapters
from graftwork.registry.formats.finite import check_finite
from graftwork.registry.formats.folder import cache_of
from graftwork.registry.formats.peft import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterLayout,
    check_against_base,
    read_adapter,
    read_layout,
)
from graftwork.registry.formats.safetensors import Header
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.hub import PREFIX, downloaded
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.transfer.staging import Staged, staged
from graftwork.registry.versions.version import Kind, Parent, Relation, Version

EXPECTED = "a checkpoint folder, a PEFT adapter folder, a .safetensors or .jsonl file, or hf:ORG/NAME[@REVISION]"
ATTEMPTS = 8
QUICKLY_READ = 64_000_000
"""Bytes up to which nobody asks beforehand whether they could be registered: the transaction says so soon enough."""
WEIGHT_KINDS = (Kind.BASE, Kind.CHECKPOINT, Kind.TASK_VECTOR)

Also = Callable[[Session, Version], object]


@dataclass(frozen=True, slots=True)
class Order:
    """What to register an import as; `also` runs in the transaction that registers it."""

    name: Name
    kind: Kind | None
    base: Ref | None
    aliases: Sequence[str]
    metadata: Mapping[str, object]
    parents: Sequence[Parent]
    actor: str
    also: Also | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """Content whose headers and configuration were found to be in order."""

    root: Path
    kind: Kind
    base: str | None
    files: Sequence[str]
    headers: Mapping[str, Header]
    parents: Sequence[Parent] = ()
    """What its content says it was made from."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What its content says of itself, for its metadata."""


def import_source(
    registry: Registry,
    source: str | Path,
    name: Name,
    *,
    kind: Kind | None = None,
    base: Ref | None = None,
    aliases: Sequence[str] = (),
    metadata: Mapping[str, object] | None = None,
    parents: Sequence[Parent] = (),
    actor: str = "",
    also: Also | None = None,
    progress: Progress = silent,
    move: bool = False,
) -> Version:
    """Register a copy of what is at `source`: a folder, a safetensors file, or (a text) `hf:org/name[@rev]`.

    An adapter's base is `base`, or the registry's artifact that its configuration names. Without `kind`, a folder
    with an `adapter_config.json` is an adapter, one with a `config.json` a base, or a checkpoint when `base` is given;
    tensors with neither come with their kind.
    `also(session, version)` runs in the transaction that registers the version; when it raises, nothing is registered.
    `move`: the caller made the files, gives them up now and deletes them afterwards, so they are linked, not copied.

    Raises InvalidContent of every sort, SourceNotFound, HubUnavailable, KindConflict, StorageFull and what finding the
    base raises; then nothing of it is left in the registry.
    """
    order = Order(name, kind, base, aliases, metadata or {}, parents, actor, also)
    if isinstance(source, str) and source.startswith(PREFIX):
        with downloaded(source, registry.home / "hub") as fetched:
            pinned = {"source": PREFIX + fetched.repository, "commit": fetched.commit}
            order = replace(order, metadata=pinned | dict(order.metadata))
            try:
                return _import(registry, fetched.folder, order, move=True, links_to=fetched.cache, progress=progress)
            except GraftworkError as error:
                raise error.naming(fetched.folder, source) from None
    path = Path(source).expanduser()
    if not path.exists():
        raise SourceNotFound(source=source, expected=EXPECTED)
    links_to = None if move else cache_of(path)
    return _import(registry, path, order, move=move, links_to=links_to, progress=progress)


def _import(
    registry: Registry, path: Path, order: Order, *, move: bool, links_to: Path | None, progress: Progress
) -> Version:
    for alias in order.aliases:
        check_alias(alias)
    candidate = _inspect(registry, path, order, links_to)
    if sum((candidate.root / file).stat().st_size for file in candidate.files) > QUICKLY_READ:
        registry.catalog.check_kind(order.name, candidate.kind)
    files, headers = candidate.files, candidate.headers
    with staged(registry.blobs, candidate.root, files, headers, move=move, progress=progress) as content:
        return _publish(registry, candidate, order, content)


def _inspect(registry: Registry, path: Path, order: Order, links_to: Path | None) -> Candidate:
    if path.is_dir() and (path / experts.CONFIG_FILE).exists():
        if order.kind not in (None, Kind.EXPERT_SET):
            raise InvalidRequest(field="kind", reason=f"{path} is an expert set and not of kind {order.kind}")
        return _expert_set(registry, path, order, links_to)
    if order.kind is Kind.EXPERT_SET:
        raise InvalidExpertSet(path=path, reason=f"it is not a folder with an {experts.CONFIG_FILE}")
    if path.is_dir() and (path / CONFIG_FILE).exists():
        if order.kind not in (None, Kind.ADAPTER):
            raise InvalidRequest(field="kind", reason=f"{path} is an adapter and not {order.kind.called}")
        adapter = read_adapter(path, links_to=links_to)
        base = _base_of(registry, adapter, order)
        check_finite(path / WEIGHTS_FILE, adapter.header, label=WEIGHTS_FILE)
        return Candidate(path, Kind.ADAPTER, base.digest, adapter.files, {WEIGHTS_FILE: adapter.header})
    if order.kind is Kind.ADAPTER or (path / WEIGHTS_FILE).exists():
        raise InvalidAdapter(path=path, reason=f"it is not a folder with an {CONFIG_FILE}")
    if order.kind is Kind.DATASET or (order.kind is None and is_dataset(path)):
        if order.base is not None:
            raise InvalidRequest(field="base", reason=f"{path} is a dataset, which belongs on no base")
        dataset = read_dataset(path, links_to=links_to)
        facts = {"dataset": {"task": dataset.config.task, "examples": dataset.examples}}
        return Candidate(dataset.root, Kind.DATASET, None, dataset.files, {}, facts=facts)
    kind = order.kind or (Kind.CHECKPOINT if order.base else Kind.BASE)
    accepted = [kind for kind in WEIGHT_KINDS if kind is not Kind.BASE or order.base is None]
    if kind not in accepted:
        raise InvalidRequest(field="kind", reason=f"{path} cannot be {kind.called}; accepted are {', '.join(accepted)}")
    layout = read_checkpoint(path, links_to=links_to)
    if layout.config is None and order.kind is None:
        reason = f"it has no config.json; bare tensors, which no engine serves, need a kind: {', '.join(accepted)}"
        raise InvalidCheckpoint(path=path, reason=reason)
    digest = registry.catalog.resolve(order.base).digest if order.base else None
    return Candidate(layout.root, kind, digest, layout.files, layout.headers)


def _expert_set(registry: Registry, path: Path, order: Order, links_to: Path | None) -> Candidate:
    """An expert set belongs on the base that all of its members belong on, and they are its parents."""
    layout = experts.read_experts(path, links_to=links_to)
    members = [registry.catalog.by_digest(digest) for digest in layout.members]
    bases = {member.base: member for member in members}
    if order.base is not None:
        bases.setdefault(registry.catalog.resolve(order.base).digest, registry.catalog.resolve(order.base))
    for member in members:
        if member.kind is not Kind.ADAPTER:
            raise InvalidExpertSet(path=path, reason=f"its member {member.ref} is {member.kind.called}, not an adapter")
        if (part := read_layout(materialise(registry, member)).beyond_low_rank) is not None:
            what = f"{part.kind} at {part.module}, and an expert is a low-rank change of linear layers"
            raise InvalidExpertSet(path=path, reason=f"its member {member.ref} has {what}")
    if not bases:
        raise InvalidRequest(field="base", reason="the experts are all in the set's own weights; name their base")
    if len(bases) > 1:
        named = " and ".join(version.ref for version in bases.values())
        raise InvalidExpertSet(path=path, reason=f"{named} belong on different bases")
    headers = {} if layout.header is None else {experts.WEIGHTS_FILE: layout.header}
    for file, header in headers.items():
        check_finite(path / file, header, label=file)
    parents = [Parent(member.digest, Relation.EXPERT, None, place) for place, member in enumerate(members)]
    return Candidate(path, Kind.EXPERT_SET, next(iter(bases)), layout.files, headers, parents, layout.facts)


def _base_of(registry: Registry, adapter: AdapterLayout, order: Order) -> Version:
    base = registry.catalog.resolve(order.base) if order.base else _declared_base(registry, adapter)
    if base.kind not in (Kind.BASE, Kind.CHECKPOINT):
        raise IncompatibleAdapter(adapter=order.name, base=base.ref, reason=f"{base.ref} is of kind {base.kind}")
    known_base = registry.bases.get(base)
    tensors = by_every_name(known_base.tensors, adapter.parts, headless=False)
    known = names_for_adapters(adapter, tensors, known_base.config)
    check_against_base(adapter, known, adapter_name=str(order.name), base_name=base.ref, tied_head=True)
    return base


def _declared_base(registry: Registry, adapter: AdapterLayout) -> Version:
    declared = adapter.config.base_model_name_or_path
    try:
        return registry.catalog.resolve(declared or "")
    except (InvalidReference, ArtifactNotFound):
        said = f"says {declared!r}, which is not in the registry" if declared else "names none"
        raise InvalidRequest(field="base", reason=f"{CONFIG_FILE} {said}; name the adapter's base") from None


def _publish(registry: Registry, candidate: Candidate, order: Order, content: Staged) -> Version:
    for _ in range(ATTEMPTS):
        reserved = registry.deposits.store(content.blobs)
        try:
            with registry.database.write() as session:
                registry.database.share(session, order.name.key)
                deposits = registry.deposits.confirm(session, reserved)
                if deposits is not None:
                    version = registry.catalog.register(
                        order.name,
                        candidate.kind,
                        content.files,
                        tensors=content.tensors,
                        base=candidate.base,
                        parents=[*candidate.parents, *order.parents],
                        metadata={**candidate.facts, **order.metadata},
                        aliases=order.aliases,
                        actor=order.actor,
                        session=session,
                        deposits=deposits,
                    )
                    if order.also is not None:
                        order.also(session, version)
                    return version
        except BaseException:
            registry.deposits.release(reserved)
            raise
    raise OperationFailed(what=f"Storing {order.name}", reason="garbage collection took its files again and again")
