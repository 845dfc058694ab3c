"""What the registry says of an artifact's version, and the digest that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from graftwork.registry.db import moment
from graftwork.registry.refs import Name
from graftwork.registry.tables import VersionRow
from graftwork.registry.versions.manifest import FileEntry


class Kind(StrEnum):
    """What an artifact is."""

    BASE = "base"
    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"
    TASK_VECTOR = "task_vector"
    RECIPE = "recipe"
    EXPERT_SET = "expert_set"
    DATASET = "dataset"

    @property
    def called(self) -> str:
        """It in a sentence: `a base`, `an expert set`."""
        return f"a{'n' if self[0] in 'ae' else ''} {self.replace('_', ' ')}"


class Relation(StrEnum):
    """What a parent was to its child."""

    BASE = "base"
    ADAPTER_OF = "adapter_of"
    MERGE_INPUT = "merge_input"
    MERGE_BASE = "merge_base"
    RECIPE = "recipe"
    EXPERT = "expert"
    TOKENIZER = "tokenizer"
    """Its tokens, or rows of some of them, were taken."""
    REBUILD_OF = "rebuild_of"
    """It takes the place of the parent, and nothing of the parent is in it."""


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor of a version: `begin` and `end` count from the start of `file`, `sha256` is of the bytes between."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that another one was made from, pinned by digest; `position` orders the parents."""

    digest: str
    relation: str
    weight: float | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of an artifact. `base` is the digest of the version it belongs on, if any."""

    name: Name
    kind: Kind
    number: int
    digest: str
    base: str | None
    files: tuple[FileEntry, ...]
    metadata: Mapping[str, object]
    created_at: datetime
    is_new: bool = field(default=False, compare=False)
    """Whether the registration that returned it added it."""

    @classmethod
    def from_row(cls, row: VersionRow) -> Version:
        """The version that a row of the database describes."""
        return cls(
            name=Name(row.artifact.namespace, row.artifact.name),
            kind=Kind(row.artifact.kind),
            number=row.number,
            digest=row.digest,
            base=row.base,
            files=tuple(
                FileEntry(file.path, file.blob.sha256, file.blob.size, file.blob.generation) for file in row.files
            ),
            metadata=row.details,
            created_at=moment(row.created_at),
        )

    @property
    def revision(self) -> str:
        """40 hexadecimal digits, where the Hub's clients expect a commit."""
        return self.digest[:40]

    @property
    def ref(self) -> str:
        """`ns/name@v3`, which always means this version."""
        return f"{self.name}@v{self.number}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)
