from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from graftwork.errors import GraftworkError, InputChanged, StorageFull
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings

NAME = Name("acme", "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a few megabytes, whose files are all different."""
    made = tmp_path / "model"
    made.mkdir()
    rng = np.random.default_rng(0)
    tensors = {f"layers.{index}.weight": rng.standard_normal((256, 1024), dtype="f4") for index in range(12)}
    save_file(tensors, made / "model.safetensors")
    (made / "config.json").write_text("{}")
    return made


def test_a_disk_that_fills_up_leaves_no_trace(
    local_registry: Registry, folder: Path, contents: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = os.write, [9_000_000]

    def limited(descriptor: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", limited)
        with pytest.raises(StorageFull, match="disk has"):
            import_source(local_registry, str(folder), NAME)
    assert left == [0]
    assert contents() == set()
    assert local_registry.catalog.list() == []
    assert import_source(local_registry, str(folder), NAME).number == 1


def test_too_small_a_disk_is_seen_before_anything_is_written(
    local_registry: Registry, folder: Path, contents: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageFull, match="disk has 1000"):
        import_source(local_registry, str(folder), NAME)
    assert contents() == set()


def test_a_source_that_changes_under_the_reader_is_refused(
    local_registry: Registry, folder: Path, contents: Callable[[], set[str]]
) -> None:
    weights = folder / "model.safetensors"

    def touch(stage: str, done: int, total: int) -> None:
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"x")
        os.utime(weights, ns=(1, done))

    with pytest.raises(InputChanged, match=r"model\.safetensors"):
        import_source(local_registry, str(folder), NAME, progress=touch)
    assert contents() == set()
    assert local_registry.catalog.list() == []


IMPORT = """
import sys, time
from pathlib import Path
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

home, url, folder = sys.argv[1:]

def report(stage, done, total):
    print(done, flush=True)
    time.sleep(0.01)

with Registry.open(Settings(home=Path(home), database_url=url)) as registry:
    print("ready", flush=True)
    print(import_source(registry, folder, Name("acme", "model"), progress=report).ref, flush=True)
"""


def test_an_import_that_is_killed_shows_nothing_and_can_be_run_again(settings: Settings, folder: Path) -> None:
    arguments = [str(settings.home), settings.database_url, str(folder)]
    for lines in (1, 2, 4):
        with subprocess.Popen([sys.executable, "-c", IMPORT, *arguments], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with Registry.open(settings) as registry:
            assert registry.catalog.list() == []
    with Registry.open(settings) as registry:
        version = import_source(registry, str(folder), NAME)
        assert version.number == 1
        for file in version.files:
            registry.blobs.verify(file.sha256)
        for stale in (settings.home / "blobs" / "tmp").rglob("*"):
            os.utime(stale, (1, 1))
    with Registry.open(settings):
        assert list((settings.home / "blobs" / "tmp").iterdir()) == []


KILLED_IN_COMMIT = """
import os, signal, sys
from pathlib import Path
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

home, url, folder = sys.argv[1:]
with Registry.open(Settings(home=Path(home), database_url=url)) as registry:
    kill = lambda session, version: os.kill(os.getpid(), signal.SIGKILL)
    import_source(registry, Path(folder), Name("acme", "model"), also=kill, move=True)
"""


def test_a_kill_between_storing_and_registering_shows_nothing(settings: Settings, folder: Path) -> None:
    arguments = [str(settings.home), settings.database_url, str(folder)]
    process = subprocess.run([sys.executable, "-c", KILLED_IN_COMMIT, *arguments])
    assert process.returncode == -signal.SIGKILL
    with Registry.open(settings) as registry:
        assert registry.catalog.list() == []
        assert import_source(registry, str(folder), NAME).number == 1


def test_several_processes_may_open_a_new_registry_at_once(settings: Settings) -> None:
    code = """
import sys
from pathlib import Path
from graftwork.registry.registry import Registry
from graftwork.settings import Settings
Registry.open(Settings(home=Path(sys.argv[1]), database_url=sys.argv[2])).close()
"""
    command = [sys.executable, "-c", code, str(settings.home), settings.database_url]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]


@pytest.mark.parametrize("damage", ["cut", "pickle", "flip"])
def test_a_damaged_source_leaves_no_trace(
    local_registry: Registry, folder: Path, contents: Callable[[], set[str]], damage: str
) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(
        {"cut": content[:-1], "pickle": b"\x80\x04" + content, "flip": content[:9] + b"\0" + content[10:]}[damage]
    )
    with pytest.raises(GraftworkError, match=r"model\.safetensors"):
        import_source(local_registry, str(folder), NAME)
    assert contents() == set()
    assert local_registry.catalog.list() == []
