from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch

from graftwork.adapters.changes import Change, Factors, Lowered
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.residency.lease import Lease
from graftwork.adapters.residency.limits import Limits
from graftwork.adapters.residency.place import Stage
from graftwork.adapters.residency.residency import Residency
from graftwork.adapters.residency.warm import WarmAdapters
from graftwork.errors import NoAdapterCapacity, Overloaded, TooLarge
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

RANKS = {"attention": 4, "everything": 8, "mlp": 3, "pattern": 6, "head": 5}


def lowered(rank: int, values: float = 0.0, *, width: int = 64, bias: bool = False) -> Lowered:
    """A change of one projection of the Llama family."""
    factors = Factors(torch.full((rank, width), values), torch.full((rank, width), values))
    return Lowered(
        {"model.layers.0.self_attn.q_proj": Change(low_rank=factors, bias=torch.zeros(width) if bias else None)}
    )


def occupy(residency: Residency, ranks: list[int]) -> list[Lease]:
    return [residency.acquire(f"d{index}", partial(lowered, rank)) for index, rank in enumerate(ranks)]


def test_what_was_lowered_is_kept_while_host_memory_has_room(family: Family, engine_of: EngineFactory) -> None:
    read: list[str] = []

    def source(name: str) -> Lowered:
        read.append(name)
        return lowered(8)

    residency = engine_of(family, adapter_rank_rows=8).residency
    for name in ("first", "second", "third", "first", "second", "third"):
        with residency.acquire(name, partial(source, name)):
            pass
    assert read == ["first", "second", "third"]
    assert residency.host_bytes == 3 * lowered(8).host_bytes
    residency.retire("third")
    with residency.acquire("third", partial(source, "third")):
        assert read[3:] == ["third"]


def test_what_is_plain_lora_is_kept_by_the_page_cache_alone(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family).residency
    with residency.acquire(family.digest("everything"), family.adapters["everything"]):
        assert residency.host_bytes == 0


def test_host_memory_holds_at_most_its_bytes_and_drops_the_least_recently_used() -> None:
    adapter = lowered(4)
    warm = WarmAdapters(2 * adapter.host_bytes)
    for digest in ("a", "b"):
        warm.put(digest, adapter)
    assert warm.get("a") is adapter
    warm.put("c", adapter)
    assert [warm.get(digest) is None for digest in "abc"] == [False, True, False]
    warm.put("huge", lowered(9))
    assert warm.get("huge") is None
    assert warm.bytes == 2 * adapter.host_bytes
    warm.drop("a")
    warm.drop("a")
    assert warm.bytes == adapter.host_bytes


def test_a_slow_load_holds_up_neither_steps_nor_other_adapters(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family)
    residency, go = engine.residency, threading.Event()

    def slow() -> Lowered:
        assert go.wait(20)
        return lowered(2)

    waiting = residency.request("slow", slow)
    with residency.acquire(family.digest("mlp"), family.adapters["mlp"]) as lease:
        generation = engine.submit(Request([1, 2], Sampling(max_tokens=3, temperature=0), lease.share()))
        while engine.step():
            pass
    assert generation.result().token_ids == family.greedy("mlp", [1, 2], 3)
    assert [each.stage for each in residency.occupants if each.digest == "slow"] == [Stage.READING]
    assert not waiting.done()
    go.set()
    waiting.result(20).release()


def test_who_finds_all_rows_pinned_waits_for_them_until_its_deadline(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_rank_rows=8).residency
    with occupy(residency, [8])[0]:
        patient = residency.request("second", lambda: lowered(6), wait=60)
        hasty = residency.request("second", lambda: lowered(6), wait=0.05)
        with pytest.raises(NoAdapterCapacity, match="second needs 6 rank rows; 0 are free"):
            hasty.result(20)
        assert not patient.done()
        assert residency.digests == ["d0"]
    with patient.result(20) as lease:
        assert lease.resident.rows == 6


def test_the_queue_for_rows_is_bounded_and_who_goes_away_leaves_it(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_rank_rows=8, max_queue=2).residency
    held = occupy(residency, [8])[0]
    first, second = (residency.request(digest, lambda: lowered(8), wait=60) for digest in ("first", "second"))
    until(lambda: len(residency._queue) == 2)
    with pytest.raises(NoAdapterCapacity):
        residency.request("third", lambda: lowered(8), wait=60).result(20)
    first.cancel()
    held.release()
    second.result(20).release()
    until(lambda: not residency.is_busy)


def test_after_its_patience_the_first_in_the_queue_has_others_drained(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_rank_rows=8).residency
    residency._queue._patience = 0.05
    held = occupy(residency, [4, 4])
    large = residency.request("large", lambda: lowered(8), wait=60)
    until(lambda: residency.digests == [])
    again = residency.request("d0", lambda: lowered(4), wait=60)  # a hot adapter cannot keep its rows for ever
    for lease in held:
        lease.release()
    with large.result(20):
        assert not again.done()
    again.result(20).release()


def test_small_adapters_pass_a_large_one_that_does_not_fit_yet(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_rank_rows=12).residency
    residency._queue._patience = 1000.0
    first, _second = occupy(residency, [4, 8])
    large = residency.request("large", lambda: lowered(12), wait=60)
    until(lambda: len(residency._queue) == 1)
    first.release()
    residency.request("small", lambda: lowered(3), wait=60).result(20).release()
    assert not large.done()
    large.cancel()


def test_free_rows_in_pieces_are_joined_by_evicting_neighbours(family: Family, engine_of: EngineFactory) -> None:
    """Ranks from 8 to 64: whatever is unpinned makes room in one piece, and no more of it than that takes."""
    residency = engine_of(family, adapter_rank_rows=256).residency
    ranks = [8, 64, 16, 32, 8, 64, 16, 32, 16]
    for lease in occupy(residency, ranks):
        lease.release()
    assert residency.free_rows == 0
    held = residency.pin("d3")
    assert held is not None
    with held, residency.acquire("large", lambda: lowered(64)) as lease:
        assert lease.resident.rows == 64
        assert residency.digests[-2:] == ["d3", "large"]
        evicted = {f"d{index}" for index in range(9)} - set(residency.digests)
        assert evicted <= {"d0", "d1", "d2"}


def test_what_is_kept_is_never_evicted(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_rank_rows=8).residency
    residency.keep("d0")
    for lease in occupy(residency, [4, 4]):
        lease.release()
    with residency.acquire("other", lambda: lowered(4)):
        assert residency.digests == ["d0", "other"]
    with pytest.raises(NoAdapterCapacity):
        residency.acquire("large", lambda: lowered(8))
    residency.let_go("d0")
    residency.acquire("large", lambda: lowered(8)).release()


def test_bytes_beside_rank_rows_are_bounded_too(family: Family, engine_of: EngineFactory) -> None:
    one = lowered(1, bias=True).device_bytes
    residency = engine_of(family, adapter_form_bytes=2 * one).residency
    for digest in ("a", "b", "c"):
        residency.acquire(digest, lambda: lowered(1, bias=True)).release()
    assert residency.digests == ["b", "c"]
    with residency.acquire("b", lambda: lowered(1, bias=True)), residency.acquire("c", lambda: lowered(1)):
        with pytest.raises(NoAdapterCapacity):
            residency.acquire("d", lambda: lowered(1, bias=True))
        residency.acquire("plain", lambda: lowered(1)).release()
    residency = engine_of(family, adapter_form_bytes=one - 1).residency
    with pytest.raises(TooLarge, match="adapter_form_bytes"):
        residency.acquire("a", lambda: lowered(1, bias=True))


def test_closing_fails_those_who_wait_and_frees_nothing_that_is_held(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_rank_rows=8).residency
    held = occupy(residency, [8])[0]
    waiting: Future[Lease] = residency.request("next", lambda: lowered(8), wait=60)
    until(lambda: len(residency._queue) == 1)
    residency.close()
    with pytest.raises(Overloaded):
        waiting.result(20)
    with pytest.raises(Overloaded):
        residency.request("other", lambda: lowered(8))
    assert residency.pins("d0") == 1
    held.release()


def test_the_limits_have_names_in_the_settings(family: Family, engine_of: EngineFactory) -> None:
    residency = engine_of(family, adapter_host_bytes=11, adapter_form_bytes=12, adapter_loaders=1).residency
    assert residency._limits == Limits(host_bytes=11, form_bytes=12, loaders=1, waiting=64)


def test_a_hundred_adapters_take_turns_in_a_few_rows(family: Family, engine_of: EngineFactory) -> None:
    """Every one of them computes what it should, whoever had its rows before."""
    engine = engine_of(family, adapter_rank_rows=8, max_sequences=4, adapter_host_bytes=1)
    names = list(family.adapters)
    asked = []
    for number in range(100):
        name = names[(number * 7) % len(names)]
        pending = engine.residency.request(f"{family.digest(name)}-{number}", family.adapters[name], wait=60)
        while not pending.done():
            engine.step()
        request = Request([number % 50 + 1], Sampling(max_tokens=2, temperature=0), pending.result())
        asked.append((name, number % 50 + 1, engine.submit(request)))
    while engine.step():
        pass
    for name, token, generation in asked:
        assert generation.result().token_ids == family.greedy_cached(name, [token], 2)
    assert not engine.residency.is_busy
