"""Importing from the Hub."""

from __future__ import annotations

from pydantic import Field, field_validator
from sqlalchemy.orm import Session

from graftwork.errors import HubUnavailable
from graftwork.merge.jobs.kind import Kind, Order
from graftwork.merge.jobs.submit import outcome_of
from graftwork.merge.jobs.work import Work
from graftwork.registry.access.access import doer
from graftwork.registry.refs import Name, Ref
from graftwork.registry.transfer.hub import FORM, SOURCE
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind as ArtifactKind
from graftwork.registry.versions.version import Version


class ImportOrder(Order):
    """A repository of the Hub, and what to register it as. Folders of the server's machine are not accepted."""

    source: str = Field(max_length=256)
    name: str
    kind: ArtifactKind | None = None
    base: str | None = None
    aliases: list[str] = Field(default=[])
    private: bool = False

    @field_validator("source")
    @classmethod
    def _of_the_hub(cls, value: str) -> str:
        if SOURCE.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not {FORM}")
        return value


def run(work: Work, order: ImportOrder) -> None:
    """Fetch, check and register, and end the job in the same transaction."""

    def finish(session: Session, version: Version) -> None:
        if order.private:
            work.registry.repositories.set_private(version.name, True, actor=doer("import"), session=session)
        work.finish(session, outcome_of(version))

    import_source(
        work.registry,
        order.source,
        Name.parse(order.name),
        kind=order.kind,
        base=None if order.base is None else Ref.parse(order.base),
        aliases=order.aliases,
        actor=doer("import"),
        also=finish,
        progress=work.progress,
    )


KIND = Kind(name="import", payload=ImportOrder, run=run, retried=(HubUnavailable,))
