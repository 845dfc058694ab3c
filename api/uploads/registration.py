"""Registering what was uploaded: the gate, the transaction, and the aliases as `PUT` would move them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastapi import Response

from graftwork.api.dependencies.auth import Principal
from graftwork.api.dependencies.services import Services
from graftwork.api.schemas.versions import RegisteredOut
from graftwork.errors import GraftworkError
from graftwork.registry.access.grants import Scope
from graftwork.registry.formats import experts
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.finite import check_finite
from graftwork.registry.formats.peft import CONFIG_FILE
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.transfer.importer import Also, import_source
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings

SMALL = (Kind.ADAPTER, Kind.EXPERT_SET)


@dataclass(frozen=True, slots=True)
class Order:
    """What an upload is to be registered as. Without a kind, its files tell."""

    name: Name
    kind: Kind | None
    base: Ref | None
    aliases: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, kind: Kind | None, base: str | None, aliases: Iterable[str]) -> Order:
        """The order that a client wrote. Raises InvalidName, InvalidReference."""
        wanted = tuple(check_alias(alias) for alias in aliases)
        return cls(Name.parse(name), kind, Ref.parse(base) if base else None, wanted)

    def check(self, services: Services, principal: Principal) -> None:
        """Refuse what could not be registered whatever its bytes are.

        Raises Forbidden, ArtifactNotFound and RevisionNotFound for the base, KindConflict.
        """
        principal.require(Scope.WRITE, self.name.namespace)
        if self.base is not None:
            services.registry.catalog.resolve(self.base)
        if self.kind is not None:
            services.registry.catalog.check_kind(self.name, self.kind)


def kind_of(files: Iterable[str]) -> Kind | None:
    """The kind of an upload that has these files; None for weights, whose kind depends on whether they have a base."""
    names = set(files)
    if experts.CONFIG_FILE in names:
        return Kind.EXPERT_SET
    return Kind.ADAPTER if CONFIG_FILE in names else None


def limit_of(settings: Settings, kind: Kind | None) -> int:
    """Bytes that an upload of this kind may have."""
    return settings.max_adapter_bytes if kind in SMALL else settings.max_checkpoint_bytes


def register(
    services: Services, principal: Principal, folder: Path, order: Order, *, also: Also | None = None
) -> Version:
    """Check the files in `folder`, which the caller gives up, and register them; `also`: see `import_source`.

    Raises what `import_source` does, with the client's names of the files instead of their paths here.
    """
    try:
        if order.kind not in (*SMALL, Kind.DATASET):
            _refuse_infinite(folder)
        return import_source(
            services.registry,
            folder,
            order.name,
            kind=order.kind,
            base=order.base,
            actor=principal.owner,
            also=also,
            move=True,
        )
    except GraftworkError as error:
        raise error.naming(folder, "the upload") from None


def move_aliases(services: Services, principal: Principal, version: Version, aliases: Iterable[str]) -> None:
    """Point `aliases` at the version, which is made ready first where its base is being served."""
    for alias in aliases:
        services.host.prepare(version)
        reason = f"uploaded v{version.number}"
        services.registry.aliases.set(version.name, alias, version.digest, actor=principal.owner, reason=reason)


def describe(response: Response, version: Version, *, is_new: bool) -> RegisteredOut:
    """The answer that tells of a registered version; its status, Location and ETag are set on `response`."""
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/artifacts/{version.name}/versions/v{version.number}"
    response.headers["ETag"] = f'"{version.digest}"'
    return RegisteredOut.of(version, already_there=not is_new)


def _refuse_infinite(folder: Path) -> None:
    """Raise NonFiniteTensor for a checkpoint with a NaN or an infinity; adapters are looked at by the importer."""
    for file, header in read_checkpoint(folder).headers.items():
        check_finite(folder / file, header, label=file)
