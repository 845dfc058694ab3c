"""The blob store on a local disk: `root/ab/abcd...`.

A blob is written beside its final place, hashed on the way, fsynced, linked, and its folder is fsynced: it is there
whole, or not at all. Bytes that are in the store already are not waited for.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from graftwork.errors import ArrivalNotFound, CorruptBlob
from graftwork.registry.storage.blobs import (
    SignedPut,
    StagedBlob,
    StoredBlob,
    fsync,
    parse_place,
    place,
    read_chunks,
    refuse_full,
)
from graftwork.registry.storage.staging_area import StagingArea

LINKLESS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
READ_ONLY = 0o444
PREFIX_PATTERN = "[0-9a-f][0-9a-f]"


class LocalStore(StagingArea):
    """Blobs as read-only files under `root`; see `graftwork.registry.storage.blobs.BlobStore`."""

    remote = False

    def publish(self, staged: StagedBlob, generation: int = 0) -> bool:
        """Link staged bytes into the store; the staged file's own name stays. Returns whether the store lacked them."""
        final = self._place(staged.sha256, generation)
        if final.exists():
            return False
        staged.path.chmod(READ_ONLY)
        with refuse_full(self.root):
            fsync(staged.path)
            if not final.parent.exists():
                final.parent.mkdir(exist_ok=True)
                fsync(self.root)
            _link(staged.path, final)
            fsync(final.parent)
        return True

    def has(self, sha256: str, generation: int = 0) -> bool:
        """Whether the store holds the blob."""
        return self._place(sha256, generation).is_file()

    def path(self, sha256: str, generation: int = 0) -> Path:
        """Where the blob is; it must not be written to. Raises CorruptBlob when it is gone."""
        final = self._place(sha256, generation)
        if not final.is_file():
            raise CorruptBlob(path=final, actual="nothing", expected=sha256)
        return final

    def verify(self, sha256: str, generation: int = 0) -> None:
        """Read the blob and compare. Raises CorruptBlob."""
        final = self.path(sha256, generation)
        digest = hashlib.sha256()
        for chunk in read_chunks(final):
            digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise CorruptBlob(path=final, actual=digest.hexdigest(), expected=sha256)

    def remove(self, sha256: str, generation: int = 0) -> None:
        """Delete a generation that nobody refers to, as its caller made sure of."""
        self._place(sha256, generation).unlink(missing_ok=True)

    def presign(self, sha256: str, generation: int = 0, *, seconds: int) -> str | None:
        """None: files of this machine have no URL of their own."""
        return None

    def presign_arrival(self, name: str, sha256: str, size: int, *, seconds: int) -> SignedPut | None:
        """None: clients leave nothing on this machine."""
        return None

    def fetch_arrival(self, name: str, sha256: str, size: int, target: Path) -> None:
        """Raises ArrivalNotFound."""
        raise ArrivalNotFound(name=name)

    def drop_arrival(self, name: str) -> None:
        """Nothing: nothing is there."""

    def stored(self) -> Iterator[StoredBlob]:
        """Everything the store holds, in no particular order."""
        for folder in sorted(self.root.glob(PREFIX_PATTERN)):
            for path in folder.iterdir():
                named = parse_place(path.name)
                if named is not None:
                    with suppress(FileNotFoundError):
                        found = path.stat()
                        # the change time is when it was linked here; the file itself may be much older
                        yield StoredBlob(*named, found.st_size, found.st_ctime)

    def abandon(self, seconds: float) -> int:
        """Nothing: what is half written is in a scratch folder."""
        return 0

    def _place(self, sha256: str, generation: int) -> Path:
        return self.root / place(sha256, generation)


def _link(path: Path, final: Path) -> None:
    try:
        os.link(path, final)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in LINKLESS:
            raise
        path.rename(final)
