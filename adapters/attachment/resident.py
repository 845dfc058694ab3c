"""An adapter in the rank rows of an engine, as a step sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graftwork.adapters.changes import Gate
from graftwork.adapters.forms.form import Form

Extent = tuple[int, int]
"""First row, and row after the last."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Resident:
    """An adapter whose factors are in the pools: all that a step needs to know of it. It never changes."""

    digest: str
    start: int
    rows: int
    ranks: Mapping[str, int]
    """Rank by module; a module that is not in it has no low rank."""
    forms: Mapping[str, Form] = field(default_factory=dict)
    """By module, any kind of it."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """By module, of those in `ranks`."""
    made_of: frozenset[str] = frozenset()
    """The digests of what it cannot be without: its own, and those of a mixture's parts or a set's experts."""
    routed_from: str | None = None
    """The digest of the expert set whose rows these are, when this is one request's routing of it."""

    @property
    def adapter(self) -> str:
        """The digest of the adapter or the expert set that was acquired."""
        return self.routed_from or self.digest

    @property
    def extent(self) -> Extent:
        """The rows it owns."""
        return self.start, self.start + self.rows
