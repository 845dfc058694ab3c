"""Which rank rows of an engine belong to which adapter.

Every adapted module of an engine has a pool of the same number of rank rows; an adapter owns the same rows
`start..start+rows` in all of them, as many as its largest rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Extent = tuple[int, int]
"""First row, and row after the last."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Resident:
    """An adapter whose factors are in the pools: all that a step needs to know of it. It never changes."""

    digest: str
    start: int
    rows: int
    ranks: Mapping[str, int]
    """Rank by module; a module that is not in it is not adapted."""

    @property
    def extent(self) -> Extent:
        """The rows it owns."""
        return self.start, self.start + self.rows


class RankRows:
    """Contiguous first-fit allocation of `total` rank rows. Not thread-safe: its owner holds a lock."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken: list[Extent] = []

    @property
    def free(self) -> int:
        """Rows that nobody owns, in one piece or in several."""
        return self.total - sum(end - start for start, end in self._taken)

    def allocate(self, rows: int) -> int | None:
        """The first row of `rows` contiguous rows, now taken; None when no gap is long enough."""
        start = self._gap(rows, self._taken)
        if start is not None:
            self._taken = sorted([*self._taken, (start, start + rows)])
        return start

    def release(self, start: int) -> None:
        """Free the extent that begins at `start`."""
        self._taken = [extent for extent in self._taken if extent[0] != start]

    def victims(self, rows: int, candidates: Sequence[Extent]) -> list[Extent] | None:
        """Which of `candidates` (preferred first) to release so that `rows` rows fit; None when even all do not do.

        The shortest run of preferred ones that does, less those whose release did not help.
        """
        for count in range(len(candidates) + 1):
            chosen = list(candidates[:count])
            if self._fits_without(rows, chosen):
                for extent in reversed(candidates[:count]):
                    spared = [other for other in chosen if other != extent]
                    if self._fits_without(rows, spared):
                        chosen = spared
                return chosen
        return None

    def _fits_without(self, rows: int, released: Sequence[Extent]) -> bool:
        return self._gap(rows, [extent for extent in self._taken if extent not in released]) is not None

    def _gap(self, rows: int, taken: Sequence[Extent]) -> int | None:
        at = 0
        for start, end in [*taken, (self.total, self.total)]:
            if start - at >= rows:
                return at
            at = end
        return None
