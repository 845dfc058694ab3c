"""Loads, flips, aborts, disconnects, evictions and deletions in any order: what is pinned stays what it is."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from safetensors.torch import load_file

from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.generation import Generation
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.residency.lease import Lease
from graftwork.adapters.residency.place import Stage
from graftwork.errors import NoAdapterCapacity
from graftwork.registry.formats.peft import read_adapter
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

ROWS = {"attention": 4, "everything": 8, "mlp": 3, "pattern": 6, "head": 5}
TOTAL = 16
PATIENCE = 1000.0
PROMPTS = [[7], list(b"ab"), list(b"a longer prompt than one step takes"), list(b"wxyz")]
TOKENS = 6

Rows = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(eq=False)
class Asked:
    """A request that was made of an alias; its version is what the alias was then."""

    name: str
    prompt: list[int]
    choices: int
    admission: Future[Lease]
    resident: Resident | None = None
    generation: Generation | None = None

    @property
    def is_running(self) -> bool:
        return self.generation is not None and not self.generation.done


def rows_of(family: Family, name: str) -> Rows:
    """What an adapter's rank rows must hold, by the formula: A, and the scale times B transposed."""
    layout = read_adapter(family.adapters[name])
    tensors = load_file(layout.root / "adapter_model.safetensors")
    return {
        path: (tensors[module.a], (tensors[module.b].double() * module.scale).float().t())
        for path, module in layout.foldable.items()
    }


def swap_machine(family: Family, engine: Engine) -> type[RuleBasedStateMachine]:
    names = list(family.adapters)
    residency = engine.residency
    pools = engine._runner.attachments._pools
    expected = cache(lambda name: rows_of(family, name))
    digest_of = {name: family.digest(name) for name in names}
    name_of = {digest: name for name, digest in digest_of.items()}

    class Swapping(RuleBasedStateMachine):
        """The model: where each alias is, which leases and requests there are, and what is kept."""

        def __init__(self) -> None:
            super().__init__()
            self.aliases = {"live": names[0], "next": names[1]}
            self.held: list[tuple[str, Lease]] = []
            self.asked: list[Asked] = []
            self.kept: set[str] = set()

        @property
        def pinned(self) -> Counter[str]:
            """How many pins the model knows of each adapter, an unfinished generation counted once."""
            running = [asked.name for asked in self.asked if asked.is_running]
            return Counter([*(name for name, _ in self.held), *running])

        @property
        def residents(self) -> list[tuple[str, Resident]]:
            running = [(asked.name, asked.resident) for asked in self.asked if asked.is_running and asked.resident]
            return [*((name, lease.resident) for name, lease in self.held), *running]

        @property
        def waiting(self) -> list[Asked]:
            return [asked for asked in self.asked if not asked.admission.done()]

        def settle(self) -> None:
            """Wait until nobody loads or is about to be told, then hand admitted requests to the engine."""

            def settled() -> bool:
                with residency._lock:
                    pending = list(residency._pending)
                    rests = not residency._pumping and all(place.stage is Stage.WAITING for place in pending)
                    return rests and len(self.waiting) <= sum(len(place.waiters) for place in pending)

            until(settled)
            for asked in self.asked:
                if asked.generation is None and asked.admission.done() and not asked.admission.cancelled():
                    lease = asked.admission.result()
                    asked.resident = lease.resident
                    sampling = Sampling(max_tokens=TOKENS, temperature=0)
                    asked.generation = engine.submit(Request(asked.prompt, sampling, lease, n=asked.choices))

        @rule(
            model=st.sampled_from(["live", "next", *names]),
            prompt=st.sampled_from(PROMPTS),
            choices=st.sampled_from([1, 2]),
        )
        def ask(self, model: str, prompt: list[int], choices: int) -> None:
            """Of an alias, or of a version by its own name, so that there are more than have room."""
            name = self.aliases.get(model, model)
            admission = residency.request(digest_of[name], family.adapters[name], wait=PATIENCE)
            self.asked.append(Asked(name, prompt, choices, admission))
            self.settle()

        @rule(alias=st.sampled_from(["live", "next"]), name=st.sampled_from(names))
        def flip(self, alias: str, name: str) -> None:
            """The old version is held while the new one is loaded and probed; a failure leaves the alias."""
            with residency.pin(digest_of[self.aliases[alias]]) or nullcontext():
                try:
                    residency.prepare(digest_of[name], family.adapters[name])
                except NoAdapterCapacity:
                    return
            self.aliases[alias] = name
            self.settle()

        @rule(name=st.sampled_from(names))
        def hold(self, name: str) -> None:
            lease = residency.pin(digest_of[name])
            if lease is not None:
                self.held.append((name, lease))

        @precondition(lambda self: self.held)
        @rule(data=st.data())
        def share(self, data: st.DataObject) -> None:
            name, lease = data.draw(st.sampled_from(self.held))
            self.held.append((name, lease.share()))

        @precondition(lambda self: self.held)
        @rule(data=st.data())
        def release(self, data: st.DataObject) -> None:
            _, lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            lease.release()
            self.settle()

        @precondition(lambda self: self.asked)
        @rule(data=st.data())
        def disconnect(self, data: st.DataObject) -> None:
            """The client goes away, whether its adapter is resident by then or not."""
            asked = data.draw(st.sampled_from(self.asked))
            asked.admission.cancel()
            if asked.generation is not None:
                asked.generation.abort()

        @rule(name=st.sampled_from(names))
        def delete(self, name: str) -> None:
            residency.retire(digest_of[name])
            assert residency.pin(digest_of[name]) is None
            self.settle()

        @rule(name=st.sampled_from(names))
        def end_of_the_drain(self, name: str) -> None:
            engine.abort(digest_of[name])

        @rule(name=st.sampled_from(names))
        def keep(self, name: str) -> None:
            residency.keep(digest_of[name])
            self.kept.add(name)

        @rule(name=st.sampled_from(names))
        def let_go(self, name: str) -> None:
            residency.let_go(digest_of[name])
            self.kept.discard(name)
            self.settle()

        @rule()
        def lose_patience(self) -> None:
            for place in list(residency._pending):
                place.waits_since -= PATIENCE
            residency._tick()
            self.settle()

        @rule(steps=st.integers(1, 5))
        def step(self, steps: int) -> None:
            for _ in range(steps):
                engine.step()
                self.what_is_pinned_holds_its_own_bytes()
            self.settle()

        @invariant()
        def what_is_pinned_holds_its_own_bytes(self) -> None:
            for name, resident in set(self.residents):
                rows = expected(name)
                assert resident.ranks.keys() == rows.keys()
                for path, (a, b) in rows.items():
                    owned = slice(resident.start, resident.start + len(a))
                    torch.testing.assert_close(pools[path].a[owned], a, rtol=0, atol=0)
                    torch.testing.assert_close(pools[path].b[owned], b, rtol=1e-6, atol=0)

        @invariant()
        def what_is_pinned_has_its_rows_to_itself(self) -> None:
            owners = sorted({resident.extent for _, resident in self.residents})
            assert all(end <= start for (_, end), (start, _) in pairwise(owners))

        @invariant()
        def pins_are_those_of_the_model(self) -> None:
            pins = {name: residency.pins(digest) + residency.leaving(digest) for name, digest in digest_of.items()}
            fewest = self.pinned
            extra = Counter(asked.name for asked in self.asked if asked.is_running and asked.choices > 1)
            assert all(fewest[name] <= pins[name] <= fewest[name] + extra[name] for name in names)

        @invariant()
        def nobody_waits_for_room_that_is_there(self) -> None:
            """The first in the queue is waiting because what is pinned or kept leaves no gap that is long enough."""
            waiting = self.waiting
            if not waiting:
                return
            taken = [resident.extent for _, resident in self.residents]
            with residency._lock:
                first = residency._queue.candidates()[0]
                taken += [place.extent for place in residency._places.values() if place.digest in residency._kept]
            used = [any(start <= row < end for start, end in taken) for row in range(TOTAL)]
            needed = ROWS[name_of[first.digest]]
            assert all(any(used[at : at + needed]) for at in range(TOTAL + 1 - needed)), "there was room"

        @invariant()
        def what_is_done_is_one_versions_answer(self) -> None:
            for asked in self.asked:
                if asked.generation is not None and asked.generation.done:
                    right = family.greedy_cached(asked.name, asked.prompt, TOKENS)
                    for result in asked.generation.results():
                        assert result.token_ids == right[: len(result.token_ids)]
                        assert result.finish_reason == "abort" or len(result.token_ids) == len(right)
            over = {id(asked) for asked in self.asked if asked.generation is not None and asked.generation.done}
            self.asked = [asked for asked in self.asked if id(asked) not in over and not asked.admission.cancelled()]

        def teardown(self) -> None:
            for name in self.kept:
                residency.let_go(digest_of[name])
            for _, lease in self.held:
                lease.release()
            self.held = []
            idle = 0
            while self.asked:
                assert idle < 3, "somebody waits forever"
                self.settle()
                idle = 0 if engine.step() else idle + 1
                self.what_is_done_is_one_versions_answer()
            for digest in digest_of.values():
                assert residency.pins(digest) == residency.leaving(digest) == 0
                residency.retire(digest)
            assert residency.free_rows == TOTAL
            assert not residency.is_busy

    return Swapping


def test_any_order_of_loads_flips_aborts_disconnects_evictions_and_deletions(
    family: Family, engine_of: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(family, adapter_rank_rows=TOTAL, max_sequences=3)
    monkeypatch.setattr(engine.residency._queue, "_patience", PATIENCE)
    run_state_machine_as_test(
        swap_machine(family, engine),
        settings=hypothesis_settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a failure is shown as it was found: shrinking would wait for it again and again
        ),
    )
