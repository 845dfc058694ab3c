"""The blob store on a real S3-compatible server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from graftwork.errors import CorruptBlob, InputChanged, InvalidSetting, StorageUnavailable
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.storage import cache, s3
from graftwork.registry.storage.address import Address
from graftwork.registry.storage.blobs import StagedBlob, place
from graftwork.registry.storage.s3 import ObjectStore
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import export, materialise, verify
from graftwork.settings import Settings
from graftwork.testing.object_storage import BUCKET, ObjectStorage

BIG = 20_000_000


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def url(object_storage: ObjectStorage) -> str:
    return object_storage.new_prefix()


@pytest.fixture
def store(tmp_path: Path, url: str) -> ObjectStore:
    made = ObjectStore(tmp_path / "blobs", Address.parse(url), cache_bytes=3 * BIG)
    made.create()
    return made


@pytest.fixture
def bucket(object_storage: ObjectStorage) -> Iterator[Any]:
    client = object_storage.client()
    yield client
    client.close()


def staged(store: ObjectStore, content: bytes, folder: Path) -> StagedBlob:
    return store.stage([content], folder)


def test_a_blob_comes_back_and_is_stored_once(store: ObjectStore, tmp_path: Path) -> None:
    for content in (b"", b"x", os.urandom(BIG)):
        one = staged(store, content, tmp_path)
        assert store.publish(one)
        assert not store.publish(one)
        assert store.has(one.sha256)
        assert not store.has(one.sha256, 1)
        assert store.path(one.sha256).read_bytes() == content
        assert store.path(one.sha256).stat().st_mode & 0o777 == 0o444
        store.verify(one.sha256)
    assert sorted(blob.size for blob in store.stored()) == [0, 1, BIG]
    assert list((store.root / "tmp").iterdir()) == []


def test_generations_are_apart(store: ObjectStore, tmp_path: Path) -> None:
    one = staged(store, b"x", tmp_path)
    store.publish(one)
    store.publish(one, 1)
    store.path(one.sha256)
    store.remove(one.sha256)
    assert (store.has(one.sha256), store.has(one.sha256, 1)) == (False, True)
    with pytest.raises(CorruptBlob, match=f"{BUCKET}/.*nothing"):
        store.path(one.sha256)
    assert store.path(one.sha256, 1).read_bytes() == b"x"
    assert [(blob.sha256, blob.generation) for blob in store.stored()] == [(one.sha256, 1)]


@pytest.mark.parametrize("size", [10, BIG])
def test_a_file_that_changed_since_it_was_hashed_is_not_stored(store: ObjectStore, tmp_path: Path, size: int) -> None:
    one = staged(store, b"a" * size, tmp_path)
    one.path.write_bytes(b"a" * (size - 1) + b"b")
    with pytest.raises(InputChanged):
        store.publish(one)
    assert not store.has(one.sha256)
    assert store.abandon(-1) == 0


def test_damage_in_the_storage_is_found(store: ObjectStore, bucket: Any, tmp_path: Path) -> None:
    one = staged(store, b"content", tmp_path)
    store.publish(one)
    bucket.put_object(Bucket=BUCKET, Key=store.address.prefix + place(one.sha256, 0), Body=b"Content")
    for read in (store.path, store.verify):
        with pytest.raises(CorruptBlob, match=rf"{one.sha256} has SHA-256 {sha(b'Content')}"):
            read(one.sha256)
    assert [path for path in store.root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_the_storage_refuses_bytes_that_are_not_those_of_the_digest(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3, "_base64", lambda digest: b64encode(bytes(32)).decode())
    one = staged(store, b"content", tmp_path)
    with pytest.raises(StorageUnavailable, match="BadDigest"):
        store.publish(one)
    assert not store.has(one.sha256)


def test_what_fails_is_named_with_its_bucket_and_key(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = staged(store, b"x", tmp_path)
    nowhere = ObjectStore(store.root, Address.parse("s3://b-1/x?endpoint_url=http://127.0.0.1:9"), 10)
    with pytest.raises(StorageUnavailable, match=rf"look for s3://b-1/x/{place(one.sha256, 0)}: .*127.0.0.1:9"):
        nowhere.publish(one)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageUnavailable, match=rf"look for s3://{BUCKET}/.*{one.sha256}: .*403"):
        store.publish(one)


@pytest.mark.parametrize("wrong", ["ftp://b", "s3://", "s3://b?x=1", "s3://b?downloads=no", "s3://b?endpoint_url=b"])
def test_another_storage_url_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidSetting, match=r"storage_url is .*s3://BUCKET"):
        Address.parse(wrong)


def test_a_url_for_anybody(store: ObjectStore, tmp_path: Path) -> None:
    one = staged(store, b"content", tmp_path)
    store.publish(one)
    url = store.presign(one.sha256, seconds=60)
    assert url is not None
    assert httpx.get(url).content == b"content"
    assert httpx.get(url, headers={"Range": "bytes=1-3"}).content == b"ont"
    assert httpx.get(url.replace("Signature=", "Signature=0")).status_code == 403
    proxied = ObjectStore(store.root, replace(store.address, redirects=False), 0)
    assert proxied.presign(one.sha256, seconds=60) is None


def test_the_cache_is_bounded_and_the_least_used_go_first(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KEPT_SECONDS", 0)
    blobs = [staged(store, bytes([number]) * 1000, tmp_path) for number in range(6)]
    store._cache.limit = 3500
    for blob in blobs:
        store.publish(blob)
    for blob in (*blobs[:4], blobs[0], blobs[4], blobs[3], blobs[5]):
        assert store.path(blob.sha256).stat().st_size == 1000
        time.sleep(0.01)
    assert {path.name for path in (store.root / "cache").glob("*/*")} == {
        blob.sha256 for blob in (blobs[4], blobs[3], blobs[5])
    }


def test_a_file_that_was_just_given_out_stays(store: ObjectStore, tmp_path: Path) -> None:
    store._cache.limit = 0
    paths = []
    for number in range(3):
        blob = staged(store, bytes([number]) * 1000, tmp_path)
        store.publish(blob)
        paths.append(store.path(blob.sha256))
    assert all(path.exists() for path in paths)


def test_many_who_want_one_blob_fetch_it_once(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(500_000)
    one = staged(store, content, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: store.publish(one), range(4))).count(True) >= 1
    fetched = []
    fetch = store._fetch
    monkeypatch.setattr(store, "_fetch", lambda *what: fetched.append(what) or fetch(*what))  # type: ignore[func-returns-value]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: store.path(one.sha256).read_bytes(), range(16))) == {content}
    assert len(fetched) == 1


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ResponseStreamingError
    from botocore.response import StreamingBody

    content = os.urandom(300_000)
    one = staged(store, content, tmp_path)
    store.publish(one)
    whole: Callable[..., Iterator[bytes]] = StreamingBody.iter_chunks
    broken: list[int] = []

    def breaks(body: StreamingBody, size: int) -> Iterator[bytes]:
        for number, chunk in enumerate(whole(body, 65_536)):
            if number == 1 and len(broken) < 3:
                broken.append(number)
                raise ResponseStreamingError(error="cut")
            yield chunk

    monkeypatch.setattr(StreamingBody, "iter_chunks", breaks)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert store.path(one.sha256).read_bytes() == content
    assert len(broken) == 3


IMPORT = """
import sys
from pathlib import Path
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

home, url, storage, folder = sys.argv[1:]
with Registry.open(Settings(home=Path(home), database_url=url, storage_url=storage)) as registry:
    print("ready", flush=True)
    print(import_source(registry, folder, Name("acme", "model")).ref, flush=True)
"""


def test_a_registry_on_both_databases_keeps_its_blobs_in_the_storage(
    settings: Settings, url: str, family: dict[str, Path], tmp_path: Path
) -> None:
    settings = replace(settings, storage_url=url)
    arguments = [str(settings.home), settings.database_url, url, str(family["sharded"])]
    for seconds in (0.0, 0.05):
        with subprocess.Popen([sys.executable, "-c", IMPORT, *arguments], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    with Registry.open(settings) as registry:
        version = import_source(registry, str(family["sharded"]), Name.parse("acme/model"))
        assert version.number == 1
        verify(registry, version)
        assert not list((settings.home / "blobs").glob("[0-9a-f][0-9a-f]"))
    elsewhere = replace(settings, home=tmp_path / "elsewhere")
    if not settings.database_url:
        elsewhere = replace(elsewhere, database_url=settings.database)
    with Registry.open(elsewhere) as registry:
        found = registry.catalog.resolve("acme/model")
        threads = [threading.Thread(target=materialise, args=(registry, found)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        export(registry, found, tmp_path / "out")
        for file in found.files:
            content = (family["sharded"] / file.path).read_bytes()
            assert (materialise(registry, found) / file.path).read_bytes() == content
            assert (tmp_path / "out" / file.path).read_bytes() == content
