"""How much a residency may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from graftwork.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, threads, places in the queue and seconds."""

    host_bytes: int = 2_000_000_000
    """Of adapters in host memory, whether they have rows or not."""
    form_bytes: int = 2_000_000_000
    """Of what resident adapters hold on the device beside rank rows."""
    loaders: int = 2
    """Threads that read adapters and write rows."""
    waiting: int = 1024
    """Adapters that may wait for rows."""
    patience: float = 2.0
    """Seconds after which an adapter that waits for rows has others drained."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the settings say."""
        return cls(
            host_bytes=settings.adapter_host_bytes,
            form_bytes=settings.adapter_form_bytes,
            loaders=settings.adapter_loaders,
            waiting=settings.max_queue,
        )
