from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.errors import CorruptBlob, StorageFull, TooLarge
from graftwork.registry.storage.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path / "blobs")
    made.create()
    return made


def files(store: LocalStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_blob_is_named_by_its_bytes(store: LocalStore, chunks: list[bytes]) -> None:
    content = b"".join(chunks)
    assert store.put_stream(chunks) == (hashlib.sha256(content).hexdigest(), len(content))
    assert store.path(hashlib.sha256(content).hexdigest()).read_bytes() == content


def test_the_same_bytes_are_stored_once_and_cannot_be_written_to(store: LocalStore) -> None:
    sha256, _ = store.put_stream([b"x"])
    inode = store.path(sha256).stat().st_ino
    assert store.put_stream([b"x"]) == (sha256, 1)
    assert store.path(sha256).stat().st_ino == inode
    assert store.path(sha256).stat().st_mode & 0o777 == 0o444
    assert len(files(store)) == 1


def test_a_copied_file_leaves_its_source(store: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"content")
    sha256, size = store.put_file(source)
    source.write_bytes(b"changed")
    assert (store.path(sha256).read_bytes(), size) == (b"content", 7)


def test_a_stream_beyond_its_limit_leaves_nothing(store: LocalStore) -> None:
    assert store.put_stream([b"12", b"34"], limit=4)[1] == 4
    with pytest.raises(TooLarge, match="4 bytes"):
        store.put_stream([b"12", b"345"], limit=4)
    assert len(files(store)) == 1


def test_a_stream_that_breaks_leaves_nothing(store: LocalStore) -> None:
    def broken() -> object:
        yield b"x"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.put_stream(broken())  # type: ignore[arg-type]
    assert files(store) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    written: list[bytes] = []
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(data)
        return write(descriptor, data[:3])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull, match="blobs needs more bytes"):
        store.put_stream([b"x" * 10])
    assert files(store) == []


def test_a_limit_on_the_size_of_files_is_a_full_disk(store: LocalStore) -> None:
    code = f"""
import resource
from pathlib import Path
from graftwork.errors import StorageFull
from graftwork.registry.storage.local import LocalStore
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
try:
    LocalStore(Path({str(store.root)!r})).put_stream([b"x" * 5000])
except StorageFull as error:
    print("full")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "full\n"
    assert files(store) == []


def test_short_writes_are_completed(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    sha256, _ = store.put_stream([bytes(range(100))])
    store.verify(sha256)


def test_damage_is_found(store: LocalStore) -> None:
    sha256, _ = store.put_stream([b"content"])
    store.verify(sha256)
    store.path(sha256).chmod(0o644)
    store.path(sha256).write_bytes(b"Content")
    with pytest.raises(CorruptBlob, match=f"not {sha256}"):
        store.verify(sha256)
    store.path(sha256).unlink()
    for read in (store.path, store.verify):
        with pytest.raises(CorruptBlob, match="nothing"):
            read(sha256)


def test_one_blob_stored_by_many_threads_is_whole(store: LocalStore) -> None:
    content = os.urandom(300_000)
    with ThreadPoolExecutor(8) as pool:
        stored = set(pool.map(lambda _: store.put_stream([content]), range(16)))
    assert stored == {(hashlib.sha256(content).hexdigest(), len(content))}
    store.verify(hashlib.sha256(content).hexdigest())
    assert len(files(store)) == 1


def test_what_nobody_touched_for_a_day_is_removed(store: LocalStore) -> None:
    folders = {name: store.root / "tmp" / name for name in ("old", "new", "slow")}
    yesterday = time.time() - 25 * 3600
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "x").write_bytes(b"x")
        if name == "old":
            os.utime(folder / "x", (yesterday, yesterday))
        if name in ("old", "slow"):
            os.utime(folder, (yesterday, yesterday))
    store.create()
    assert {name for name, folder in folders.items() if folder.exists()} == {"new", "slow"}
