"""How much of an engine's device adapters may use, and who has to go for another one."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.adapters.residency.place import Place, Size
from graftwork.adapters.residency.rank_rows import RankRows


class Room:
    """Rank rows, and bytes of forms beside them. Not thread-safe: its owner holds a lock."""

    def __init__(self, rows: int, form_bytes: int) -> None:
        self._rows = RankRows(rows)
        self._form_limit = form_bytes
        self._form_bytes = 0

    @property
    def total(self) -> int:
        """Rank rows in all."""
        return self._rows.total

    @property
    def free(self) -> int:
        """Rank rows that no adapter owns."""
        return self._rows.free

    def give(self, place: Place) -> None:
        """Let the adapter own as much as its size; there has to be room."""
        start = self._rows.allocate(place.size.rows)
        assert start is not None  # noqa: S101  room was made
        place.extent = start, start + place.size.rows
        self._form_bytes += place.size.bytes

    def take_back(self, place: Place) -> None:
        """Free what the adapter owns."""
        self._rows.release(place.extent[0])
        self._form_bytes -= place.size.bytes

    def victims(self, size: Size, candidates: Sequence[Place]) -> list[Place] | None:
        """Who of `candidates` (preferred first) has to go so that `size` fits; None when even all are not enough."""
        excess = self._form_bytes + size.bytes - self._form_limit
        heavy = []
        for place in candidates:
            if excess > 0 and place.size.bytes:
                heavy.append(place)
                excess -= place.size.bytes
        extents = {place.extent: place for place in candidates}
        found = self._rows.victims(size.rows, list(extents))
        if found is None or excess > 0:
            return None
        return list(dict.fromkeys((*heavy, *(extents[extent] for extent in found))))
