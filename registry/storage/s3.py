"""The blob store in a bucket of an S3-compatible object storage: `PREFIX/ab/abcd...`.

Uploads are checked by the storage against SHA-256 digests that are sent along, and by us against what it says it has;
downloads are hashed on the way into the cache. botocore repeats requests that fail for a passing reason, with growing
pauses. Credentials are found the way boto3 finds them: environment, profile, or the machine's role.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from graftwork.errors import (
    ArrivalNotFound,
    CorruptBlob,
    DigestMismatch,
    InputChanged,
    OperationFailed,
    StorageUnavailable,
)
from graftwork.registry.storage.address import Address
from graftwork.registry.storage.blobs import (
    CHUNK_BYTES,
    SignedPut,
    StagedBlob,
    StoredBlob,
    parse_place,
    place,
    refuse_full,
)
from graftwork.registry.storage.cache import FileCache
from graftwork.registry.storage.staging_area import StagingArea

PART_BYTES = 16 * 1024 * 1024
MOST_PARTS = 10_000
TRANSFERS = 4
ATTEMPTS = 5
CONNECT_SECONDS, READ_SECONDS = 10, 60
ARRIVALS = "arrivals/"
"""Below the prefix: what clients leave until it is fetched."""
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
THERE = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
UNCONDITIONAL = frozenset({"501", "NotImplemented"})


class ObjectStore(StagingArea):
    """Blobs as objects of a bucket; see `graftwork.registry.storage.blobs.BlobStore`.

    `root` holds staged and cached files.
    """

    remote = True

    def __init__(self, root: Path, address: Address, cache_bytes: int) -> None:
        super().__init__(root)
        self.address = address
        self._cache = FileCache(root / "cache", cache_bytes)

    def create(self) -> None:
        """Make the folders of staged and cached files. The bucket must be there."""
        super().create()
        self._cache.create()

    def publish(self, staged: StagedBlob, generation: int = 0) -> bool:
        """Upload staged bytes. Returns whether the storage lacked them.

        Raises InputChanged when the staged file is not what it was, StorageUnavailable.
        """
        key = self._key(staged.sha256, generation)
        if self._size(key) == staged.size:
            return False
        if staged.size <= PART_BYTES:
            return self._put(staged, key)
        self._put_parts(staged, key)
        return True

    def has(self, sha256: str, generation: int = 0) -> bool:
        """Whether the storage holds the blob."""
        return self._size(self._key(sha256, generation)) is not None

    def path(self, sha256: str, generation: int = 0) -> Path:
        """The blob in the cache, fetched where it is not there. Raises CorruptBlob, StorageFull, StorageUnavailable."""
        return self._cache.get(place(sha256, generation), lambda: self._fetch(sha256, generation))

    def verify(self, sha256: str, generation: int = 0) -> None:
        """Read the object, not the cache, and compare. Raises CorruptBlob, StorageUnavailable."""
        digest = hashlib.sha256()
        for chunk in self._chunks(self._key(sha256, generation), sha256):
            digest.update(chunk)
        self._compare(sha256, generation, digest.hexdigest())

    def remove(self, sha256: str, generation: int = 0) -> None:
        """Delete a generation that nobody refers to, as its caller made sure of. Raises StorageUnavailable."""
        key = self._key(sha256, generation)
        with self._told("delete", key):
            self._client.delete_object(Bucket=self.address.bucket, Key=key)
        self._cache.drop(place(sha256, generation))

    def presign(self, sha256: str, generation: int = 0, *, seconds: int) -> str | None:
        """A URL under which anybody may read the blob for so long; None where downloads go through this server."""
        if not self.address.redirects:
            return None
        named = {"Bucket": self.address.bucket, "Key": self._key(sha256, generation)}
        url: str = self._client.generate_presigned_url("get_object", Params=named, ExpiresIn=seconds)
        return url

    def presign_arrival(self, name: str, sha256: str, size: int, *, seconds: int) -> SignedPut | None:
        """A URL that takes exactly these bytes: their size and SHA-256 are signed, and the storage compares both.

        None where clients are not sent to the storage.
        """
        if not self.address.redirects:
            return None
        checksum = _base64(bytes.fromhex(sha256))
        named = {**self._arrival(name), "ContentLength": size, "ChecksumSHA256": checksum}
        url: str = self._client.generate_presigned_url("put_object", Params=named, ExpiresIn=seconds)
        return SignedPut(url, {"Content-Length": str(size), "x-amz-checksum-sha256": checksum})

    def fetch_arrival(self, name: str, sha256: str, size: int, target: Path) -> None:
        """Write what a client left as `name` to the new file `target`, hashed once more.

        Raises ArrivalNotFound, DigestMismatch, StorageFull, StorageUnavailable.
        """
        key = self._arrival(name)["Key"]
        found = self._size(key)
        if found is None:
            raise ArrivalNotFound(name=name)
        digest = hashlib.sha256()
        if found == size:
            with refuse_full(target.parent), target.open("xb") as file:
                for chunk in self._chunks(key, sha256):
                    digest.update(chunk)
                    file.write(chunk)
        if found != size or digest.hexdigest() != sha256:
            actual = digest.hexdigest() if found == size else f"{found} bytes"
            raise DigestMismatch(what=f"what came as {name}", actual=actual, expected=sha256)

    def drop_arrival(self, name: str) -> None:
        """Delete what a client left as `name`. Raises StorageUnavailable."""
        arrival = self._arrival(name)
        with self._told("delete", arrival["Key"]):
            self._client.delete_object(**arrival)

    def stored(self) -> Iterator[StoredBlob]:
        """Everything under the prefix that is named as a blob. Raises StorageUnavailable."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.address.bucket, Prefix=self.address.prefix
        )
        with self._told("list", self.address.prefix):
            for page in pages:
                for entry in page.get("Contents", []):
                    named = parse_place(entry["Key"].rpartition("/")[2])
                    if named is not None and entry["Key"] == self._key(*named):
                        yield StoredBlob(*named, entry["Size"], entry["LastModified"].timestamp())

    def abandon(self, seconds: float) -> int:
        """Abort multipart uploads that began, and delete what clients left, so long ago. Returns how many of both.

        Raises StorageUnavailable.
        """
        bucket, aborted = self.address.bucket, 0
        with self._told("list uploads of", self.address.prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=bucket, Prefix=self.address.prefix):
                for entry in page.get("Uploads", []):
                    if time.time() - entry["Initiated"].timestamp() > seconds:
                        named = {"Bucket": bucket, "Key": entry["Key"], "UploadId": entry["UploadId"]}
                        self._client.abort_multipart_upload(**named)
                        aborted += 1
            left = self._client.get_paginator("list_objects_v2")
            for page in left.paginate(Bucket=bucket, Prefix=self.address.prefix + ARRIVALS):
                for entry in page.get("Contents", []):
                    if time.time() - entry["LastModified"].timestamp() > seconds:
                        self._client.delete_object(Bucket=bucket, Key=entry["Key"])
                        aborted += 1
        return aborted

    def _arrival(self, name: str) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self.address.prefix + ARRIVALS + name}

    def _put(self, staged: StagedBlob, key: str) -> bool:
        body = staged.path.read_bytes()
        if hashlib.sha256(body).hexdigest() != staged.sha256:
            raise InputChanged(path=staged.path)
        arguments = {"Body": body, "ChecksumSHA256": _base64(bytes.fromhex(staged.sha256))}
        with self._told("store", key):
            return self._unless_there("put_object", key, arguments)

    def _put_parts(self, staged: StagedBlob, key: str) -> None:
        """Upload by parts, several at a time; the whole is there once all of them are, or not at all."""
        named = {"Bucket": self.address.bucket, "Key": key}
        with self._told("store", key):
            upload = self._client.create_multipart_upload(**named, ChecksumAlgorithm="SHA256")["UploadId"]
            try:
                parts = self._send_parts(staged, {**named, "UploadId": upload})
                arguments = {"UploadId": upload, "MultipartUpload": {"Parts": parts}}
                if not self._unless_there("complete_multipart_upload", key, arguments):
                    self._client.abort_multipart_upload(**named, UploadId=upload)
            except BaseException:
                self._client.abort_multipart_upload(**named, UploadId=upload)
                raise
        if self._size(key) != staged.size:
            raise CorruptBlob(path=self._shown(key), actual="another size", expected=staged.sha256)

    def _send_parts(self, staged: StagedBlob, named: dict[str, str]) -> list[dict[str, Any]]:
        size = max(PART_BYTES, -(-staged.size // MOST_PARTS))
        whole, waiting = hashlib.sha256(), list[Future[dict[str, Any]]]()
        parts: list[dict[str, Any]] = []
        with ThreadPoolExecutor(TRANSFERS) as pool, staged.path.open("rb") as file:
            while body := file.read(size):
                whole.update(body)
                waiting.append(pool.submit(self._send_part, named, len(parts) + len(waiting) + 1, body))
                if len(waiting) == TRANSFERS:  # bounds how many parts are in memory
                    parts.append(waiting.pop(0).result())
            parts += [sent.result() for sent in waiting]
        if whole.hexdigest() != staged.sha256:
            raise InputChanged(path=staged.path)
        return parts

    def _send_part(self, named: dict[str, str], number: int, body: bytes) -> dict[str, Any]:
        checksum = _base64(hashlib.sha256(body).digest())
        sent = self._client.upload_part(**named, PartNumber=number, Body=body, ChecksumSHA256=checksum)
        return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum}

    def _unless_there(self, operation: str, key: str, arguments: dict[str, Any]) -> bool:
        """Write `key` unless it is there; False if it is. Storages without conditional writes write the same bytes."""
        from botocore.exceptions import ClientError

        write = getattr(self._client, operation)
        try:
            write(Bucket=self.address.bucket, Key=key, IfNoneMatch="*", **arguments)
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code in THERE:
                return False
            if code not in UNCONDITIONAL:
                raise
            write(Bucket=self.address.bucket, Key=key, **arguments)
        return True

    def _size(self, key: str) -> int | None:
        """Bytes of an object; None when it is not there."""
        from botocore.exceptions import ClientError

        with self._told("look for", key):
            try:
                size: int = self._client.head_object(Bucket=self.address.bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if str(error.response["Error"]["Code"]) in ABSENT:
                    return None
                raise
            return size

    def _fetch(self, sha256: str, generation: int) -> Path:
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with refuse_full(self.root), os.fdopen(handle, "wb") as file:
                for chunk in self._chunks(self._key(sha256, generation), sha256):
                    digest.update(chunk)
                    file.write(chunk)
            self._compare(sha256, generation, digest.hexdigest())
            Path(name).chmod(0o444)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name)

    def _chunks(self, key: str, sha256: str) -> Iterator[bytes]:
        """The object's bytes; a connection that breaks on the way is taken up where it broke."""
        from botocore.exceptions import ClientError, HTTPClientError, ReadTimeoutError, ResponseStreamingError

        done, failures = 0, 0
        while True:
            with self._told("read", key):
                try:
                    from_here = {"Range": f"bytes={done}-"} if done else {}
                    body = self._client.get_object(Bucket=self.address.bucket, Key=key, **from_here)["Body"]
                    for chunk in body.iter_chunks(CHUNK_BYTES):
                        done += len(chunk)
                        yield chunk
                except ClientError as error:
                    if str(error.response["Error"]["Code"]) in ABSENT:
                        raise CorruptBlob(path=self._shown(key), actual="nothing", expected=sha256) from None
                    raise
                except (ResponseStreamingError, ReadTimeoutError, HTTPClientError):
                    failures += 1
                    if failures == ATTEMPTS:
                        raise
                    time.sleep(0.1 * 2**failures)
                else:
                    return

    def _compare(self, sha256: str, generation: int, actual: str) -> None:
        if actual != sha256:
            raise CorruptBlob(path=self._shown(self._key(sha256, generation)), actual=actual, expected=sha256)

    def _key(self, sha256: str, generation: int) -> str:
        return self.address.prefix + place(sha256, generation)

    def _shown(self, key: str) -> str:
        return f"s3://{self.address.bucket}/{key}"

    @contextmanager
    def _told(self, action: str, key: str) -> Iterator[None]:
        """Turn what boto3 raises into one sentence."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            told = error.response["Error"]
            reason = f"{told.get('Message') or 'it answered'} ({told['Code']})"
            raise StorageUnavailable(action=action, place=self._shown(key), reason=reason) from error
        except BotoCoreError as error:
            reason = " ".join(str(error).split())
            raise StorageUnavailable(action=action, place=self._shown(key), reason=reason) from error

    @cached_property
    def _client(self) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ModuleNotFoundError:
            reason = "boto3 is not installed; pip install 'graftwork[s3]'"
            raise OperationFailed(what=f"Opening s3://{self.address.bucket}", reason=reason) from None
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.address.endpoint,
            region_name=self.address.region,
            config=Config(
                signature_version="s3v4",
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                max_pool_connections=4 * TRANSFERS,
                retries={"mode": "standard", "max_attempts": ATTEMPTS},
                s3={"addressing_style": "path" if self.address.endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()
