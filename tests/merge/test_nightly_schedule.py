"""A nightly merge: built, judged and promoted; skipped when nothing changed; refused when it got worse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftwork.errors import Forbidden, GraftworkError, InvalidRequest, ScheduleNotFound
from graftwork.merge.jobs.attempt import Failure, attempt
from graftwork.merge.jobs.scheduler import add_schedule, change_schedule, fire_due, fire_now, note_on
from graftwork.merge.jobs.selection import Query, select
from graftwork.merge.sweep.sweep import MODEL
from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.access.grants import Grants
from graftwork.registry.jobs import jobs
from graftwork.registry.jobs.cron import Cron
from graftwork.registry.jobs.events import EventKind
from graftwork.registry.jobs.jobs import Job, State
from graftwork.registry.jobs.schedules import Overlap, Recurrence
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family

WEIGHTS = "adapter_model.safetensors"
NIGHTLY = Name.parse("acme/nightly")
MERGED = Name.parse("acme/merged")
EVENING = datetime(2026, 3, 28, 20, tzinfo=UTC)
"""The clocks of Berlin are changed in the night that follows."""
RECIPE = {
    "merge_method": "linear",
    "models": {
        "query": {"tag": "nightly", "alias": "prod", "kind": "adapter", "base": "acme/base"},
        "parameters": {"weight": 1.0},
    },
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=0, adapters=2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=1, cache_bytes=10_000_000)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.open(Settings(home=tmp_path_factory.mktemp("empty"))) as opened:
        yield opened


@pytest.fixture
def registry(settings: Settings, family: Family, tmp_path: Path) -> Iterator[Registry]:
    """`acme/base`, two adapters with the tag nightly at the alias prod, and a dataset of texts."""
    data = tmp_path / "texts.jsonl"
    texts = ("the cat sat on the mat", "a dog ran far away", "two and two make four")
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with Registry.open(settings) as opened:
        import_source(opened, str(family.base), Name.parse("acme/base"))
        import_source(opened, str(data), Name.parse("acme/texts"))
        for name, folder in zip(("one", "two"), family.adapters.values(), strict=True):
            offer(opened, name, folder)
            opened.tags.set(Name("acme", name), ["nightly"])
        yield opened


def offer(registry: Registry, name: str, folder: Path) -> None:
    """Register an adapter, and move its alias prod to it."""
    import_source(registry, str(folder), Name("acme", name), base=Ref.parse("acme/base"), aliases=["prod"])


def noisy(folder: Path, target: Path) -> Path:
    """A copy of an adapter that is much worse: its factors are drowned in noise."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    generator = torch.Generator().manual_seed(0)
    factors = load_file(folder / WEIGHTS)
    louder = {name: value + torch.randn(value.shape, generator=generator) for name, value in factors.items()}
    save_file(louder, target / WEIGHTS, {"format": "pt"})
    return target


def schedule(registry: Registry, **more: Any) -> None:
    gate = {"dataset": "acme/texts", "metric": "perplexity", "threshold": 1000.0, "margin": 0.5}
    payload = {"name": str(MERGED), "recipe": RECIPE, "promote": "prod", "gate": gate, **more}
    recurrence = Recurrence(Cron("30 2 * * *", "Europe/Berlin"), "merge", payload)
    add_schedule(registry, Settings(evaluators=f"words=python -c pass {MODEL}"), NIGHTLY, recurrence, now=EVENING)


def night(registry: Registry, settings: Settings, now: datetime) -> Job:
    """Let the schedule's time come and its job be carried out. Returns the job as it ended."""
    (job,) = fire_due(registry, now)
    assert fire_due(registry, now) == []
    carry_out(registry, settings, job)
    return registry.jobs.get(job.id)


def carry_out(registry: Registry, settings: Settings, job: Job) -> Failure | None:
    """One attempt at a job, in this process; the lines that it tells are kept as a worker keeps them."""
    claim = registry.jobs.claim("w", [job.kind], 30)
    assert claim is not None
    lines: list[Any] = []
    failure = attempt(registry, settings, claim, tell=lines.append, stop=threading.Event())
    registry.job_events.append(job.id, EventKind.LOG, [{"text": line["log"]} for line in lines if "log" in line])
    if failure is not None:
        registry.jobs.fail(claim, failure.code, failure.message, retry=failure.retry)
    return failure


def prod(registry: Registry) -> str:
    return registry.aliases.get(MERGED)["prod"].digest


def told(registry: Registry, job: Job) -> str:
    events = registry.job_events.after(job.id)
    return "\n".join(str(event.data["text"]) for event in events if event.kind is EventKind.LOG)


def test_a_nightly_merge_promotes_itself_or_says_why_not(
    registry: Registry, settings: Settings, family: Family, tmp_path: Path
) -> None:
    schedule(registry)
    assert registry.schedules.get(NIGHTLY).next_at == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert fire_due(registry, EVENING + timedelta(hours=1)) == []

    first = night(registry, settings, datetime(2026, 3, 29, 1, 0, 1, tzinfo=UTC))
    assert first.state is State.SUCCEEDED, first.error_message
    version = registry.catalog.resolve(f"{MERGED}@prod")
    assert first.result is not None
    assert (first.result["ref"], first.result["before"]) == ("acme/merged@v1", None)
    assert [edge.relation for edge in registry.lineage.parents(version.digest)][:2] == ["merge_input", "merge_input"]
    (evaluation,) = registry.evaluations.of([version.digest])
    assert (evaluation.metric, evaluation.dataset, evaluation.job) == ("perplexity", "acme/texts@v1", first.id)
    assert first.result["gate"]["value"] == pytest.approx(evaluation.value)
    assert registry.schedules.get(NIGHTLY).next_at == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)

    (second,) = fire_due(registry, datetime(2026, 3, 30, 0, 30, 1, tzinfo=UTC))
    assert second.state is State.SUCCEEDED
    assert second.result is not None
    assert "was built before, as acme/merged@v1" in second.result["skipped"]
    assert registry.jobs.claim("w", ["merge"], 30) is None
    assert len(registry.catalog.versions(MERGED)) == 1

    offer(registry, "two", noisy(family.adapters["adapter1"], tmp_path / "noisy"))
    third = night(registry, settings, datetime(2026, 3, 31, 0, 30, 1, tzinfo=UTC))
    assert (third.state, third.error_code) == (State.FAILED, "promotion_refused")
    assert "acme/merged@v2 does not become acme/merged@prod" in (third.error_message or "")
    assert "of acme/merged@v1 by more than 0.5" in (third.error_message or "")
    assert "by more than 0.5" in told(registry, third)
    assert prod(registry) == version.digest
    assert len(registry.catalog.versions(MERGED)) == 2

    (fourth,) = fire_due(registry, datetime(2026, 4, 1, 0, 30, 1, tzinfo=UTC))
    assert fourth.result is not None
    assert "as acme/merged@v2; it does not become acme/merged@prod: its perplexity" in fourth.result["skipped"]
    assert [job.id for job in registry.schedules.jobs(NIGHTLY)] == [fourth.id, third.id, second.id, first.id]


def test_what_was_built_and_not_promoted_is_judged_again_when_the_gate_has_changed(
    registry: Registry, settings: Settings
) -> None:
    def tonight(day: int, **change: Any) -> Job:
        gate = {"dataset": "acme/texts", "metric": "perplexity", "threshold": 1000.0, **change}
        schedule(registry, gate=gate)
        job = fire_now(registry, NIGHTLY, EVENING + timedelta(days=day))
        if job.state is State.QUEUED:
            carry_out(registry, settings, job)
        registry.schedules.remove(NIGHTLY)
        return registry.jobs.get(job.id)

    refused = tonight(0, threshold=1.0)
    assert (refused.state, refused.error_code) == (State.FAILED, "promotion_refused")
    again = tonight(1, threshold=1.0).result
    assert again is not None
    assert "above the threshold 1" in again["skipped"]
    assert tonight(2).state is State.SUCCEEDED
    version = registry.catalog.resolve(f"{MERGED}@v1")
    assert prod(registry) == version.digest
    assert len(registry.catalog.versions(MERGED)) == 1
    there = tonight(3).result
    assert there is not None
    assert "acme/merged@prod is there" in there["skipped"]
    registry.aliases.delete(MERGED, "prod", actor="ada")
    taken = tonight(4).result
    assert taken is not None
    assert "ada took acme/merged@prod off it" in taken["skipped"]


def test_a_promotion_that_was_cut_off_after_building_goes_on_with_what_was_built(
    registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import graftwork.merge.jobs.kinds.merge as merging

    schedule(registry)
    job = fire_now(registry, NIGHTLY, EVENING)

    def die(*arguments: object, **options: object) -> None:
        raise OSError("the machine went away")

    monkeypatch.setattr(jobs, "MAX_BACKOFF_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(merging, "promote", die)
        failure = carry_out(registry, settings, job)
    assert failure is not None
    assert failure.retry
    assert [version.number for version in registry.catalog.versions(MERGED)] == [1]
    assert "prod" not in registry.aliases.get(MERGED)
    monkeypatch.setattr(merging, "publish", die)
    assert carry_out(registry, settings, job) is None
    assert registry.jobs.get(job.id).state is State.SUCCEEDED
    assert prod(registry) == registry.catalog.resolve(f"{MERGED}@v1").digest


def test_a_query_that_finds_nothing_is_a_job_that_failed(registry: Registry) -> None:
    schedule(registry)
    for name in ("one", "two"):
        registry.tags.set(Name("acme", name), [])
    job = fire_now(registry, NIGHTLY, EVENING)
    assert (job.state, job.error_code) == (State.FAILED, "invalid_recipe")
    assert "nothing in the registry matches tag nightly, alias prod" in (job.error_message or "")


def test_a_query_selects_by_alias_kind_and_base_and_leaves_out_what_may_not_be_used(
    registry: Registry, family: Family
) -> None:
    def selected(**more: str) -> list[str]:
        query = Query.model_validate({"tag": "nightly", "alias": "prod", "base": "acme/base", **more})
        return [version.ref for version in select(registry, query)]

    for name, source in (("whole", family.base), ("three", family.adapters["adapter0"])):
        import_source(
            registry, str(source), Name("acme", name), base=Ref.parse("acme/base") if name == "three" else None
        )
        registry.tags.set(Name("acme", name), ["nightly"])
    assert selected() == ["acme/one@v1", "acme/two@v1"]
    assert selected(namespace="ACME") == selected()
    assert selected(namespace="other") == []
    assert selected(kind="base", base="acme/base") == []
    assert [version.ref for version in select(registry, Query(tag="nightly"))][1:2] == ["acme/three@v1"]
    registry.repositories.set_private(Name.parse("acme/one"), True)
    with acting_for(Access("somebody", Grants.parse({"else": ["write"]}))):
        assert selected() == ["acme/two@v1"]
    registry.marks.quarantine(registry.catalog.resolve("acme/two"), actor="me", reason="poisoned")
    assert selected() == ["acme/one@v1"]


def test_a_schedule_acts_for_whoever_made_it(registry: Registry) -> None:
    registry.repositories.set_private(Name.parse("acme/one"), True)
    somebody = Access("somebody", Grants.parse({"acme": ["read", "write"]}))
    stranger = Access("stranger", Grants.parse({"else": ["write"]}))
    with acting_for(stranger), pytest.raises(Forbidden):
        schedule(registry)
    with acting_for(somebody):
        schedule(registry)
    with acting_for(stranger), pytest.raises(ScheduleNotFound):
        fire_now(registry, NIGHTLY, EVENING)
    (job,) = fire_due(registry, EVENING + timedelta(hours=12))
    assert [entry["model"] for entry in job.payload["recipe"]["models"]] == ["acme/one@v1", "acme/two@v1"]
    assert (job.owner, job.grants) == ("somebody", {"acme": ["read", "write"]})


def test_what_a_template_names_is_looked_up_at_once(registry: Registry) -> None:
    gate = {"dataset": "acme/texts", "metric": "perplxity", "threshold": 1}
    with pytest.raises(GraftworkError, match=r"^gate\.metric: .* no 'perplxity'; it has perplexity"):
        schedule(registry, gate=gate)
    with pytest.raises(GraftworkError, match="acme/none"):
        schedule(registry, gate={**gate, "dataset": "acme/none"})
    with pytest.raises(GraftworkError, match=r"configured no 'harness' .*; there is words"):
        schedule(registry, gate={"evaluator": "harness", "metric": "accuracy", "threshold": 1})
    schedule(registry)
    assert note_on(registry, registry.schedules.get(NIGHTLY)) is None
    for name in ("one", "two"):
        registry.tags.set(Name("acme", name), [])
    said = note_on(registry, registry.schedules.get(NIGHTLY))
    assert said == "nothing matches tag nightly, alias prod, kind adapter, base acme/base now"


def test_a_schedule_that_is_changed_keeps_its_jobs_and_acts_for_whoever_changed_it(registry: Registry) -> None:
    schedule(registry)
    job = fire_now(registry, NIGHTLY, EVENING)
    registry.schedules.pause(NIGHTLY)
    somebody = Access("somebody", Grants.parse({"acme": ["read", "write"], "*": ["read"]}))
    with acting_for(somebody):
        payload = {"name": str(MERGED), "recipe": RECIPE}
        later = Recurrence(Cron("0 4 * * *"), "merge", payload, overlap=Overlap.QUEUE)
        change_schedule(registry, Settings(), NIGHTLY, later)
    changed = registry.schedules.get(NIGHTLY)
    assert [one.id for one in registry.schedules.jobs(NIGHTLY)] == [job.id]
    assert (changed.cron.expression, changed.enabled, changed.overlap) == ("0 4 * * *", False, Overlap.QUEUE)
    assert (changed.access.owner, dict(changed.payload)) == ("somebody", payload)
    entry = registry.audit.entries(action="schedule.change")[0]
    assert (entry.actor, entry.target) == ("somebody", str(NIGHTLY))
    with pytest.raises(ScheduleNotFound):
        change_schedule(registry, Settings(), MERGED, later)
    gate = {"evaluator": "words", "metric": "accuracy", "threshold": 1}
    gated = replace(later, payload={**payload, "promote": "prod", "gate": gate})
    with pytest.raises(InvalidRequest, match=r"configured no 'words' .*; there is none"):
        change_schedule(registry, Settings(), NIGHTLY, gated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"promote": None}, "a gate needs promote"),
        ({"gate": {"metric": "perplexity", "threshold": 1}}, "gate: name a dataset or an evaluator"),
        ({"gate": {"dataset": "acme/texts", "metric": "perplexity"}}, "gate: give a threshold, a margin, or both"),
        ({"recipe": {**RECIPE, "output": {"aliases": ["prod"]}}}, "move as soon as it is built"),
        ({"recipe": {**RECIPE, "models": {"query": {"alias": "x"}}}}, "models.query.tag"),
        ({"frequency": 3}, "frequency"),
        ({"recipe": {**RECIPE, "models": {"qeury": {"tag": "x"}}}}, r"models.qeury: .*did you mean query\?"),
        ({"recipe": {**RECIPE, "merge_method": "linaer"}}, r"did you mean linear\?"),
        ({"recipe": {**RECIPE, "models": {"query": {"tag": "x"}, "parameters": {"wieght": 1}}}}, "mean weight"),
        ({}, "acme/base"),
    ],
)
def test_a_template_that_cannot_work_is_refused_at_once(empty: Registry, change: dict[str, Any], message: str) -> None:
    with pytest.raises(GraftworkError, match=message):
        schedule(empty, **change)
    assert empty.schedules.list() == []
