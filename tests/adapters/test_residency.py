from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from safetensors.torch import load_file, save_file

from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Generation, Request, Sampling
from graftwork.adapters.residency import installer, loader
from graftwork.adapters.residency.lease import Lease
from graftwork.errors import (
    AdapterProbeFailed,
    IncompatibleAdapter,
    InvalidRequest,
    NoAdapterCapacity,
    NonFiniteTensor,
    TooLarge,
)

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

ROWS = {"attention": 4, "everything": 8, "mlp": 3, "pattern": 6, "head": 5}


def altered(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """A copy of an adapter with other tensors."""
    shutil.copytree(folder, target)
    tensors = change(load_file(target / "adapter_model.safetensors"))
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def with_one_nan(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    next(tensor for name, tensor in tensors.items() if "lora_B" in name)[0, 0] = float("nan")
    return tensors


def test_the_least_recently_used_adapter_that_nobody_pins_goes_first(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, adapter_rank_rows=15)
    for name in ("attention", "everything", "mlp"):
        with family.pin(engine, name):
            pass
    again = family.pin(engine, "attention")
    assert engine.residency.free_rows == 0
    with family.pin(engine, "pattern"):
        assert engine.residency.digests == [family.digest(name) for name in ("mlp", "attention", "pattern")]
    again.release()
    assert engine.residency.pins(family.digest("attention")) == 0


def test_pinned_adapters_are_never_evicted_and_the_error_says_what_is_free(
    family: Family, engine_of: EngineFactory
) -> None:
    engine = engine_of(family, adapter_rank_rows=12)
    with family.pin(engine, "attention"), family.pin(engine, "mlp"):
        with pytest.raises(NoAdapterCapacity, match=r"everything needs 8 rank rows; 5 are free .*12 in all"):
            family.pin(engine, "everything")
        assert set(engine.residency.digests) == {family.digest("attention"), family.digest("mlp")}
    with family.pin(engine, "everything"):
        pass


def test_nothing_is_evicted_for_an_adapter_that_cannot_fit_anyway(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, adapter_rank_rows=12)
    with family.pin(engine, "pattern"):
        with family.pin(engine, "attention"):
            pass
        with pytest.raises(NoAdapterCapacity):
            family.pin(engine, "everything")
        assert family.digest("attention") in engine.residency.digests


def test_an_adapter_larger_than_all_rows_is_refused_for_good(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, adapter_rank_rows=7)
    with pytest.raises(TooLarge, match=r"adapter everything has rank 8; at most 7 \(adapter_rank_rows\)"):
        family.pin(engine, "everything")


def test_callers_at_the_same_time_load_it_once(family: Family, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    barrier = threading.Barrier(8)
    load = loader.open_adapter

    def counted(*args: Any, **names: Any) -> object:
        loads.append("load")
        return load(*args, **names)

    monkeypatch.setattr(installer, "open_adapter", counted)
    leases: list[Lease] = []

    def acquire() -> None:
        barrier.wait()
        leases.append(family.pin(engine, "mlp"))

    threads = [threading.Thread(target=acquire) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["load"]
    assert engine.residency.pins(family.digest("mlp")) == 8
    for held in leases:
        held.release()
    assert engine.residency.pins(family.digest("mlp")) == 0


def test_a_failed_load_leaves_nothing_behind(family: Family, engine: Engine, tmp_path: Path) -> None:
    free = engine.residency.free_rows
    broken = altered(family.adapters["mlp"], tmp_path / "nan", with_one_nan)
    with pytest.raises(NonFiniteTensor, match=r"lora_B.*holds 1 NaN"):
        engine.residency.acquire("nan", broken)
    assert engine.residency.free_rows == free
    assert engine.residency.digests == []


def test_an_adapter_for_other_layers_is_refused_by_name(family: Family, engine: Engine, tmp_path: Path) -> None:
    other = altered(
        family.adapters["mlp"],
        tmp_path / "other",
        lambda tensors: {name.replace("layers.2", "layers.9"): tensor for name, tensor in tensors.items()},
    )
    with pytest.raises(IncompatibleAdapter, match=r"model\.layers\.9\.mlp\.\w+ is not a linear layer"):
        engine.residency.acquire("other", other, name="ns/other")
    wide = altered(
        family.adapters["mlp"],
        tmp_path / "wide",
        lambda tensors: {n: torch.cat([t, t], 1) if "gate_proj.lora_A" in n else t for n, t in tensors.items()},
    )
    with pytest.raises(IncompatibleAdapter, match=r"gate_proj maps 64 to 96 there; the adapter maps 128 to 96"):
        engine.residency.acquire("wide", wide, name="ns/wide")


def test_a_probe_that_fails_frees_the_rows_and_names_the_adapter(
    family: Family, engine: Engine, tmp_path: Path
) -> None:
    overflowing = altered(
        family.adapters["everything"], tmp_path / "huge", lambda tensors: {n: t * 1e25 for n, t in tensors.items()}
    )
    free = engine.residency.free_rows
    with pytest.raises(AdapterProbeFailed, match=r"adapter ns/huge was loaded but its probe failed .*not finite"):
        engine.residency.prepare("huge", overflowing, name="ns/huge")
    assert engine.residency.free_rows == free
    generation = engine.submit(Request([1, 2, 3], Sampling(max_tokens=4, temperature=0)))
    while engine.step():
        pass
    assert generation.result().token_ids == family.greedy(None, [1, 2, 3], 4)


def test_a_prepared_adapter_is_resident_unpinned_and_probed_once(
    family: Family, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes: list[str] = []
    probe = engine.residency._probe

    def counted(resident: Resident) -> None:
        probes.append(resident.digest)
        probe(resident)

    monkeypatch.setattr(engine.residency, "_probe", counted)
    for _ in range(2):
        engine.residency.prepare(family.digest("mlp"), family.adapters["mlp"])
    assert probes == [family.digest("mlp")]
    assert engine.residency.pins(family.digest("mlp")) == 0
    assert engine.residency.digests == [family.digest("mlp")]


def test_a_retired_adapter_takes_no_new_pins_and_is_freed_with_the_last_one(family: Family, engine: Engine) -> None:
    free = engine.residency.free_rows
    old = family.pin(engine, "attention")
    engine.residency.retire(family.digest("attention"))
    assert engine.residency.pin(family.digest("attention")) is None
    assert engine.residency.free_rows == free - ROWS["attention"]
    second = old.share()
    old.release()
    assert engine.residency.free_rows == free - ROWS["attention"]
    second.release()
    assert engine.residency.free_rows == free


def test_a_lease_is_released_once_however_often_it_is_asked(family: Family, engine: Engine) -> None:
    first, second = family.pin(engine, "mlp"), family.pin(engine, "mlp")
    first.release()
    first.release()
    assert engine.residency.pins(family.digest("mlp")) == 1
    with pytest.raises(InvalidRequest, match="released before"):
        first.share()
    with second:
        pass
    assert engine.residency.pins(family.digest("mlp")) == 0


def test_a_lease_of_another_engine_is_refused(family: Family, engine: Engine, engine_of: EngineFactory) -> None:
    other = engine_of(family)
    foreign = family.pin(other, "mlp")
    with pytest.raises(InvalidRequest, match="another engine"):
        engine.submit(Request([1], Sampling(), foreign))
    assert other.residency.pins(family.digest("mlp")) == 0


def test_a_pool_is_made_only_for_modules_that_some_adapter_changes(family: Family, engine: Engine) -> None:
    pools = engine._runner.attachments._pools
    family.pin(engine, "attention")
    assert {name.rpartition(".")[2] for name in pools} == {"q_proj", "v_proj"}


def state_machine(family: Family, engine: Engine) -> type[RuleBasedStateMachine]:
    names = list(family.adapters)
    prompts = [[7], list(b"ab"), list(b"a longer prompt than one step takes"), list(b"wxyz")]

    class Serving(RuleBasedStateMachine):
        """Submit, abort, step, swap, evict in any order; every answer is one version's, and all pins come back."""

        def __init__(self) -> None:
            super().__init__()
            self.held: list[tuple[str, Lease]] = []
            self.asked: list[tuple[str | None, list[int], int, Generation]] = []
            self.pinned_by: dict[Generation, Resident] = {}

        @property
        def pinned(self) -> set[Resident]:
            running = {resident for generation, resident in self.pinned_by.items() if not generation.done}
            return running | {lease.resident for _, lease in self.held}

        @rule(name=st.sampled_from(names))
        def acquire(self, name: str) -> None:
            try:
                lease = family.pin(engine, name)
            except NoAdapterCapacity:
                used = [any(a <= row < b for a, b in (r.extent for r in self.pinned)) for row in range(16)]
                assert all(any(used[at : at + ROWS[name]]) for at in range(17 - ROWS[name])), "there was room"
                return
            self.held.append((name, lease))

        @precondition(lambda self: self.held)
        @rule(data=st.data())
        def release(self, data: st.DataObject) -> None:
            _, lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            lease.release()

        @precondition(lambda self: self.held)
        @rule(data=st.data(), prompt=st.sampled_from(prompts), tokens=st.sampled_from([1, 4, 9]))
        def submit(self, data: st.DataObject, prompt: list[int], tokens: int) -> None:
            name, lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            self._submit(name, lease, prompt, tokens)

        @rule(prompt=st.sampled_from(prompts), tokens=st.sampled_from([1, 4, 9]))
        def submit_to_the_base(self, prompt: list[int], tokens: int) -> None:
            self._submit(None, None, prompt, tokens)

        def _submit(self, name: str | None, lease: Lease | None, prompt: list[int], tokens: int) -> None:
            generation = engine.submit(Request(prompt, Sampling(max_tokens=tokens, temperature=0), lease))
            self.asked.append((name, prompt, tokens, generation))
            if lease is not None:
                self.pinned_by[generation] = lease.resident

        @precondition(lambda self: self.asked)
        @rule(data=st.data())
        def abort(self, data: st.DataObject) -> None:
            self.asked[data.draw(st.integers(0, len(self.asked) - 1))][3].abort()

        @rule(name=st.sampled_from(names))
        def retire(self, name: str) -> None:
            engine.residency.retire(family.digest(name))

        @rule(steps=st.integers(1, 4))
        def step(self, steps: int) -> None:
            for _ in range(steps):
                engine.step()

        @invariant()
        def what_is_pinned_has_its_rows_to_itself(self) -> None:
            owners = sorted(resident.extent for resident in self.pinned)
            assert all(end <= start for (_, end), (start, _) in pairwise(owners))

        @invariant()
        def what_is_done_is_right(self) -> None:
            for name, prompt, tokens, generation in self.asked:
                if generation.done:
                    result, expected = generation.result(), family.greedy_cached(name, prompt, 9)
                    wanted = expected[: len(result.token_ids)]
                    assert result.token_ids == wanted
                    if result.finish_reason == "length":
                        assert len(result.token_ids) == tokens
            self.asked = [asked for asked in self.asked if not asked[3].done]

        def teardown(self) -> None:
            for _, lease in self.held:
                lease.release()
            while engine.step():
                pass
            self.what_is_done_is_right()
            assert self.asked == []
            assert [engine.residency.pins(family.digest(name)) for name in names] == [0] * len(names)
            for name in names:
                engine.residency.retire(family.digest(name))
            assert engine.residency.free_rows == 16
            assert engine.statistics().pages_used == 0

    return Serving


def test_any_order_of_events_keeps_answers_whole_and_returns_every_pin(
    family: Family, engine_of: EngineFactory
) -> None:
    engine = engine_of(family, adapter_rank_rows=16, max_sequences=3)
    run_state_machine_as_test(
        state_machine(family, engine),
        settings=hypothesis_settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True),
    )
