"""A merge that was killed goes on where it was, and ends with the bytes of one that was not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graftwork.errors import Cancelled, StorageFull
from graftwork.merge.models.sources import Source
from graftwork.merge.output.journal import JOURNAL_FILE, Journal, decode, encode
from graftwork.merge.output.workplace import workplace
from graftwork.merge.plan.identity import identity
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.run.publish import publish
from graftwork.merge.statistics.magnitudes import Cut
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings

ROOT = Path(__file__).parent.parent.parent
TIES: dict[str, Any] = {"parameters": {"density": 0.2}}
PAPER: dict[str, Any] = {
    "parameters": {"density": 0.2, "variant": "paper"},
    "modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}],
}
GRAIN = 65_536


def planned(bench: Any, paths: list[str], **more: Any) -> Plan:
    found = plan(bench.recipe("ties", paths, **more), settings=Settings(threads=1, memory=GRAIN * 64))
    assert isinstance(found, Plan)
    return found


class Dies(BaseException):
    """Stands for the end of the process: what it leaves stays."""


def die_after(monkeypatch: pytest.MonkeyPatch, records: int) -> None:
    add = Journal.add
    seen = []

    def count(self: Journal, spans: Any) -> None:
        add(self, spans)
        seen.append(spans)
        if len(seen) == records:
            raise Dies

    monkeypatch.setattr(Journal, "add", count)


def begin(bench: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch, records: int = 1, **more: Any) -> Path:
    """What a process leaves that dies after so many records."""
    with monkeypatch.context() as patched:
        die_after(patched, records)
        with pytest.raises(Dies):
            write_folder(planned(bench, paths, **more), bench.root / "merged", keep=lambda: True)
    left: Path = bench.root / "merged.partial"
    return left


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors that are read from now on."""
    names: list[str] = []
    read = Source.read

    def note(self: Source, tensor: Any, start: int, into: memoryview) -> None:
        names.append(tensor.info.name)
        read(self, tensor, start, into)

    monkeypatch.setattr(Source, "read", note)
    return names


def large_family(bench: Any, tensors: int = 3) -> list[str]:
    random = np.random.default_rng(0)
    names = [f"model.layers.{number}.weight" for number in range(tensors)]
    base = {name: random.normal(size=(16, GRAIN)).astype(np.float32) for name in names}
    model = {name: values + np.float32(0.01) * random.normal(size=values.shape) for name, values in base.items()}
    return [bench.write("base", base), bench.write("model", {name: x.astype(np.float32) for name, x in model.items()})]


@pytest.mark.parametrize("more", [TIES, PAPER], ids=["ties", "paper"])
def test_it_goes_on_where_it_was(bench: Any, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    paths = large_family(bench)
    write_folder(planned(bench, paths, **more), bench.root / "peace")
    left = begin(bench, paths, monkeypatch, **more)
    assert (left / JOURNAL_FILE).read_bytes().count(b"\n") >= 2
    names = reads(monkeypatch)
    whole = planned(bench, paths, **more)
    write_folder(replace(whole, slice_elements=2 * GRAIN), bench.root / "merged")
    assert "model.layers.0.weight" not in names
    assert "model.layers.2.weight" in names
    bytes_of = [(bench.root / out / "model.safetensors").read_bytes() for out in ("peace", "merged")]
    assert bytes_of[0] == bytes_of[1]
    assert not left.exists()
    assert {path.name for path in (bench.root / "merged").iterdir()} == {
        path.name for path in (bench.root / "peace").iterdir()
    }


@pytest.mark.parametrize("change", ["input", "recipe", "boot", "header", "cut"])
def test_the_beginning_of_another_merge_is_thrown_away(
    bench: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    paths = large_family(bench, 2)
    more = TIES
    left = begin(bench, paths, monkeypatch, **more)
    journal = left / JOURNAL_FILE
    (left / "model.safetensors").write_bytes(bytes((left / "model.safetensors").stat().st_size))
    (left / "stray").write_text("stray")
    if change == "input":
        os.utime(Path(paths[1], "model.safetensors"))
    elif change == "recipe":
        more = {"parameters": {"density": 0.3}}
    elif change == "boot":
        monkeypatch.setattr("graftwork.merge.output.journal._boot", lambda: "another")
    elif change == "header":
        journal.write_bytes(b"00000000 " + journal.read_bytes()[9:])
    else:
        journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0] + b'12345678 {"done":[[0,')
    write_folder(planned(bench, paths, **more), bench.root / "merged")
    write_folder(planned(bench, paths, **more), bench.root / "peace")
    assert (bench.root / "merged" / "model.safetensors").read_bytes() == (
        bench.root / "peace" / "model.safetensors"
    ).read_bytes()
    assert not (bench.root / "merged" / "stray").exists()


def test_a_missing_weight_file_begins_again(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = large_family(bench, 2)
    left = begin(bench, paths, monkeypatch, **TIES)
    (left / "model.safetensors").unlink()
    write_folder(planned(bench, paths, **TIES), bench.root / "merged")
    write_folder(planned(bench, paths, **TIES), bench.root / "peace")
    assert (bench.root / "merged" / "model.safetensors").read_bytes() == (
        bench.root / "peace" / "model.safetensors"
    ).read_bytes()


def test_an_error_removes_the_beginning_unless_it_is_asked_to_stay(bench: Any) -> None:
    paths = large_family(bench, 1)

    def cancel(stage: str, done: int, total: int) -> None:
        if done:
            raise Cancelled(what=stage)

    for keep in (True, False):
        with pytest.raises(Cancelled):
            write_folder(planned(bench, paths, **TIES), bench.root / "merged", cancel, partial(bool, keep))
        assert (bench.root / "merged.partial").exists() == keep
        assert not (bench.root / "merged").exists()


def test_a_disk_that_fails_while_flushing_is_said(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = large_family(bench, 1)
    monkeypatch.setattr("graftwork.merge.output.weight_files.FLUSH_BYTES", 1)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(StorageFull):
        write_folder(planned(bench, paths, **TIES), bench.root / "merged")
    assert {path.name for path in bench.root.iterdir()} == {"base", "model"}


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        (Cut((1, 2), (3, 2**62)), 1),
        {"a": [1, 2.0, "x"], 3: (None, True)},
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.float32(0.1),
    ],
)
def test_what_was_measured_can_be_written_down(value: Any) -> None:
    again = decode(encode(value))
    assert type(again) is type(value)
    assert np.array_equal(again, value) if isinstance(value, np.ndarray) else again == value


def test_what_cannot_be_written_down_is_measured_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "x")
    journal.open()
    journal.keep("statistic", object())
    journal.keep("alpha", 0.25)
    journal.add([(3, 0, 10), (3, 10, 20)])
    journal.close()
    again = Journal(tmp_path, "x")
    assert again.resumes
    again.open()
    assert (again.result("statistic"), again.result("alpha")) == (None, 0.25)
    assert again.has(3, 5, 20)
    assert not again.has(3, 5, 21)
    again.close(remove=True)
    assert not Journal(tmp_path, "x").resumes


def test_slices_and_threads_change_no_byte(bench: Any) -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=(40, GRAIN)).astype(np.float32)
    model = base + np.float32(0.01) * random.normal(size=base.shape).astype(np.float32)
    paths = [bench.write("base", {"w": base}), bench.write("model", {"w": model})]
    results = set()
    cuts = ((1, 16, 5e8), (2, 16, 5e8), (1, 128, 5e8), (2, 128, 5e8), (2, 16, 1e8), (2, 1, 1e7))
    for threads, grains, memory in cuts:
        found = plan(bench.recipe("ties", paths, **TIES), settings=Settings(threads=threads, memory=int(memory)))
        assert isinstance(found, Plan)
        out = bench.root / f"{threads}-{grains}-{memory}"
        write_folder(replace(found, threads=threads, slice_elements=grains * GRAIN), out)
        results.add((out / "model.safetensors").read_bytes())
    assert len(results) == 1


def test_kills_at_random_moments(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.merge.kills", "--kills", "10", "--parameters", "4M"]
    finished = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "10 kills" in finished.stdout


@pytest.fixture
def registry(bench: Any) -> Iterator[Registry]:
    paths = large_family(bench)
    with Registry.open(Settings(home=bench.root / "home")) as opened:
        import_source(opened, paths[0], Name.parse("acme/base"))
        import_source(opened, paths[1], Name.parse("acme/model"), base=Ref.parse("acme/base"))
        yield opened


def left_over(registry: Registry) -> list[str]:
    return [path.name for path in (registry.home / "blobs" / "tmp").iterdir()]


def test_a_merge_into_the_registry_goes_on_too(bench: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = bench.recipe("ties", ["acme/base", "acme/model"], output={"name": "acme/merged"}, **TIES)
    settings = Settings(home=registry.home, threads=1)
    peace = publish(recipe, registry=registry, settings=settings, name="acme/peace")
    for keep in (False, True):
        with monkeypatch.context() as patched:
            die_after(patched, 1)
            with pytest.raises(Dies):
                publish(recipe, registry=registry, settings=settings, keep=partial(bool, keep))
        assert [name[:6] for name in left_over(registry)] == ["merge-"] * keep
    names = reads(monkeypatch)
    version = publish(recipe, registry=registry, settings=settings)
    assert version.digest == peace.digest
    assert "model.layers.0.weight" not in names
    assert "model.layers.2.weight" in names
    assert left_over(registry) == []


def test_two_processes_at_one_merge_into_the_registry_do_not_mix(bench: Any, registry: Registry) -> None:
    recipe = bench.recipe("ties", ["acme/base", "acme/model"], output={"name": "acme/merged"}, **TIES)
    settings = Settings(home=registry.home, threads=1)
    whole = plan(recipe, settings=settings, registry=registry)
    assert isinstance(whole, Plan)
    scratch = registry.home / "blobs" / "tmp" / "scratch"
    with workplace(scratch, identity(whole), lambda: False) as first:
        assert first != scratch
        assert publish(recipe, registry=registry, settings=settings)
        with workplace(scratch, identity(whole), lambda: False) as second:
            assert second == scratch
    whole.close()


def test_a_killed_merges_room_is_counted_as_its_own(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = large_family(bench)
    begin(bench, paths, monkeypatch, **TIES)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=65_000_000))
    plan(bench.recipe("ties", paths), settings=Settings(), out=bench.root / "merged").close()
    with pytest.raises(StorageFull):
        plan(bench.recipe("ties", paths), settings=Settings(), out=bench.root / "elsewhere")
