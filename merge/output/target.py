"""What a run of a merge needs of its output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from graftwork.merge.output.journal import Span


class Ledger(Protocol):
    """What of the output is finished, as a journal says it."""

    def has(self, tensor: int, start: int, stop: int) -> bool:
        """Whether these elements are not to be written any more."""

    def add(self, spans: Iterable[Span]) -> None:
        """Record what was written."""

    def result(self, key: str) -> Any:
        """What was measured under this key, or None."""

    def keep(self, key: str, result: Any) -> None:
        """Record what was measured over the whole model."""


class Target(Protocol):
    """Where a run writes to."""

    @property
    def journal(self) -> Ledger | None:
        """What is finished already."""

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """Write a part of a tensor from its byte `start` on."""
