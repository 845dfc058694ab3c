"""`/api/v1/residents`: what the engines of this process hold, and what they must never evict."""

from __future__ import annotations

from fastapi import APIRouter

from graftwork.api.dependencies.services import HostDep, NameDep
from graftwork.api.schemas.residents import KeptOut, ResidentOut
from graftwork.errors import RevisionNotFound

router = APIRouter(prefix="/residents", tags=["residents"])


@router.get("")
def list_residents(host: HostDep) -> list[ResidentOut]:
    """The adapters in each engine, least recently used first: the next to be evicted of those that nobody pins."""
    return [ResidentOut.of(base, occupant) for base, found in host.occupants().items() for occupant in found]


@router.get("/kept")
def list_kept(host: HostDep) -> list[KeptOut]:
    """What is never evicted."""
    return [KeptOut(ref=ref, digest=version.digest) for ref, version in host.kept.items()]


@router.put("/kept/{namespace}/{name}/{revision}")
def keep(name: NameDep, revision: str, host: HostDep) -> KeptOut:
    """Load an adapter where its base is served, and never evict it until this is deleted or the server ends.

    Under an alias, it is whatever version the alias points at.
    """
    ref = f"{name}@{revision}"
    return KeptOut(ref=ref, digest=host.keep(ref).digest)


@router.delete("/kept/{namespace}/{name}/{revision}", status_code=204)
def let_go(name: NameDep, revision: str, host: HostDep) -> None:
    """Let it be evicted again when no request needs it."""
    if not host.let_go(f"{name}@{revision}"):
        raise RevisionNotFound(name=name, revision=revision, known=", ".join(host.kept) or "nothing that is kept")
