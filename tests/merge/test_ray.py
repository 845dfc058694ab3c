"""A merge spread over the processes of a Ray cluster ends with the bytes of one in this process."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest

from graftwork.errors import Cancelled, InvalidSetting, NonFiniteTensor, OperationFailed, ServerUnreachable
from graftwork.merge.jobs.kinds.merge import submit_merge
from graftwork.merge.jobs.worker import run_next
from graftwork.merge.output.journal import JOURNAL_FILE, Journal
from graftwork.merge.output.writer import OutputFolder
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.recipe.recipe import Recipe
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.run.run import merge
from graftwork.progress import Progress, silent
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings, environment
from graftwork.testing.tiny import tiny_family

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
from graftwork.merge.run.ray import crew as crews  # noqa: E402  only where ray is
from graftwork.merge.run.ray.share import Share  # noqa: E402

GRAIN = 65_536
LOCAL = Settings(threads=1, memory=64 * GRAIN)
RAY = replace(LOCAL, executor="ray", ray_workers=2)
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {"parameters": {"weight": 0.5}}),
    "ties": ("ties", {"parameters": {"density": 0.2}}),
    "dare_ties": ("dare_ties", {"parameters": {"density": 0.4}, "seed": 7}),
    "model_stock": ("model_stock", {}),
    "ties of the model, LiNeS": (
        "ties",
        {
            "parameters": {"density": 0.2, "variant": "paper"},
            "modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}],
        },
    ),
    "LiNeS over a random mask": (
        "dare_linear",
        {"parameters": {"density": 0.5}, "modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}], "seed": 3},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=4,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def paths(bench: Any) -> list[str]:
    """A base and two models, with tensors that are cut into spans and tensors that are put together."""
    random = np.random.default_rng(0)
    shapes = {
        **{f"model.layers.{number}.weight": (20, GRAIN) for number in range(3)},
        **{f"model.layers.{number}.norm": (777,) for number in range(3)},
        "model.empty": (0, 4),
    }
    base = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    written = [bench.write("base", {name: values.astype(ml_dtypes.bfloat16) for name, values in base.items()})]
    for number in range(2):
        model = {name: values + 0.01 * random.normal(size=values.shape) for name, values in base.items()}
        tensors = {name: values.astype(ml_dtypes.bfloat16) for name, values in model.items()}
        written.append(bench.write(f"model-{number}", tensors))
    return written


def address() -> str:
    """Where other processes reach the cluster."""
    return str(ray.get_runtime_context().gcs_address)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def planned(recipe: Recipe, settings: Settings) -> Plan:
    found = plan(recipe, settings=settings)
    assert isinstance(found, Plan)
    return found


def workers() -> list[psutil.Process]:
    """The processes of the actors that compute."""

    def computes(process: psutil.Process) -> bool:
        try:
            return process.name().startswith("ray::Worker")
        except psutil.NoSuchProcess:  # it ended after it was listed
            return False

    return [each for each in psutil.Process().children(recursive=True) if computes(each)]


@pytest.mark.parametrize(
    ("name", "count"), [*((name, 2) for name in RECIPES), ("dare_ties", 4), ("ties of the model, LiNeS", 4)]
)
def test_the_bytes_are_those_of_a_local_run(
    bench: Any, paths: list[str], name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, more = RECIPES[name]
    recipe = bench.recipe(method, paths, base=method != "linear", output={"shard_size": "4MB"}, **more)
    local = merge(recipe, out=bench.root / "local", settings=LOCAL)
    monkeypatch.delattr(OutputFolder, "write")  # this process writes no tensor
    spread = merge(recipe, out=bench.root / "spread", settings=replace(RAY, ray_workers=count))
    assert len(list(local.glob("*.safetensors"))) > 1
    assert digests(spread) == digests(local)
    assert not (bench.root / "spread.partial").exists()


def test_every_worker_has_shares_and_large_tensors_are_shared(
    bench: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Share] = []
    each = crews.Crew.each

    def note(self: crews.Crew, method: str, shares: Any, *more: Any, **options: Any) -> Any:
        given.extend(shares)
        assert self.size == 4
        return each(self, method, shares, *more, **options)

    monkeypatch.setattr(crews.Crew, "each", note)
    recipe = bench.recipe("linear", paths, base=False, parameters={"weight": 0.5})
    merge(recipe, out=bench.root / "spread", settings=replace(RAY, ray_workers=4))
    assert len(given) >= 4
    holders = Counter(position for share in given for position in {position for position, _, _ in share.spans})
    assert max(holders.values()) > 1
    spans = sorted(span for share in given for span in share.spans)
    assert spans == sorted(set(spans))


def test_in_a_registry_and_as_a_job(bench: Any, tmp_path: Path) -> None:
    """A model with an adapter merged in, adapters alone, and two models; the job finds the cluster by its address."""
    family = tiny_family(tmp_path / "family", fine_tunes=1, adapters=2)
    settings = replace(RAY, home=tmp_path / "home", memory=50_000_000)
    models = {
        "whole": ["tiny/base+tiny/adapter0", "tiny/ft0"],
        "adapters": ["tiny/adapter0", "tiny/adapter1"],
    }
    with Registry.open(settings) as registry:
        base = Ref.parse("tiny/base")
        import_source(registry, str(family.base), base.name)
        for name, folder in (*family.fine_tunes.items(), *family.adapters.items()):
            import_source(registry, str(folder), Name("tiny", name), base=base)
        for name, references in models.items():
            recipe = Recipe.model_validate(
                {
                    "merge_method": "linear",
                    "models": [{"model": one, "parameters": {"weight": 0.5}} for one in references],
                }
            )
            local = replace(settings, executor="local")
            expected = merge(recipe, registry=registry, settings=local, name=f"acme/{name}-local")
            version = merge(recipe, registry=registry, settings=settings, name=f"acme/{name}-ray")
            assert version.digest == expected.digest
        pinned = bench.recipe("ties", ["tiny/base@v1", "tiny/ft0@v1"], parameters={"density": 0.5})
        expected = merge(pinned, registry=registry, settings=local, name="acme/job-local")
        ended = []
        for place in ("127.0.0.1:1", address()):
            job = submit_merge(registry, pinned, settings=settings, name="acme/job-ray")
            assert run_next(registry, replace(settings, ray_address=place), worker="one")
            ended.append(registry.jobs.get(job.id))
        assert ended[0].error_code == "server_unreachable"
        assert (ended[1].result or {})["digest"] == expected.digest


def killing(at: int) -> tuple[Progress, list[int]]:
    """Progress that kills every worker with SIGKILL, `at` times while shares are left; and whom it killed."""
    killed: list[int] = []
    times = 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal times
        there = [each for each in workers() if each.pid not in killed]
        if stage == "merge" and 0 < done < total and times < at and there:
            times += 1
            for worker in there:
                killed.append(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)

    return progress, killed


def test_workers_that_are_killed_are_replaced(bench: Any, paths: list[str]) -> None:
    method, more = RECIPES["dare_ties"]
    recipe = bench.recipe(method, paths, **more)
    local = merge(recipe, out=bench.root / "local", settings=LOCAL)
    progress, killed = killing(1)
    spread = merge(recipe, out=bench.root / "spread", settings=RAY, progress=progress)
    assert killed
    assert digests(spread) == digests(local)


def test_workers_that_are_killed_again_end_the_merge_in_a_sentence(bench: Any, paths: list[str]) -> None:
    recipe = bench.recipe("linear", paths, base=False, parameters={"weight": 0.5})
    progress, killed = killing(100)
    with pytest.raises(OperationFailed, match=r"^The merge on Ray failed: a worker died, and so did the one in its"):
        merge(recipe, out=bench.root / "spread", settings=RAY, progress=progress)
    assert len(killed) > 1
    assert not (bench.root / "spread").exists()
    assert not (bench.root / "spread.partial").exists()


class Dies(BaseException):
    """Stands for the end of the process that drives: what it leaves stays."""


@pytest.mark.parametrize("then", [RAY, LOCAL], ids=["ray", "local"])
def test_it_goes_on_where_a_killed_driver_was(
    bench: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch, then: Settings
) -> None:
    method, more = RECIPES["ties of the model, LiNeS"]
    recipe = bench.recipe(method, paths, **more)
    local = merge(recipe, out=bench.root / "local", settings=LOCAL)
    add = Journal.add
    written: list[Any] = []

    def die(self: Journal, spans: Any) -> None:
        add(self, spans)
        written.extend(spans)
        raise Dies

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", die)
        with pytest.raises(Dies):
            write_folder(planned(recipe, RAY), bench.root / "spread", silent, partial(bool, True))
    left = bench.root / "spread.partial"
    assert written
    again: list[Any] = []

    def note(self: Journal, spans: Any) -> None:
        listed = list(spans)
        again.extend(listed)
        add(self, listed)

    monkeypatch.setattr(Journal, "add", note)
    write_folder(planned(recipe, then), bench.root / "spread")
    assert again
    assert not {span[:2] for span in written} & {span[:2] for span in again}
    assert not left.exists()
    assert digests(bench.root / "spread") == digests(local)


def test_an_error_of_a_worker_is_that_of_a_local_run(bench: Any) -> None:
    paths, (base, *_) = bench.family(2)
    base["model.layers.1.mlp.weight"][3, 3] = np.nan
    paths.append(bench.write("broken", base))
    recipe = bench.recipe("linear", paths, base=False, parameters={"weight": 0.25})
    said = []
    for settings in (LOCAL, RAY):
        with pytest.raises(NonFiniteTensor, match="broken") as caught:
            merge(recipe, out=bench.root / "merged", settings=settings)
        assert type(caught.value) is NonFiniteTensor
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not (bench.root / "merged.partial").exists()


def test_it_is_cancelled_and_leaves_no_worker(bench: Any, paths: list[str]) -> None:
    def cancel(stage: str, done: int, total: int) -> None:
        if done:
            raise Cancelled(what="The merge")

    recipe = bench.recipe("linear", paths, base=False, parameters={"weight": 0.5})
    with pytest.raises(Cancelled):
        merge(recipe, out=bench.root / "merged", settings=RAY, progress=cancel)
    psutil.wait_procs(workers(), timeout=20)
    assert not workers()
    assert not (bench.root / "merged.partial").exists()


def test_another_plan_on_a_worker_is_refused(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bench.family(1)
    monkeypatch.setattr("graftwork.merge.run.ray.order.identity", lambda planned: "another")
    with pytest.raises(OperationFailed, match=r"^Planning the merge on \S+ failed: its files or its Graftwork"):
        merge(bench.recipe("ties", paths), out=bench.root / "merged", settings=RAY)


def test_relative_paths_are_those_of_the_driver(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.family(2)
    monkeypatch.chdir(bench.root)
    recipe = bench.recipe("ties", ["model-0", "./model-1", "model-2"])
    local = merge(recipe, out=Path("local"), settings=LOCAL)
    assert digests(merge(recipe, out=Path("spread"), settings=RAY)) == digests(local)


def test_more_threads_than_a_machine_has_processors_are_refused(bench: Any) -> None:
    paths, _ = bench.family(1)
    settings = replace(RAY, threads=5, memory=500_000_000)
    with pytest.raises(InvalidSetting, match="at most 4, the processors of a machine of the Ray cluster"):
        merge(bench.recipe("ties", paths), out=bench.root / "merged", settings=settings)


@pytest.mark.parametrize(
    ("place", "error", "told"),
    [
        ("127.0.0.1:1", ServerUnreachable, r"127\.0\.0\.1:1 cannot be reached: Connection refused"),
        ("somewhere", InvalidSetting, "host:port"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(
    bench: Any, monkeypatch: pytest.MonkeyPatch, place: str, error: type[Exception], told: str
) -> None:
    paths, _ = bench.family(1)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(error, match=told):
        merge(bench.recipe("ties", paths), out=bench.root / "merged", settings=replace(RAY, ray_address=place))


def test_without_ray_the_extra_is_named(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bench.family(1)
    monkeypatch.setitem(sys.modules, "ray", None)
    for module in ("spread", "crew"):
        monkeypatch.delitem(sys.modules, f"graftwork.merge.run.ray.{module}", raising=False)
    with pytest.raises(InvalidSetting, match=r"pip install 'graftwork\[ray\]'"):
        merge(bench.recipe("ties", paths), out=bench.root / "merged", settings=RAY)


KILLED = """
import os, signal
from graftwork.cli.main import main
from graftwork.merge.output.journal import Journal
add = Journal.add
def die(self, spans):
    add(self, spans)
    os.kill(os.getpid(), signal.SIGKILL)
Journal.add = die
main()
"""
"""The command line, which is killed when the first share is in the journal."""


def test_a_driver_that_is_killed_leaves_a_merge_that_goes_on(bench: Any, paths: list[str]) -> None:
    """Other processes, by the command line, at the address of the cluster."""
    recipe = bench.recipe("ties", paths, parameters={"density": 0.2})
    local = merge(recipe, out=bench.root / "local", settings=LOCAL)
    file, out = bench.root / "recipe.yaml", bench.root / "spread"
    file.write_text(recipe.as_yaml())
    settings = replace(LOCAL, ray_workers=2, home=bench.root / "home", ray_address=address())
    arguments = ["merge", str(file), str(out), "--executor", "ray"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment(settings), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (bench.root / "spread.partial" / JOURNAL_FILE).read_bytes().count(b"\n") == 2
    assert not out.exists()
    subprocess.run([sys.executable, "-m", "graftwork.cli", *arguments], env=environment(settings), check=True)
    assert digests(out) == digests(local)
