"""Bodies of requests that are streamed to disk: refused before they are read where that can be told, timed, capped."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from graftwork.errors import DigestMismatch, GraftworkError, InvalidRequest, TooLarge
from graftwork.registry.storage.blobs import refuse_full

BATCH_BYTES = 1 << 20
DISCARD_BYTES = 64 << 20
DISCARD_SECONDS = 10.0
IDLE_SECONDS = 120.0
"""How long a client that is sending may send nothing at all."""
DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")
DIGEST_EXPECTED = "Content-Digest: sha-256=:BASE64: with the SHA-256 of the part (RFC 9530)"


def content_digest(request: Request) -> str:
    """The SHA-256, in hexadecimal, that the request's `Content-Digest` gives. Raises InvalidRequest."""
    match = DIGEST.search(request.headers.get("content-digest", ""))
    try:
        digest = base64.b64decode(match[1], validate=True) if match is not None else b""
    except binascii.Error:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise InvalidRequest(field="Content-Digest", reason=f"expected {DIGEST_EXPECTED}")
    return digest.hex()


def content_length(request: Request) -> int | None:
    """The length that the request declares; None when it is sent in chunks."""
    text = request.headers.get("content-length")
    return int(text) if text is not None else None


def stream_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises InvalidRequest when the client goes away or sends nothing for long."""
    return _timed(request.stream())


async def _timed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
    except TimeoutError:
        raise InvalidRequest(field="body", reason=f"nothing of it came for {IDLE_SECONDS:.0f} seconds") from None
    except ClientDisconnect:
        raise InvalidRequest(field="body", reason="the client went away before the upload was complete") from None


async def discard(request: Request, chunks: AsyncIterator[bytes]) -> None:
    """Let a client that is refused go on sending for a while, so that it gets to read why.

    One that waits for `100 Continue` has sent nothing, and is told to send nothing.
    """
    if "100-continue" in request.headers.get("expect", "").lower():
        return
    left = DISCARD_BYTES
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return
    except (TimeoutError, InvalidRequest):  # it is slow, or it is gone: then nobody reads the answer
        return


async def batches(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces worth a trip to a worker thread."""
    batch = bytearray()
    async for chunk in chunks:
        batch += chunk
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


async def read_small(request: Request) -> bytes | None:
    """The body, when its length was declared and is worth one trip to a worker thread; None otherwise, unread.

    Raises InvalidRequest.
    """
    declared = content_length(request)
    if declared is None or declared > BATCH_BYTES:
        return None
    return b"".join([chunk async for chunk in stream_of(request)])


async def receive_part(request: Request, place: Path, *, size: int, sha256: str, what: str) -> None:
    """Write the body to the new file `place`: exactly `size` bytes with this SHA-256.

    No thread is held while the client is slow. Raises InvalidRequest, TooLarge, DigestMismatch, StorageFull; messages
    call the body `what`.
    """
    stream = stream_of(request)
    try:
        declared = content_length(request)
        if declared is not None and declared != size:
            raise _wrong_size(what, declared, size)
        digest = hashlib.sha256()
        received = 0
        with place.open("xb") as file:
            async for batch in batches(stream):
                received += len(batch)
                if received > size:
                    raise _wrong_size(what, received, size)
                await run_in_threadpool(_write, file, digest, batch, place.parent)
        if received < size:
            raise _wrong_size(what, received, size)
        if digest.hexdigest() != sha256:
            raise DigestMismatch(what=what, actual=digest.hexdigest(), expected=sha256)
    except GraftworkError:
        await discard(request, stream)
        raise


def _write(file: BinaryIO, digest: hashlib._Hash, batch: bytes, folder: Path) -> None:
    digest.update(batch)
    with refuse_full(folder):
        file.write(batch)


def _wrong_size(what: str, actual: int, size: int) -> GraftworkError:
    if actual > size:
        return TooLarge(what=what, actual="more bytes", limit=f"{size} bytes")
    return InvalidRequest(field="body", reason=f"{what} has {size} bytes, and {actual} were sent")
