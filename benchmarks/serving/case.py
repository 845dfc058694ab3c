"""What is measured of every system: the base, and numbers of adapters on sets of layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """`adapters` adapters of the set `targets` in one batch; 0 is the base alone."""

    adapters: int
    targets: str = ""

    def __str__(self) -> str:
        return f"{self.adapters} x {self.targets}" if self.adapters else "base"


BASE = Case(0)
