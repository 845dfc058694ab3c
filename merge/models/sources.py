"""The models and adapters a merge reads: found by path, registry reference or Hub id, read in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from graftwork.errors import (
    ArtifactNotFound,
    InputChanged,
    InvalidCheckpoint,
    InvalidContent,
    InvalidRecipe,
    InvalidReference,
    NotFound,
    SourceNotFound,
)
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located, read_checkpoint
from graftwork.registry.formats.config import ADAPTER_CONFIG_FILE
from graftwork.registry.formats.folder import cache_of
from graftwork.registry.transfer.hub import PREFIX, SOURCE, download

if TYPE_CHECKING:
    from graftwork.registry.formats.adapters.layout import AdapterLayout
    from graftwork.registry.registry import Registry
    from graftwork.registry.versions.version import Version

HUB = PREFIX
EXPECTED_REMOTE = "a registry reference NAMESPACE/NAME[@REVISION] or hf:ORG/NAME[@REVISION]"
EXPECTED = f"a folder, a .safetensors file, {EXPECTED_REMOTE}"


Identity = tuple[Path, Path | None]
"""Where a model's files are, and those of the adapter that is merged in."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the recipe called a model, where its files are, and its version when it is in the registry."""

    label: str
    root: Path
    version: Version | None = None
    links_to: Path | None = None
    adapter: Origin | None = None
    """The adapter that is merged into the model as it is read, where the recipe says model+adapter."""

    @property
    def identity(self) -> Identity:
        """The same for two names of the same files."""
        return self.root.resolve(), None if self.adapter is None else self.adapter.root.resolve()

    @property
    def is_adapter(self) -> bool:
        """Whether the files are a PEFT adapter."""
        return self.adapter is None and (self.root / ADAPTER_CONFIG_FILE).is_file()

    @property
    def public_name(self) -> str:
        """How a model card names it: without the folders of this machine."""
        if self.adapter is not None:
            return f"{replace(self, adapter=None).public_name}+{self.adapter.public_name}"
        if self.version is not None:
            return self.version.ref
        return self.label.removeprefix(HUB) if self.label.startswith(HUB) else self.root.name


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds what a recipe's references stand for; without `paths`, nothing on this machine's disk but the registry.

    `steps` are the folders of the results of a recipe's earlier documents, by name.
    """

    registry: Registry | None = None
    paths: bool = True
    steps: Mapping[str, Path] = field(default_factory=dict)

    def find(self, reference: str) -> Origin:
        """The model or adapter that `reference` stands for; what is at that path comes before the registry.

        Raises SourceNotFound, InvalidRecipe, ArtifactNotFound, RevisionNotFound, HubUnavailable.
        """
        if reference in self.steps:
            return Origin(reference, self.steps[reference])
        if self.paths and (path := _existing(reference)) is not None:
            return Origin(reference, path, None, cache_of(path))
        if "+" in reference:
            return self._with_adapter(reference)
        if reference.startswith(HUB):
            folder = download(reference)
            return Origin(reference, folder, None, folder.parent.parent)
        version = self.version(reference)
        if self.registry is None or version is None:
            raise self._missing(reference)
        from graftwork.registry.transfer.snapshots import materialise

        return Origin(reference, materialise(self.registry, version), version)

    def _missing(self, reference: str) -> NotFound:
        """That there is nothing at `reference`, as the registry says it where it has something of a similar name."""
        if self.registry is not None:
            try:
                self.registry.catalog.resolve(reference)
            except ArtifactNotFound as error:
                if "similar" in error.fields or not self.paths:
                    return error
            except InvalidReference:
                pass
        expected = EXPECTED if self.paths else EXPECTED_REMOTE
        of_hub = f", here {HUB}{reference}" if SOURCE.fullmatch(f"{HUB}{reference}") else ""
        return SourceNotFound(source=reference, expected=f"{expected}{of_hub}")

    def _with_adapter(self, reference: str) -> Origin:
        model, _, second = reference.rpartition("+")
        whole, adapter = self.find(model), self.find(second)
        if whole.is_adapter or whole.adapter is not None or not adapter.is_adapter:
            raise InvalidRecipe(where=reference, reason="expected a whole model, a + and one adapter")
        return replace(whole, label=reference, adapter=adapter)

    def base_of(self, adapter: Origin) -> Origin | None:
        """The base of an adapter, where it is of the registry."""
        if self.registry is None or adapter.version is None or adapter.version.base is None:
            return None
        return self.find(self.registry.catalog.by_digest(adapter.version.base).ref)

    def version(self, reference: str) -> Version | None:
        """The registry's version that `reference` names, if there is a registry and an artifact of this name.

        Raises RevisionNotFound, VersionQuarantined, VersionWithdrawn.
        """
        if self.registry is None:
            return None
        try:
            version = self.registry.catalog.resolve(reference)
        except (InvalidReference, ArtifactNotFound):
            return None
        self.registry.marks.require_usable(version)
        return version


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file was replaced or written to."""

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file's status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(slots=True)
class Source:
    """The tensors of one model. Reading is positional, so any number of threads may share a source."""

    origin: Origin
    layout: CheckpointLayout
    stamps: Mapping[str, Stamp]
    _files: dict[str, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def label(self) -> str:
        """What the recipe calls the model."""
        return self.origin.label

    def read(self, tensor: Located, start: int, into: memoryview) -> None:
        """Fill `into` with the tensor's bytes from its byte `start` on. Raises InputChanged for a shorter file."""
        file = self._open(tensor.file)
        position, filled = tensor.info.begin + start, 0
        while filled < len(into):
            count = os.preadv(file, [into[filled:]], position + filled)
            if count == 0:
                raise InputChanged(path=str(self.layout.root / tensor.file))
            filled += count

    def prefetch(self, tensor: Located, start: int, length: int) -> None:
        """Have the system begin to read `length` bytes of the tensor from its byte `start` on, unless it holds them."""
        file = self._open(tensor.file)
        position = tensor.info.begin + start
        try:
            os.preadv(file, [bytearray(1)], position, os.RWF_NOWAIT)
        except OSError:  # EAGAIN where it would have to wait; other errors, if they last, meet the read itself
            os.posix_fadvise(file, position, length, os.POSIX_FADV_WILLNEED)

    def check_unchanged(self) -> None:
        """Raise InputChanged if a file is not what it was when the merge was planned."""
        for name, stamp in self.stamps.items():
            if _stamp(self.layout.root / name) != stamp:
                raise InputChanged(path=str(self.layout.root / name))

    def close(self) -> None:
        """Close what reading opened."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def _open(self, name: str) -> int:
        with self._lock:
            if name not in self._files:
                path = self.layout.root / name
                try:
                    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError:
                    raise InputChanged(path=str(path)) from None
                self._files[name] = file
                if Stamp.of(os.fstat(file)) != self.stamps[name]:
                    raise InputChanged(path=str(path))
            return self._files[name]


def open_source(origin: Origin) -> Source:
    """The source of a whole model. Raises InvalidCheckpoint for adapters and quantised weights."""
    if origin.is_adapter:
        reason = "it is an adapter; models and adapters do not mix"
        raise InvalidCheckpoint(path=origin.label, reason=reason)
    try:
        layout = read_checkpoint(origin.root, links_to=origin.links_to, in_place=True)
    except InvalidContent as error:
        raise _of_model(error, origin) from None
    if layout.config is not None and "quantization_config" in layout.config:
        raise InvalidCheckpoint(path=origin.label, reason="its weights are quantised; merge the unquantised model")
    stamps = {name: _stamp(layout.root / name) for name in layout.headers}
    return Source(origin, layout, stamps)


def open_adapter(origin: Origin) -> AdapterLayout:
    """The layout of an adapter. Raises InvalidCheckpoint for a whole model, and what reading does."""
    if not origin.is_adapter:
        reason = f"it is not an adapter: it has no {ADAPTER_CONFIG_FILE}"
        raise InvalidCheckpoint(path=origin.label, reason=reason)
    from graftwork.registry.formats.peft import read_adapter

    return read_adapter(origin.root, links_to=origin.links_to, in_place=True)


def stamps_of(root: Path, files: Iterable[str]) -> Mapping[str, Stamp]:
    """The stamp of each of the files of `root`. Raises InputChanged for one that is gone."""
    return {name: _stamp(root / name) for name in files}


def _stamp(path: Path) -> Stamp:
    try:
        return Stamp.of(path.stat())
    except OSError:
        raise InputChanged(path=str(path)) from None


def _of_model(error: InvalidContent, origin: Origin) -> InvalidContent:
    """The failure of a file of a model, which says of which model it is."""
    path = str(error.fields.get("path", origin.root))
    if path.startswith((str(origin.root), origin.label)):
        return error
    return type(error)(**{**error.fields, "path": f"{origin.label}/{path}"})


def _existing(reference: str) -> Path | None:
    """What is at the path `reference`; None where there is nothing, or nothing could be."""
    try:
        path = Path(reference).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # longer than a path can be, the home of nobody, a NUL
        return None
