"""What a version is called inside an engine of the fleet: a name that always means the same bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graftwork.registry.refs import Name

ENGINE_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,95})@(?P<digest>[0-9a-f]{12,64})"
)


@dataclass(frozen=True, slots=True)
class EngineName:
    """`ns/name@<12 to 64 digits of a digest>`; the gateway writes all 64."""

    name: Name
    digest: str

    @classmethod
    def parse(cls, text: str) -> EngineName | None:
        """The name that `text` spells; None when it is no version's name, but an alias' or something else."""
        match = ENGINE_NAME.fullmatch(text)
        return cls(Name.parse(match["name"]), match["digest"]) if match else None

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"
