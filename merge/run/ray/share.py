"""A part of a merge that one worker does, and what comes back from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.merge.output.journal import Span


@dataclass(frozen=True, slots=True)
class Share:
    """Spans of tensors, the statistics of these tensors that are known, by name, and the bytes of their operands."""

    spans: tuple[Span, ...]
    measured: Mapping[str, Any]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Norms:
    """The block sums of a share's tensors before and after the merge, and their statistics, by name."""

    before: Mapping[str, NDArray[np.float64]]
    after: Mapping[str, NDArray[np.float64]]
    measured: Mapping[str, Any]


@dataclass
class Assignment:
    """A journal in which everything is written but one share; `written` is what was added to it."""

    share: Share
    written: list[Span] = field(default_factory=list)
    _left: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for position, first, last in self.share.spans:
            self._left.setdefault(position, []).append((first, last))

    def has(self, tensor: int, start: int, stop: int) -> bool:
        """Whether no element of these is in the share."""
        return not any(first < stop and start < last for first, last in self._left.get(tensor, ()))

    def add(self, spans: Iterable[Span]) -> None:
        """Note what was written."""
        self.written.extend(spans)

    def result(self, key: str) -> Any:
        """Nothing: what spans the model is not measured here."""

    def keep(self, key: str, result: Any) -> None:
        """Forget it."""
