from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import insert, select, update

from graftwork.errors import ArtifactNotFound, VersionWithdrawn
from graftwork.registry.gc import Report, collect
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.tables import BlobRow, CommitRow, MarkRow, RepositoryRow, UploadPartRow, UploadRow
from graftwork.registry.transfer.snapshots import materialise, verify
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings

HOUR = 3600.0


def add(registry: Registry, content: bytes, name: str = "acme/model") -> Version:
    """Register a version as an import does: reserved, published, confirmed."""
    with registry.blobs.scratch() as folder:
        staged = registry.blobs.stage([content], folder)
        file = FileEntry("model.txt", staged.sha256, staged.size)
        for _ in range(100):
            reserved = registry.deposits.store([staged])
            with registry.database.write() as session:
                deposits = registry.deposits.confirm(session, reserved)
                if deposits is not None:
                    register = registry.catalog.register
                    return register(Name.parse(name), Kind.BASE, [file], session=session, deposits=deposits)
    raise AssertionError


def withdraw(registry: Registry, version: Version) -> None:
    registry.marks.withdraw(version, actor="ada", reason="wrong")


def run(registry: Registry, grace: float = 0, *, apply: bool = True) -> Report:
    return collect(registry, apply=apply, grace=grace)


def age(registry: Registry, seconds: float) -> None:
    """Let everything the database remembers have happened so much earlier."""
    with registry.database.write() as session:
        session.execute(update(BlobRow).values(touched_at=BlobRow.touched_at - seconds))
        session.execute(update(BlobRow).values(condemned_at=BlobRow.condemned_at - seconds))
        session.execute(update(MarkRow).values(marked_at=MarkRow.marked_at - seconds))


def rows(registry: Registry) -> dict[str, tuple[int, bool, bool]]:
    """Generation, whether it is stored, and whether it is condemned, by digest."""
    with registry.database.read() as session:
        found = session.scalars(select(BlobRow)).all()
        return {row.sha256: (row.generation, row.stored, row.condemned_at is not None) for row in found}


def test_a_withdrawn_version_goes_in_two_phases(registry: Registry) -> None:
    kept, gone = add(registry, b"kept"), add(registry, b"gone")
    (file,) = gone.files
    withdraw(registry, gone)
    age(registry, HOUR - 5)
    assert run(registry, HOUR).condemned.count == 0
    age(registry, 10)
    assert [finding.name for finding in run(registry, HOUR, apply=False).condemned.findings] == [file.sha256]
    assert rows(registry)[file.sha256] == (0, True, False)
    report = run(registry, HOUR)
    assert (report.condemned.count, report.deleted.count, report.freed) == (1, 0, 0)
    assert rows(registry)[file.sha256] == (0, True, True)
    age(registry, HOUR + 5)
    planned = run(registry, HOUR, apply=False)
    assert [(finding.name, finding.size) for finding in planned.deleted.findings] == [(file.sha256, 4)]
    assert "condemned since" in planned.deleted.findings[0].why
    assert registry.blobs.has(file.sha256)
    report = run(registry, HOUR)
    assert (report.deleted.count, report.freed) == (1, 4)
    assert not registry.blobs.has(file.sha256)
    assert rows(registry)[file.sha256] == (1, False, False)
    verify(registry, kept)
    age(registry, 10 * HOUR)
    assert run(registry, HOUR) == Report(True, HOUR)


def test_what_was_collected_answers_gone_and_can_be_registered_again(registry: Registry) -> None:
    version = add(registry, b"content")
    withdraw(registry, version)
    run(registry), run(registry)
    with pytest.raises(VersionWithdrawn):
        registry.catalog.resolve("acme/model@v1")
    with pytest.raises(VersionWithdrawn):
        materialise(registry, version)
    again = add(registry, b"content")
    assert (again, again.files[0].generation) == (version, 1)
    assert registry.blobs.path(again.files[0].sha256, 1).read_bytes() == b"content"
    assert registry.catalog.resolve("acme/model@v1") == version
    assert (materialise(registry, again) / "model.txt").read_bytes() == b"content"
    run(registry), run(registry)
    verify(registry, again)
    other = registry.catalog.register(Name.parse("acme/other"), Kind.BASE, list(version.files))
    verify(registry, other)


def test_a_hit_revives_what_is_condemned(registry: Registry) -> None:
    version = add(registry, b"content")
    withdraw(registry, version)
    run(registry)
    assert rows(registry)[version.files[0].sha256] == (0, True, True)
    other = add(registry, b"content", "acme/other")
    assert rows(registry)[version.files[0].sha256] == (0, True, False)
    run(registry), run(registry)
    verify(registry, other)


def test_an_upload_that_was_overtaken_stores_its_bytes_again(registry: Registry) -> None:
    with registry.blobs.scratch() as folder:
        staged = registry.blobs.stage([b"content"], folder)
        slow = registry.deposits.store([staged])
        run(registry), run(registry)
        assert rows(registry)[staged.sha256] == (1, False, False)
        with registry.database.write() as session:
            assert registry.deposits.confirm(session, slow) is None
        assert not registry.blobs.has(staged.sha256)
        verify(registry, add(registry, b"content"))


def test_a_failure_takes_back_only_what_is_its_own(registry: Registry) -> None:
    with registry.blobs.scratch() as folder:
        staged = registry.blobs.stage([b"content"], folder)
        first = registry.deposits.store([staged])
        time.sleep(0.01)
        second = registry.deposits.store([staged])
        registry.deposits.release(first)
        assert registry.blobs.has(staged.sha256)
        registry.deposits.release(second)
        assert not registry.blobs.has(staged.sha256)
        version = add(registry, b"content")
        third = registry.deposits.store([staged])
        registry.deposits.release(third)
        verify(registry, version)


def test_parts_and_drafts_keep_their_blobs(registry: Registry) -> None:
    with registry.blobs.scratch() as folder:
        staged = [registry.blobs.stage([content], folder) for content in (b"part", b"draft", b"neither")]
        registry.deposits.store(staged)
    with registry.database.write() as session:
        upload = {"id": "u", "owner": "", "namespace": "a", "intent": {}, "size": 4, "created_at": 0, "touched_at": 0}
        session.execute(insert(UploadRow).values(**upload))
        part = {"upload_id": "u", "path": "x", "number": 1, "sha256": staged[0].sha256, "size": 4}
        session.execute(insert(UploadPartRow).values(**part))
        repository = {"id": 1, "key": "a/b", "namespace": "a", "name": "b", "private": False, "created_at": 0}
        session.execute(insert(RepositoryRow).values(**repository))
        tree = {"files": {"x.txt": {"sha256": staged[1].sha256, "size": 5}}}
        commit = {"repository_id": 1, "branch": "main", "revision": "0" * 40, "tree": tree, "message": ""}
        session.execute(insert(CommitRow).values(**commit, created_at=0))
    run(registry), run(registry), run(registry)
    assert [registry.blobs.has(blob.sha256) for blob in staged] == [True, True, False]


def test_what_nothing_knows_is_removed_when_it_is_old(registry: Registry) -> None:
    sha256, _ = registry.blobs.put_stream([b"orphan"])
    assert run(registry, HOUR).orphans.count == 0
    assert run(registry, apply=False).orphans.count == 1
    assert registry.blobs.has(sha256)
    report = run(registry)
    assert (report.orphans.count, report.freed) == (1, 6)
    assert not registry.blobs.has(sha256)
    version = add(registry, b"orphan")
    assert version.files[0].generation == 1
    verify(registry, version)


def test_what_dead_processes_left_is_removed(registry: Registry) -> None:
    scratch = registry.blobs.root / "tmp" / "dead"
    scratch.mkdir()
    (scratch / "half").write_bytes(b"x" * 10)
    version = add(registry, b"content")
    folder = materialise(registry, version)
    withdraw(registry, version)
    assert run(registry).scratch.count == 0
    assert not folder.exists()
    os.utime(scratch / "half", (1, 1))
    os.utime(scratch, (1, 1))
    assert [finding.name for finding in run(registry, apply=False).scratch.findings] == [str(scratch)]
    run(registry)
    assert not scratch.exists()


def test_a_process_that_dies_between_commit_and_deletion_leaves_an_orphan(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add(registry, b"content")
    withdraw(registry, version)
    run(registry)

    def die(sha256: str, generation: int = 0) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(registry.blobs, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            run(registry)
    assert registry.blobs.has(version.files[0].sha256)
    fresh = add(registry, b"content")
    assert run(registry).orphans.count == 1
    assert not registry.blobs.has(version.files[0].sha256)
    verify(registry, fresh)


UPLOAD = """
import sys, itertools
from pathlib import Path
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.version import Kind
from graftwork.settings import Settings
import numpy as np
from safetensors.numpy import save_file

home, url, storage, seed = sys.argv[1:]
with Registry.open(Settings(home=Path(home), database_url=url, storage_url=storage)) as registry:
    print("ready", flush=True)
    for number in itertools.count():
        with registry.blobs.scratch() as folder:
            save_file({"w": np.full((64, 64), (number + int(seed)) % 3, "f4")}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")
            name = Name("race", f"m{(number + int(seed)) % 4}")
            version = import_source(registry, folder, name, kind=Kind.BASE, move=True)
        print(version.ref, flush=True)
"""


@pytest.mark.parametrize("storage", ["files", "s3"], indirect=True)
def test_no_version_loses_a_byte_while_uploads_are_killed_and_garbage_is_collected(
    settings: Settings, storage: str, request: pytest.FixtureRequest
) -> None:
    if storage and settings.database_url:
        pytest.skip("one database is enough for the race in an object storage")
    settings = replace(settings, storage_url=storage)
    with Registry.open(settings) as registry:
        stop = threading.Event()
        wrong: list[object] = []

        def collecting() -> None:
            while not stop.wait(0.01):  # without a pause nothing might ever get through
                run(registry)

        def withdrawing() -> None:
            while not stop.wait(0.02):
                for number in range(4):
                    _withdraw_newest(registry, f"race/m{number}")

        threads = [threading.Thread(target=_told, args=(step, wrong, stop)) for step in (collecting, withdrawing)]
        for thread in threads:
            thread.start()
        uploads = 0
        try:
            for seed in range(2):
                arguments = [str(settings.home), settings.database_url, storage, str(seed)]
                process = subprocess.Popen([sys.executable, "-c", UPLOAD, *arguments], stdout=subprocess.PIPE)
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                uploads += sum(bool(process.stdout.readline()) for _ in range(5 + seed))
                process.send_signal(signal.SIGKILL)
                process.communicate()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert uploads == 5 + 6
        for number in range(4):
            add(registry, b"last", f"race/m{number}")
            for version in registry.catalog.versions(Name("race", f"m{number}")):
                if not any(mark.mark == "withdrawn" for mark in registry.marks.of(version)):
                    verify(registry, version)
        run(registry), run(registry), run(registry)
        live = {file.sha256 for file in registry.catalog.resolve("race/m0").files}
        assert live <= {blob.sha256 for blob in registry.blobs.stored()}


def _withdraw_newest(registry: Registry, name: str) -> None:
    try:
        version = registry.catalog.resolve(name)
        verify(registry, version)
        withdraw(registry, version)
    except (ArtifactNotFound, VersionWithdrawn):
        return


def _told(step: Callable[[], None], wrong: list[object], stop: threading.Event) -> None:
    try:
        step()
    except Exception as error:  # noqa: BLE001 (the test fails with it)
        wrong.append(error)
        stop.set()
