"""What a merge reads from: a model's files, or a view of them that computes values as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from graftwork.merge.models.sources import Origin, Stamp
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located


class Reader(Protocol):
    """The tensors of one model. Any number of threads may read at the same time.

    `layout.tensors` says what `read` gives: a view lists the tensors that it computes with their own shape and dtype.
    """

    @property
    def origin(self) -> Origin:
        """Which model it is."""

    @property
    def label(self) -> str:
        """What the recipe calls the model."""

    @property
    def layout(self) -> CheckpointLayout:
        """Its files and tensors."""

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """What tells that a file of the layout was changed."""

    def read(self, tensor: Located, start: int, into: memoryview) -> None:
        """Fill `into` with the tensor's bytes from its byte `start` on; `start` is the beginning of an element."""

    def check_unchanged(self) -> None:
        """Raise InputChanged if a file is not what it was when the merge was planned."""

    def close(self) -> None:
        """Close what reading opened."""


class View(Reader, Protocol):
    """A reader over another one."""

    @property
    def inner(self) -> Reader:
        """What it reads from."""


class Overlay:
    """What a view leaves as it is in the reader beneath it."""

    __slots__ = ()
    inner: Reader

    @property
    def origin(self) -> Origin:
        """Which model it is."""
        return self.inner.origin

    @property
    def label(self) -> str:
        """What the recipe calls the model."""
        return self.inner.label

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """What tells that a file of the layout was changed."""
        return self.inner.stamps

    def check_unchanged(self) -> None:
        """Raise InputChanged if a file is not what it was when the merge was planned."""
        self.inner.check_unchanged()

    def close(self) -> None:
        """Close what reading opened."""
        self.inner.close()


def stored_dtype(reader: Reader, tensor: str) -> str:
    """The dtype of a tensor in the model's file, below any views."""
    while (inner := getattr(reader, "inner", None)) is not None:
        reader = inner
    return reader.layout.tensors[tensor].info.dtype


def files_beneath(reader: Reader) -> bool:
    """Whether the reader's tensors are bytes of files, and not computed."""
    return getattr(reader, "inner", None) is None
