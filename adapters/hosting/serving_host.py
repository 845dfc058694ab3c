"""What the REST routes ask of whatever serves models here: engines in this process, or a fleet of servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from graftwork.adapters.residency.place import Occupant
from graftwork.registry.versions.version import Version


class ServingHost(Protocol):
    """Makes versions ready before aliases move to them, and says what it holds; thread-safe."""

    def prepare(self, version: Version, *, replaces: str | None = None) -> None:
        """Make a version ready where its base is served; the one with the digest `replaces` serves meanwhile.

        Raises AdapterProbeFailed, and what loading it raises; then the alias must stay where it is.
        """

    def follow(self, key: str, alias: str) -> None:
        """The alias of the artifact `key` (its name in lower case) has moved."""

    def occupants(self) -> Mapping[str, Sequence[Occupant]]:
        """The adapters that this process holds, by the digest of their base."""

    @property
    def kept(self) -> Mapping[str, Version]:
        """What is never evicted: the version by the name it was asked for under."""

    def keep(self, ref: str) -> Version:
        """Never evict what `ref` names, until `let_go`. Raises InvalidRequest where it cannot be kept."""

    def let_go(self, ref: str) -> bool:
        """Let what `keep` kept under this name be evicted again. Returns whether it was kept."""

    def close(self, *, drain: bool = False) -> None:
        """Serve nothing any more: finish (`drain`) or abort what is computed."""
