"""How long-running work tells its caller how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from the working thread; may raise `Cancelled` to stop the work."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` units (bytes, unless the stage says otherwise) of `stage` are finished."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
