"""Pulled adapters on this machine's disk: a folder a digest, whole or not there.

A folder stays once it is there, for vLLM reads it again whenever the adapter was pushed out of its memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from graftwork.adapters.fleet import capability
from graftwork.adapters.fleet.names import EngineName
from graftwork.errors import CorruptBlob, InvalidAdapter, OperationFailed, UnservableAdapter
from graftwork.registry.formats.config import read_object
from graftwork.registry.formats.safetensors import read_header
from graftwork.registry.versions.manifest import FileEntry, manifest_digest
from graftwork.vllm_plugin.source import Listing, Source

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class Pulled:
    """The adapters below `root`. Any number of threads and processes may pull the same one: it is fetched once."""

    def __init__(self, root: Path, source: Source) -> None:
        self._root = root
        self._source = source

    def pull(self, name: EngineName) -> Path | None:
        """The folder of an adapter, fetched on the first call and checked against its digest; None if there is none.

        Raises CorruptBlob for bytes that are not what the digest says, OperationFailed when the source cannot be read,
        InvalidAdapter for another kind of version.
        """
        if len(name.digest) == 64 and self._folder(name.digest).is_dir():
            return self._folder(name.digest)
        listing = self._source.find(name)
        if listing is None:
            return None
        if listing.kind != "adapter":
            raise InvalidAdapter(path=str(name), reason=f"it is a {listing.kind.replace('_', ' ')}")
        actual = manifest_digest(listing.kind, listing.base, listing.files)
        if actual != listing.digest or not actual.startswith(name.digest):
            raise CorruptBlob(path=str(name), actual=actual, expected=name.digest)
        folder = self._folder(listing.digest)
        with self._alone(listing.digest):
            if not folder.is_dir():
                self._fetch(name, listing, folder)
        return folder

    def _fetch(self, name: EngineName, listing: Listing, folder: Path) -> None:
        scratch = Path(tempfile.mkdtemp(dir=self._root, prefix=".pulling-"))
        try:
            for file in listing.files:
                self._fetch_file(name, file, scratch)
            _sync(scratch)
            scratch.chmod(0o755)
            scratch.rename(folder)
            _sync(self._root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _fetch_file(self, name: EngineName, file: FileEntry, scratch: Path) -> None:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidAdapter(path=str(name), reason=f"its file {file.path!r} leads out of its folder")
        target = scratch / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with target.open("xb") as copy:
            for chunk in self._source.copy(name, file, copy):
                digest.update(chunk)
                size += len(chunk)
                if size > file.size:
                    break
            copy.flush()
            os.fsync(copy.fileno())
        if size < file.size:
            raise OperationFailed(
                what=f"Pulling {file.path} of {name}", reason=f"it ended after {size} of {file.size} bytes"
            )
        if digest.hexdigest() != file.sha256:
            raise CorruptBlob(path=f"{file.path} of {name}", actual=digest.hexdigest(), expected=file.sha256)

    def _folder(self, digest: str) -> Path:
        return self._root / digest

    @contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / f".{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def check_servable(name: str, folder: Path, *, max_rank: int) -> None:
    """Raise UnservableAdapter when vLLM would refuse the adapter in `folder`, or serve it wrongly."""
    config = read_object(folder / CONFIG_FILE, CONFIG_FILE)
    tensors = read_header(folder / WEIGHTS_FILE).tensors
    reason = capability.refusal(config, tensors, max_rank=max_rank)
    if reason is not None:
        raise UnservableAdapter(adapter=name, engine=capability.ENGINE, reason=reason)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
