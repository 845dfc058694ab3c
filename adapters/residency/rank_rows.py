"""Which rank rows of an engine belong to which adapter.

Every adapted module of an engine has a pool of the same number of rank rows; an adapter owns the same rows
`start..start+rows` in all of them, as many as its largest rank.
"""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.adapters.attachment.resident import Extent


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

        The neighbours whose least preferred one is the most preferred; none of them is needless. Rows that are free
        already in several pieces are joined so, whatever the ranks.
        """
        if self._gap(rows, self._taken) is not None:
            return []
        order = {extent: place for place, extent in enumerate(candidates)}
        ends = [0, *(end for _, end in self._taken)]
        starts = [*(start for start, _ in self._taken), self.total]
        best: list[Extent] | None = None
        left = 0
        for right, extent in enumerate(self._taken):
            if extent not in order:
                left = right + 1
                continue
            # releasing left..right frees the rows from the end of the one before to the start of the one after
            while left < right and starts[right + 1] - ends[left + 1] >= rows:
                left += 1
            if starts[right + 1] - ends[left] >= rows > starts[right] - ends[left]:
                chosen = sorted(self._taken[left : right + 1], key=order.__getitem__)
                if best is None or (order[chosen[-1]], len(chosen)) < (order[best[-1]], len(best)):
                    best = chosen
        return best

    def _gap(self, rows: int, taken: Sequence[Extent]) -> int | None:
        at = 0
        for start, end in [*taken, (self.total, self.total)]:
            if start - at >= rows:
                return at
            at = end
        return None
