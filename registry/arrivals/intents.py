"""What an upload in parts declares: its files, and what they are to be registered as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """A file of an upload: its size in bytes, and the SHA-256 that the whole of it must have, if that was said."""

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """What an upload's files are to be registered as."""

    name: str
    kind: str | None
    base: str | None
    aliases: tuple[str, ...]
    files: tuple[DeclaredFile, ...]
    part_bytes: int
    private: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def parts(self, file: DeclaredFile) -> int:
        """How many parts the file is sent in; none when it is empty."""
        return -(-file.size // self.part_bytes)

    def part_size(self, file: DeclaredFile, number: int) -> int:
        """Bytes of part `number`, counted from 1; only the last one of a file may be smaller than the others."""
        return min(self.part_bytes, file.size - (number - 1) * self.part_bytes)

    def as_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {
            "name": self.name,
            "kind": self.kind,
            "base": self.base,
            "aliases": list(self.aliases),
            "files": [[file.path, file.size, file.sha256] for file in self.files],
            "part_bytes": self.part_bytes,
            "private": self.private,
        }

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Intent:
        """The intent that `as_json` wrote."""
        files = tuple(DeclaredFile(*entry) for entry in raw["files"])
        aliases, private = tuple(raw["aliases"]), raw.get("private", False)
        return cls(raw["name"], raw["kind"], raw["base"], aliases, files, raw["part_bytes"], private)


def part_bytes(files: Sequence[DeclaredFile], wanted: int) -> int:
    """`wanted` or, where a file would have more than MAX_PARTS, the next MiB that gives it fewer."""
    largest = max((file.size for file in files), default=0)
    least = -(-largest // MAX_PARTS)
    return max(wanted, 1) if least <= wanted else -(-least // (1 << 20)) * (1 << 20)
