"""Merges into the registry: lineage, idempotency, and jobs that survive their workers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sqlalchemy.exc import OperationalError

from graftwork.adapters.variants.lora import LoraAdapter, LoraFactors, save_lora
from graftwork.errors import (
    GraftworkError,
    IncompatibleModels,
    InvalidAdapter,
    InvalidRecipe,
    KindConflict,
    LeaseLost,
    NonFiniteTensor,
    SourceNotFound,
    VersionQuarantined,
)
from graftwork.merge.jobs.attempt import Failure, attempt
from graftwork.merge.jobs.kinds.merge import submit_merge
from graftwork.merge.jobs.worker import run_next, run_worker
from graftwork.merge.recipe.recipe import Recipe, digest, load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.jobs.jobs import Claim, Job, State
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind, Relation
from graftwork.settings import Settings

TIES = {
    "merge_method": "ties",
    "base_model": "acme/base",
    "models": [
        {"model": "acme/model-1", "parameters": {"weight": 0.5}},
        {"model": "acme/model-2@v1", "parameters": {"weight": [0, 1]}},
    ],
    "parameters": {"density": 0.3},
    "output": {"name": "acme/merged", "aliases": ["candidate"]},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=2)


@pytest.fixture
def registry(settings: Settings, bench: Any) -> Iterator[Registry]:
    """A base and two fine-tunes."""
    paths, _ = bench.family(2)
    with Registry.open(settings) as opened:
        import_source(opened, paths[0], Name.parse("acme/base"))
        for number in (1, 2):
            import_source(opened, paths[number], Name.parse(f"acme/model-{number}"), base=Ref.parse("acme/base"))
        yield opened


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(TIES)


def left_over(registry: Registry) -> list[Path]:
    return list((registry.home / "blobs" / "tmp").iterdir())


def wait_for(registry: Registry, job: Job, *states: State) -> Job:
    for _ in range(400):
        seen = registry.jobs.get(job.id)
        if seen.state in states:
            return seen
        time.sleep(0.02)
    raise AssertionError(f"still {seen.state}: {seen.error_message}")


def test_a_merge_is_registered_with_its_parents_recipe_and_alias(
    registry: Registry, settings: Settings, recipe: Recipe
) -> None:
    version = merge(recipe, registry=registry, settings=settings)
    assert (str(version.name), version.kind) == ("acme/merged", Kind.CHECKPOINT)
    assert version.base == registry.catalog.resolve("acme/base").digest
    parents = registry.lineage.parents(version.digest)
    expected = [
        ("acme/base", Relation.MERGE_BASE, None),
        ("acme/model-1", Relation.MERGE_INPUT, 0.5),
        ("acme/model-2", Relation.MERGE_INPUT, None),
    ]
    assert [(edge.parent, edge.relation, edge.weight) for edge in parents] == [
        (registry.catalog.resolve(name).digest, relation, weight) for name, relation, weight in expected
    ]
    details: Any = version.metadata["merge"]
    assert (details["method"], details["recipe_digest"]) == ("ties", digest(recipe))
    assert registry.aliases.get(version.name)["candidate"].digest == version.digest
    assert left_over(registry) == []


def test_the_same_merge_again_is_the_same_version(registry: Registry, settings: Settings, recipe: Recipe) -> None:
    first, again = (merge(recipe, registry=registry, settings=settings) for _ in range(2))
    assert (again.digest, again.number) == (first.digest, 1)
    elsewhere = merge(recipe, registry=registry, settings=settings, name="acme/other")
    assert (elsewhere.digest, str(elsewhere.name)) == (first.digest, "acme/other")


def test_the_registered_merge_is_what_a_folder_merge_writes(
    registry: Registry, settings: Settings, recipe: Recipe, bench: Any
) -> None:
    version = merge(recipe, registry=registry, settings=settings)
    out = merge(recipe, out=bench.root / "merged", registry=registry, settings=settings)
    snapshot = materialise(registry, version)
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == {
        path.name: path.read_bytes() for path in out.iterdir()
    }


def test_a_model_that_is_listed_twice_counts_twice(registry: Registry, settings: Settings) -> None:
    models = [{"model": "acme/model-1", "parameters": {"weight": weight}} for weight in (0.25, 0.75)]
    version = merge(load_recipe({**TIES, "models": models}), registry=registry, settings=settings)
    weights = [edge.weight for edge in registry.lineage.parents(version.digest)]
    assert weights == [None, 0.25, 0.75]


def test_a_failed_merge_leaves_no_trace(registry: Registry, settings: Settings, bench: Any) -> None:
    broken = bench.random(5)
    broken["model.norm.weight"][0] = np.nan
    import_source(registry, bench.write("broken", broken), Name.parse("acme/broken"), base=Ref.parse("acme/base"))
    models = [{"model": "acme/model-1"}, {"model": "acme/broken"}]
    with pytest.raises(NonFiniteTensor, match="acme/broken"):
        merge(load_recipe({**TIES, "models": models}), registry=registry, settings=settings)
    assert "acme/merged" not in {str(artifact.name) for artifact in registry.catalog.list()}
    assert left_over(registry) == []


def test_a_name_is_needed_and_must_fit(registry: Registry, settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(InvalidRecipe, match=r"output\.name"):
        merge(load_recipe({**TIES, "output": {}}), registry=registry, settings=settings)
    with pytest.raises(KindConflict, match="acme/base"):
        merge(recipe, registry=registry, settings=settings, name="acme/base")


def test_merged_adapters_are_registered_on_their_base(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in (1, 2):
        factors = LoraFactors(
            random.normal(size=(number, 301)).astype(np.float32), random.normal(size=(257, number)).astype(np.float32)
        )
        folder = tmp_path / f"adapter-{number}"
        folder.mkdir()
        save_lora(LoraAdapter("a", {"model.layers.0.mlp": factors}), folder, base_model="acme/base")
        import_source(registry, str(folder), Name.parse(f"acme/adapter-{number}"))
    recipe = load_recipe(
        {"merge_method": "lora_cat", "models": [{"model": "acme/adapter-1"}, {"model": "acme/adapter-2"}]}
    )
    version = merge(recipe, registry=registry, settings=settings, name="acme/both")
    base = registry.catalog.resolve("acme/base").digest
    assert (version.kind, version.base) == (Kind.ADAPTER, base)
    inputs = [edge.parent for edge in registry.lineage.parents(version.digest) if edge.relation == Relation.MERGE_INPUT]
    assert inputs == [registry.catalog.resolve(f"acme/adapter-{number}").digest for number in (1, 2)]

    recipe = load_recipe(
        {"merge_method": "task_arithmetic", "base_model": "acme/adapter-1", "models": [{"model": "acme/adapter-2"}]}
    )
    version = merge(recipe, registry=registry, settings=settings, name="acme/from-an-adapter")
    assert (version.kind, version.base) == (Kind.ADAPTER, base)


def test_adapters_of_several_versions_of_a_base_are_told_apart(
    registry: Registry, settings: Settings, tmp_path: Path, bench: Any
) -> None:
    factors = LoraFactors(np.ones((1, 301), np.float32), np.ones((257, 1), np.float32))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_lora(LoraAdapter("a", {"model.layers.0.mlp": factors}), folder, base_model="acme/base")
    import_source(registry, str(folder), Name.parse("acme/on-base"))
    import_source(registry, str(folder), Name.parse("acme/on-model"), base=Ref.parse("acme/model-1"))
    models = [{"model": "acme/on-base"}, {"model": "acme/on-model"}]
    bases = " and ".join(registry.catalog.resolve(name).digest[:12] for name in ("acme/model-1", "acme/base"))
    with pytest.raises(IncompatibleModels, match=rf"acme/on-model does not go with acme/on-base: .* versions {bases}"):
        merge(
            load_recipe({"merge_method": "lora_cat", "models": models}),
            registry=registry,
            settings=settings,
            name="a/b",
        )
    named = load_recipe({"merge_method": "lora_cat", "models": models, "base_model": "acme/base"})
    assert merge(named, registry=registry, settings=settings, name="a/b").kind is Kind.ADAPTER


def test_an_adapter_that_is_no_product_is_called_by_its_name(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    weight = {"base_model.model.model.layers.0.mlp.weight": torch.zeros(257, 301)}
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "modules_to_save": ["mlp"]}))
    save_file(weight, folder / "adapter_model.safetensors")
    import_source(registry, str(folder), Name.parse("acme/saved"), base=Ref.parse("acme/base"))
    recipe = load_recipe({"merge_method": "lora_cat", "models": [{"model": "acme/saved"}]})
    with pytest.raises(InvalidAdapter, match=r"^acme/saved is not an adapter that can be used: its tensor"):
        merge(recipe, registry=registry, settings=settings, name="a/b")


def test_a_worker_carries_out_a_submitted_merge(registry: Registry, settings: Settings, recipe: Recipe) -> None:
    job = submit_merge(registry, recipe, settings=settings)
    assert submit_merge(registry, recipe, settings=settings).id == job.id
    stop = threading.Event()
    worker = threading.Thread(target=run_worker, args=(registry, settings, stop))
    worker.start()
    try:
        done = wait_for(registry, job, State.SUCCEEDED, State.FAILED)
    finally:
        stop.set()
        worker.join()
    assert (done.state, done.progress, done.error_message) == (State.SUCCEEDED, 1.0, None)
    version = registry.catalog.resolve("acme/merged@candidate")
    assert done.result == {"name": "acme/merged", "ref": "acme/merged@v1", "digest": version.digest}


def test_a_job_is_pinned_to_the_versions_of_its_submission(
    registry: Registry, settings: Settings, recipe: Recipe
) -> None:
    job = submit_merge(registry, recipe, settings=settings)
    assert job.payload["recipe"]["base_model"] == "acme/base@v1"
    assert [entry["model"] for entry in job.payload["recipe"]["models"]] == ["acme/model-1@v1", "acme/model-2@v1"]


def test_a_bad_recipe_is_refused_at_submission(registry: Registry, settings: Settings, bench: Any) -> None:
    with pytest.raises(GraftworkError, match="density"):
        submit_merge(registry, load_recipe({**TIES, "parameters": {"density": 2}}), settings=settings)
    models = [{"model": str(bench.root / "model-1")}]
    with pytest.raises(SourceNotFound, match="expected a registry reference"):
        submit_merge(registry, load_recipe({**TIES, "models": models}), settings=settings)
    assert registry.jobs.list() == []


def test_a_job_that_fails_says_why(registry: Registry, settings: Settings, bench: Any) -> None:
    broken = bench.random(5)
    broken["model.norm.weight"][0] = np.nan
    import_source(registry, bench.write("broken", broken), Name.parse("acme/broken"), base=Ref.parse("acme/base"))
    job = submit_merge(registry, load_recipe({**TIES, "models": [{"model": "acme/broken"}]}), settings=settings)
    assert run_next(registry, settings, worker="w")
    failed = registry.jobs.get(job.id)
    assert (failed.state, failed.error_code) == (State.FAILED, "non_finite_tensor")
    assert "model.norm.weight" in (failed.error_message or "")
    assert not run_next(registry, settings, worker="w")


def attempted(
    registry: Registry, settings: Settings, told: Callable[[Mapping[str, Any]], None], stop: threading.Event
) -> Failure | None:
    """An attempt at the waiting job in this process."""
    claim = registry.jobs.claim("w", ["merge"], 0.05)
    assert claim is not None
    return attempt(registry, settings, claim, tell=told, stop=stop)


def test_a_running_merge_stops_between_two_slices(registry: Registry, settings: Settings, recipe: Recipe) -> None:
    submit_merge(registry, recipe, settings=settings)
    stop = threading.Event()
    failure = attempted(registry, settings, lambda line: stop.set() if line["stage"] == "merge" else None, stop)
    assert failure is not None
    assert failure.stopped
    assert "acme/merged" not in {str(artifact.name) for artifact in registry.catalog.list()}


def test_a_worker_that_lost_its_lease_registers_nothing(registry: Registry, settings: Settings, recipe: Recipe) -> None:
    job = submit_merge(registry, recipe, settings=settings)
    others: list[Claim | None] = []

    def another_takes_over(line: Mapping[str, Any]) -> None:
        if line["stage"] == "import" and not others:
            time.sleep(0.1)
            others.append(registry.jobs.claim("other", ["merge"], 60))

    with pytest.raises(LeaseLost):
        attempted(registry, settings, another_takes_over, threading.Event())
    assert others[0] is not None
    assert registry.jobs.get(job.id).state is State.RUNNING
    assert "acme/merged" not in {str(artifact.name) for artifact in registry.catalog.list()}
    assert left_over(registry) == []


def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    registry: Registry, settings: Settings, recipe: Recipe
) -> None:
    job = submit_merge(registry, recipe, settings=settings)
    stop = threading.Event()
    stop.set()
    assert run_next(registry, settings, worker="w", stop=stop)
    assert registry.jobs.get(job.id).state is State.QUEUED
    assert run_next(registry, settings, worker="w")
    assert registry.jobs.get(job.id).state is State.SUCCEEDED


def test_a_worker_outlives_a_database_that_fails_for_a_while(
    registry: Registry, settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    job = submit_merge(registry, recipe, settings=settings)
    claim, failures = registry.jobs.claim, iter(range(3))

    def flaky(*args: Any) -> Any:
        if next(failures, None) is not None:
            raise OperationalError("UPDATE jobs", {}, Exception("database is locked"))
        return claim(*args)

    monkeypatch.setattr(registry.jobs, "claim", flaky)
    monkeypatch.setattr("graftwork.merge.jobs.worker.IDLE_SECONDS", 0.01)
    stop = threading.Event()
    worker = threading.Thread(target=run_worker, args=(registry, settings, stop))
    worker.start()
    try:
        assert wait_for(registry, job, State.SUCCEEDED, State.FAILED).state is State.SUCCEEDED
    finally:
        stop.set()
        worker.join()
    assert sum("cannot be used" in record.message for record in caplog.records) == 3


def test_a_quarantined_model_is_not_merged(registry: Registry, settings: Settings, recipe: Recipe) -> None:
    model = registry.catalog.resolve("acme/model-2")
    registry.marks.quarantine(model, actor="ada", reason="poisoned")
    with pytest.raises(VersionQuarantined, match=r"acme/model-2@v1 is quarantined \(poisoned\)"):
        submit_merge(registry, recipe, settings=settings)
    assert registry.jobs.list() == []
