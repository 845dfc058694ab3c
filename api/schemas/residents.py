"""Adapters that engines hold."""

from __future__ import annotations

from pydantic import BaseModel

from graftwork.adapters.residency.place import Occupant


class ResidentOut(BaseModel):
    """An adapter in an engine, or on its way into it."""

    base: str
    """Digest of the base."""
    digest: str
    name: str
    stage: str
    """`reading`, `waiting` (for rank rows), `writing` or `ready`."""
    rank_rows: int
    form_bytes: int
    """Bytes beside the rank rows."""
    requests: int
    """Requests that pin it now."""
    kept: bool
    """Whether it is never evicted."""

    @classmethod
    def of(cls, base: str, occupant: Occupant) -> ResidentOut:
        """What there is to say about `occupant`."""
        return cls(
            base=base,
            digest=occupant.digest,
            name=occupant.name,
            stage=occupant.stage.value,
            rank_rows=occupant.rows,
            form_bytes=occupant.bytes,
            requests=occupant.pins,
            kept=occupant.kept,
        )


class KeptOut(BaseModel):
    """A reference whose version is never evicted from the engine of its base."""

    ref: str
    digest: str
