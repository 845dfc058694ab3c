from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.experts.selection import selection_digest
from graftwork.adapters.hosting import engines
from graftwork.adapters.hosting.admission import give_back
from graftwork.adapters.hosting.host import Admission, Host
from graftwork.adapters.hosting.watcher import follow_change, follow_once, run_watcher
from graftwork.errors import InvalidRequest, ModelNotFound, NoAdapterCapacity, NotFound, Overloaded, VersionQuarantined
from graftwork.registry.catalog.watch import Watch
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.expert_sets import Member, create_expert_set
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

SKILL = Name.parse("team/skill")
PROMPT = list(b"hello")


def answer(admission: Admission, tokens: int = 6) -> list[int]:
    request = Request(PROMPT, Sampling(max_tokens=tokens, temperature=0), admission.lease)
    return admission.engine.submit(request).result(timeout=60).token_ids


def move(registry: Registry, version: Version, alias: str = "prod") -> None:
    registry.aliases.set(SKILL, alias, version.digest, actor="test", reason="test")


def test_what_another_process_moves_is_ready_before_it_is_asked_for(
    host: Host, registry: Registry, versions: dict[str, Version]
) -> None:
    watch = Watch(registry.database)
    host.admit("team/skill@prod").release()
    residency = host.admit("team/base").engine.residency
    registry.aliases.intend(SKILL, "prod", versions["everything"].digest, actor="another process")
    follow_once(registry, host, watch)
    assert residency.digests == [versions["attention"].digest, versions["everything"].digest]
    assert registry.aliases.get(SKILL)["prod"].digest == versions["attention"].digest
    residency.retire(versions["everything"].digest)
    move(registry, versions["everything"])
    follow_once(registry, host, watch)
    assert versions["everything"].digest in residency.digests
    residency.retire(versions["everything"].digest)
    follow_once(registry, host, watch)
    assert versions["everything"].digest not in residency.digests


def test_an_alias_that_nobody_uses_here_is_not_followed(
    host: Host, registry: Registry, versions: dict[str, Version]
) -> None:
    watch = Watch(registry.database)
    residency = host.admit("team/base").engine.residency
    move(registry, versions["everything"])
    follow_once(registry, host, watch)
    assert residency.digests == []


def test_news_that_come_late_do_not_undo_a_later_move(
    host: Host, registry: Registry, versions: dict[str, Version]
) -> None:
    """The watcher may have read a move, and act on it only after the next one was made and followed."""
    first, second = versions["attention"], versions["everything"]
    watch = Watch(registry.database)
    registry.aliases.set(SKILL, "prod", second.digest)
    registry.aliases.set(SKILL, "prod", first.digest)
    host.admit("team/base").engine.start()
    host.keep("team/skill@prod")
    registry.aliases.set(SKILL, "prod", second.digest)
    host.follow(SKILL.key, "prod")
    assert host.kept["team/skill@prod"].digest == second.digest
    late = [change for change in watch.poll().aliases if change.done and change.after == first.digest]
    assert late
    follow_change(registry, host, late[0])
    assert host.kept["team/skill@prod"].digest == second.digest


def test_what_is_kept_follows_its_alias(host: Host, registry: Registry, versions: dict[str, Version]) -> None:
    watch = Watch(registry.database)
    assert host.keep("team/skill@prod").digest == versions["attention"].digest
    residency = host.admit("team/base").engine.residency  # it starts with what is kept
    until(lambda: [each.kept for each in residency.occupants if each.pins == 0] == [True])
    move(registry, versions["everything"])
    follow_once(registry, host, watch)
    until(lambda: not residency.is_busy)
    kept = {each.digest: each.kept for each in residency.occupants}
    assert kept == {versions["attention"].digest: False, versions["everything"].digest: True}
    assert host.let_go("team/skill@prod")
    assert not host.let_go("team/skill@prod")
    assert not any(each.kept for each in residency.occupants)
    with pytest.raises(InvalidRequest, match="team/base@v1 is a base"):
        host.keep("team/base@v1")


def test_of_an_expert_set_with_tasks_what_is_kept_is_what_serves_it(
    host: Host, registry: Registry, versions: dict[str, Version]
) -> None:
    router = {"kind": "task-table", "tasks": {"first": [1.0], "second": [0.5]}}
    kept = create_expert_set(registry, Name.parse("team/set"), [Member("one", Ref.parse("team/skill@v1"))], router)
    residency = host.admit("team/base").engine.residency
    host.keep("team/set@v1")
    until(lambda: not residency.is_busy)
    first = selection_digest(kept.digest, "first")
    assert [(each.digest, each.kept) for each in residency.occupants] == [(first, True)]
    assert host.let_go("team/set@v1")
    assert [each.kept for each in residency.occupants] == [False]


def test_a_version_whose_quarantine_was_lifted_is_served_at_once(
    host: Host, registry: Registry, versions: dict[str, Version]
) -> None:
    watch, version = Watch(registry.database), versions["attention"]
    before = host.admit("team/skill@prod")
    expected = answer(before)
    before.release()
    registry.marks.quarantine(version, actor="test", reason="a doubt")
    follow_once(registry, host, watch)
    with pytest.raises(VersionQuarantined):
        host.admit("team/skill@prod")
    registry.marks.lift(version, actor="test", reason="fine")
    after = host.admit("team/skill@prod")  # before the next look at the registry
    assert answer(after) == expected
    after.release()
    host.prepare(version)


def test_a_withdrawn_version_takes_no_requests_and_ends_those_it_has_in_time(
    registry: Registry, settings: Settings, versions: dict[str, Version]
) -> None:
    host = Host(registry, replace(settings, drain_seconds=0))
    watch, stop = Watch(registry.database), threading.Event()
    try:
        models = ("team/skill@v2", "team/skill@v1*0.5+team/skill@v2*0.5", "team/skill@v1*2")
        running, mixed, apart = (host.admit(model) for model in models)
        residency = running.engine.residency
        engine = running.engine
        sampling = Sampling(max_tokens=100, temperature=0, ignore_eos=True)
        with running.engine._loop.turn:  # it has not begun when the version goes
            generations = [engine.submit(Request(PROMPT, sampling, each.lease)) for each in (running, mixed)]
            other = engine.submit(Request(PROMPT, Sampling(max_tokens=4, ignore_eos=True), apart.lease))
            registry.marks.withdraw(versions["everything"], actor="test", reason="wrong data")
            follow_once(registry, host, watch)
            assert residency.pin(versions["everything"].digest) is None
            with pytest.raises((ModelNotFound, NotFound)):
                host.admit("team/skill@v2")
            with pytest.raises((ModelNotFound, NotFound)):
                host.admit("team/skill@v1+team/skill@v2")
            until(lambda: all(generation.aborted for generation in generations))
        assert {generation.result(timeout=60).finish_reason for generation in generations} == {"abort"}
        assert other.result(timeout=60).finish_reason == "length"
        until(lambda: residency.digests == [apart.digest])
        host.admit("team/skill@v1").release()
    finally:
        stop.set()
        host.close()


def test_a_mixture_is_one_adapter_under_a_digest_of_its_own(
    host: Host, versions: dict[str, Version], family: Family
) -> None:
    one, other = (host.admit(model) for model in ("team/skill@v1*2+team/skill@v2*(-0.5)", "team/skill@v1*2.0"))
    again = host.admit("team/skill@v2*-0.5 + team/skill@prod + team/skill@prod")
    assert again.digest == one.digest
    assert len({one.digest, other.digest, *(version.digest for version in versions.values())}) == 5
    assert again.lease is not None
    assert one.lease is not None
    assert again.lease.resident is one.lease.resident
    again.release()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    mixed = PeftModel.from_pretrained(model, str(family.adapters["attention"]), "one")
    mixed.load_adapter(str(family.adapters["everything"]), "two")
    weights = {name: module for name, module in mixed.named_modules() if hasattr(module, "get_delta_weight")}
    with torch.no_grad():
        for module in weights.values():
            for adapter, weight in (("one", 2.0), ("two", -0.5)):
                if adapter in module.lora_A:
                    module.base_layer.weight += weight * module.get_delta_weight(adapter)
    merged = mixed.unload()
    ids = torch.tensor([PROMPT])
    output = merged.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=258
    )
    assert answer(one) == output[0, len(PROMPT) :].tolist()
    other.release()


def test_engines_beyond_the_limit_take_the_place_of_idle_ones(
    registry: Registry, settings: Settings, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SETTLED_SECONDS", 0.0)
    names = ["team/one", "team/two"]
    for name in names:
        import_source(registry, str(family.base), Name.parse(name))
    import_source(registry, str(family.adapters["mlp"]), Name.parse("team/mlp"), base=Ref.parse("team/one"))
    twin = family.base.parent / "twin"
    if not twin.exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
        with torch.no_grad():
            next(model.parameters()).add_(0.01)
        model.save_pretrained(twin)
        AutoTokenizer.from_pretrained(family.base).save_pretrained(twin)
    import_source(registry, str(twin), Name.parse("team/twin"))
    host = Host(registry, replace(settings, max_engines=1, adapter_wait_seconds=1))
    try:
        busy = host.admit("team/mlp")
        with pytest.raises(Overloaded, match="max_engines"):
            host.admit("team/twin")
        assert answer(busy) == family.greedy("mlp", PROMPT, 6)
        other = host.admit("team/twin")
        assert len(host.occupants()) == 1
        assert other.base.name == Name.parse("team/twin")
        assert answer(host.admit("team/mlp")) == family.greedy("mlp", PROMPT, 6)
    finally:
        host.close()


def test_a_request_that_is_given_up_while_it_waits_holds_nothing(
    registry: Registry, settings: Settings, versions: dict[str, Version]
) -> None:
    host = Host(registry, replace(settings, adapter_rank_rows=8))
    try:
        holding = host.admit("team/skill@v2")
        residency = holding.engine.residency
        waiting, given_up = host.request("team/skill@v1"), host.request("team/skill@v1")
        until(lambda: sum(len(place.waiters) for place in residency._pending) == 2)
        given_up.cancel()
        holding.release()
        waiting.result(20).release()
        late = host.request("team/skill@v1")
        late.result(20)
        assert not late.cancel()
        give_back(late)
        until(lambda: not residency.is_busy)
    finally:
        host.close()


def test_no_room_within_the_time_is_told_as_such(
    registry: Registry, settings: Settings, versions: dict[str, Version]
) -> None:
    host = Host(registry, replace(settings, adapter_rank_rows=8, adapter_wait_seconds=0))
    try:
        holding = host.admit("team/skill@v2")
        with pytest.raises(NoAdapterCapacity, match="team/skill@v1 needs 4 rank rows"):
            host.admit("team/skill@v1")
        holding.release()
    finally:
        host.close()


def test_the_watcher_outlives_a_database_that_fails(
    host: Host, registry: Registry, versions: dict[str, Version], caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    host.admit("team/skill@prod").release()
    failures = iter([True])
    read = registry.database.read

    def failing() -> object:
        if next(failures, False):
            from sqlalchemy.exc import OperationalError

            raise OperationalError("SELECT", {}, Exception("gone"))
        return read()

    registry.database.read = failing  # type: ignore[method-assign,assignment]
    thread = threading.Thread(target=run_watcher, args=(registry, host, stop), kwargs={"seconds": 0.01})
    thread.start()
    until(lambda: "cannot be watched" in caplog.text)
    time.sleep(0.1)
    move(registry, versions["everything"])
    until(lambda: host.is_resident(versions["everything"].digest))
    stop.set()
    thread.join()
