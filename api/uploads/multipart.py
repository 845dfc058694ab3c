"""Multipart uploads, sorted into a staging folder as they arrive: capped on the fly, never held in memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from graftwork.api.uploads.bodies import batches, content_length, discard, stream_of
from graftwork.errors import GraftworkError, InvalidRequest, TooLarge, UnsafeFile
from graftwork.registry.formats.folder import check_kind
from graftwork.registry.storage.blobs import refuse_full

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_FILES = 64
MAX_FIELDS = 64
MAX_FIELD_BYTES = 4096
OVERHEAD_BYTES = 1 << 20
"""What the fields and the headers of a form may take beside its files."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a form may bring: these text fields, and at most so many bytes of files."""

    fields: Collection[str]
    bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """What a multipart request brought: text fields, and the names of the files now in `folder`."""

    folder: Path
    fields: dict[str, list[str]]
    files: tuple[str, ...]

    def one(self, name: str) -> str | None:
        """The field's only value, None when it is absent. Raises InvalidRequest when it was sent twice."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise InvalidRequest(field=name, reason="it was sent more than once")
        return values[0] if values else None

    def required(self, name: str) -> str:
        """The field's only value. Raises InvalidRequest when it is absent."""
        value = self.one(name)
        if value is None:
            raise InvalidRequest(field=name, reason="this form field is required")
        return value


async def receive(request: Request, folder: Path, allowed: Allowed) -> Upload:
    """Stream the multipart body of `request` into `folder`.

    Raises InvalidRequest for a body that is not multipart, has a field that is not allowed or is cut short, TooLarge
    past the limit (before anything is read where Content-Length tells), UnsafeFile for a file name that is not plain,
    StorageFull. A client that is refused can go on sending for a while, so that it gets to read why.
    """
    stream = stream_of(request)
    try:
        if (content_length(request) or 0) > allowed.bytes + OVERHEAD_BYTES:
            raise _too_large(allowed)
        return await _receive(stream, _Staging(folder, _boundary(request), allowed))
    except GraftworkError:
        await discard(request, stream)
        raise


def parse(request: Request, body: bytes, folder: Path, allowed: Allowed) -> Upload:
    """What `receive` gives, of a body that came whole."""
    staging = _Staging(folder, _boundary(request), allowed)
    try:
        staging.feed(body)
    finally:
        staging.close()
    return staging.finish()


async def _receive(stream: AsyncIterator[bytes], staging: _Staging) -> Upload:
    try:
        async for batch in batches(stream):
            await run_in_threadpool(staging.feed, batch)
    finally:
        staging.close()
    return staging.finish()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest(field="Content-Type", reason="expected multipart/form-data with a boundary")
    return options[b"boundary"]


@dataclass(slots=True)
class _Part:
    """The part of the body that is being read: a file when it has a `sink`, else a text field."""

    name: str = ""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: bytes = b""
    value: bytes = b""
    text: bytearray = field(default_factory=bytearray)
    sink: BinaryIO | None = None


class _Staging:
    """The receiver of one multipart body."""

    def __init__(self, folder: Path, boundary: bytes, allowed: Allowed) -> None:
        self._folder = folder
        self._allowed = allowed
        self._received = self._total = 0
        self._fields: dict[str, list[str]] = {}
        self._files: list[str] = []
        self._part = _Part()
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(field="Content-Type", reason=str(error)) from None

    def feed(self, data: bytes) -> None:
        """Parse `data` and write what belongs to files."""
        self._total += len(data)
        # also past the closing boundary, where nothing else counts
        if self._total > self._allowed.bytes + OVERHEAD_BYTES:
            raise _too_large(self._allowed)
        try:
            with refuse_full(self._folder):
                self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(field="body", reason=f"it is not multipart/form-data ({error})") from None

    def finish(self) -> Upload:
        """What came, once the closing boundary has been seen."""
        if not self._complete:
            raise InvalidRequest(field="body", reason="the multipart body ends before its closing boundary")
        return Upload(self._folder, self._fields, tuple(self._files))

    def close(self) -> None:
        """Close the file that is being written, if any."""
        if self._part.sink is not None:
            self._part.sink.close()

    def _begin(self) -> None:
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def _header_end(self) -> None:
        self._part.headers[self._part.header.lower()] = self._part.value
        self._part.header = self._part.value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition"))
        if not options.get(b"name"):
            raise InvalidRequest(field="body", reason="a part has no name in its Content-Disposition")
        self._part.name = _text(options[b"name"])
        if b"filename" in options:
            self._part.sink = self._open(_text(options[b"filename"]))
        elif self._part.name not in self._allowed.fields:
            known = ", ".join(self._allowed.fields)
            raise InvalidRequest(field=self._part.name[:80], reason=f"there is no such form field; there is {known}")

    def _open(self, name: str) -> BinaryIO:
        if FILE_NAME.fullmatch(name) is None:
            raise UnsafeFile(path=repr(name), reason="a file of an upload has a plain name of A-Z a-z 0-9 . _ -")
        if name.lower() in (known.lower() for known in self._files):
            raise UnsafeFile(path=name, reason="the upload already has a file of this name")
        check_kind(name)
        if len(self._files) == MAX_FILES:
            raise TooLarge(what="The upload", actual="more files", limit=f"{MAX_FILES} files")
        self._files.append(name)
        return (self._folder / name).open("xb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.sink is None:
            self._part.text += data[start:end]
            if len(self._part.text) > MAX_FIELD_BYTES:
                raise TooLarge(
                    what=f"The form field {self._part.name}", actual="more", limit=f"{MAX_FIELD_BYTES} bytes"
                )
            return
        self._received += end - start
        if self._received > self._allowed.bytes:
            raise _too_large(self._allowed)
        self._part.sink.write(data[start:end])

    def _end_part(self) -> None:
        if self._part.sink is not None:
            self._part.sink.close()
            return
        if sum(map(len, self._fields.values())) == MAX_FIELDS:
            raise TooLarge(what="The upload", actual="more form fields", limit=f"{MAX_FIELDS} form fields")
        self._fields.setdefault(self._part.name, []).append(_text(bytes(self._part.text)))

    def _end(self) -> None:
        self._complete = True


def _too_large(allowed: Allowed) -> TooLarge:
    return TooLarge(what="The upload", actual="more bytes", limit=f"{allowed.bytes} bytes")


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(field="body", reason="a name or a form field is not UTF-8") from None
