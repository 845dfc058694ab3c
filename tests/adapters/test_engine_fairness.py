"""Tenants share places and prompt tokens fairly, by a scheduler whose steps compute nothing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.adapters.engine.cache import KeyValueCache
from graftwork.adapters.engine.generation import Generation
from graftwork.adapters.engine.sampling import Sampler
from graftwork.adapters.engine.scheduler import Scheduler
from graftwork.adapters.engine.sequence import Sampling, Sequence
from graftwork.adapters.engine.text import TextStream
from graftwork.adapters.steps.fairness import Turns, parse_weights
from graftwork.errors import InvalidSetting

PLACES, BUDGET, TURN = 8, 128, 64


class NoText:
    """A decoder that never says anything."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True, /) -> str:
        return ""


@dataclass
class Simulation:
    """A scheduler, and what became of its sequences, in steps."""

    weights: dict[str, float] = field(default_factory=dict)
    places: int = PLACES
    pages: int = 4000
    step: int = 0
    arrived: dict[Sequence, int] = field(default_factory=dict)
    began: dict[Sequence, int] = field(default_factory=dict)
    computed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.cache = KeyValueCache(self.pages, 16)
        self.scheduler = Scheduler(
            self.cache,
            Turns(TURN, self.weights),
            max_running=self.places,
            max_waiting=10_000,
            prefill_tokens=BUDGET,
            slice_tokens=2 * TURN,
        )
        self.serial = 0

    def submit(self, tenant: str, prompt: int, tokens: int) -> Sequence:
        self.serial += 1
        sampling = Sampling(max_tokens=tokens)
        sequence = Sequence(
            tokens=[self.serial] * prompt,
            sampling=sampling,
            sampler=Sampler(sampling),
            text=TextStream(NoText()),
            generation=Generation(prompt, lambda: None),
            lease=None,
            tenant=tenant,
        )
        self.scheduler.add(sequence)
        self.arrived[sequence] = self.step
        return sequence

    def run(self, steps: int) -> None:
        for _ in range(steps):
            works = self.scheduler.schedule()
            assert len(works) <= self.places
            self.step += 1
            for work in works:
                sequence = work.sequence
                self.computed[sequence.tenant] += work.count
                samples = work.samples
                sequence.computed += work.count
                if samples:
                    self.scheduler.publish(sequence)
                    self.began.setdefault(sequence, self.step)
                    if sequence.accept(7, frozenset()).finish_reason is not None:
                        self.scheduler.remove(sequence)

    def waited(self, sequence: Sequence) -> int:
        """Steps until its first token."""
        return self.began.get(sequence, self.step + 1) - self.arrived[sequence]


def bound(cold: int, tokens: int, places: int) -> int:
    """Steps in which each of `cold` tenants has its first token, whatever one other tenant asked for before.

    A tenant without a place takes one from whoever has two, so all places but one serve the cold ones. Their prompts
    fit in a turn; while k sequences read, each has its turn within (k + 1) * TURN of the tokens given out. So a place
    is busy with a cold request for at most that many steps and one for each of its tokens.
    """
    busy = 1 + math.ceil((places + 1) * TURN / BUDGET) + tokens
    return math.ceil(cold / (places - 1)) * busy


def test_a_deep_queue_of_one_tenant_does_not_make_fifty_others_wait() -> None:
    simulation = Simulation()
    for _ in range(500):
        simulation.submit("hot", 64, 200)
    simulation.run(20)
    assert simulation.scheduler.running == PLACES
    cold = [simulation.submit(f"cold {index}", 32, 8) for index in range(50)]
    limit = bound(50, 8, PLACES)
    simulation.run(limit)
    waits = [simulation.waited(sequence) for sequence in cold]
    assert max(waits) <= limit
    alone = 500 * (200 + 1) / PLACES
    assert limit < alone / 50, "the bound says nothing"
    simulation.run(60)
    assert simulation.computed["hot"] > 0
    assert all(sequence.sampled == 8 for sequence in cold)


@settings(max_examples=25, deadline=None)
@given(
    places=st.integers(2, 8),
    cold=st.integers(1, 12),
    prompt=st.integers(1, TURN),
    tokens=st.integers(1, 12),
    hot=st.integers(1, 40),
    hot_prompt=st.integers(1, 400),
    hot_tokens=st.integers(1, 300),
    before=st.integers(0, 30),
)
def test_the_bound_holds_whatever_is_asked(
    places: int, cold: int, prompt: int, tokens: int, hot: int, hot_prompt: int, hot_tokens: int, before: int
) -> None:
    simulation = Simulation(places=places)
    for _ in range(hot):
        simulation.submit("hot", hot_prompt, hot_tokens)
    simulation.run(before)
    waiting = [simulation.submit(f"cold {index}", prompt, tokens) for index in range(cold)]
    limit = bound(cold, tokens, places)
    simulation.run(limit)
    assert max(simulation.waited(sequence) for sequence in waiting) <= limit


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_places_and_tokens_are_shared_by_weight(weight: float) -> None:
    simulation = Simulation(weights={"heavy": weight})
    for _ in range(150):
        simulation.submit("heavy", 50, 40)
        simulation.submit("light", 50, 40)
    simulation.run(400)
    assert simulation.computed["heavy"] / simulation.computed["light"] == pytest.approx(weight, rel=0.15)


def test_a_tenant_alone_has_everything() -> None:
    simulation = Simulation()
    for _ in range(40):
        simulation.submit("only", BUDGET // PLACES, 20)
    simulation.run(1)
    assert simulation.scheduler.running == PLACES
    simulation.run(40 * 21 // PLACES + 40)
    assert len(simulation.began) == 40
    assert simulation.scheduler.preemptions == 0


def test_more_tenants_than_places_take_turns_at_them() -> None:
    simulation = Simulation(places=2)
    long = [simulation.submit(f"tenant {index}", 16, 2000) for index in range(6)]
    simulation.run(6 * (2 * TURN + 8))
    assert all(simulation.waited(sequence) <= 6 * (2 * TURN + 8) for sequence in long)
    assert min(simulation.computed.values()) > TURN


def test_a_large_prompt_gets_its_pages_among_many_small_ones() -> None:
    simulation = Simulation(places=4, pages=20)
    for index in range(200):
        simulation.submit("small", 30, 20 + index % 7)
    simulation.run(5)
    large = simulation.submit("large", 250, 4)
    simulation.run(60)
    assert simulation.waited(large) <= 60


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60), st.integers(1, 40)), max_size=25), st.integers(8, 20))
def test_everything_ends_and_every_page_comes_back(asked: list[tuple[int, int, int]], pages: int) -> None:
    simulation = Simulation(places=3, pages=pages)
    for tenant, prompt, tokens in asked:
        simulation.submit(f"tenant {tenant}", prompt, tokens)
        simulation.run(1)
    for _ in range(20_000):
        if not simulation.scheduler.all():
            break
        before = simulation.computed.total()
        simulation.run(1)
        assert simulation.computed.total() > before, "a step computed nothing"
    assert all(sequence.sampled == sequence.sampling.max_tokens for sequence in simulation.arrived)
    assert simulation.cache.pages.used == 0


def test_turns_are_paid_and_debts_are_limited() -> None:
    turns = Turns(10)
    turns.keep(["a", "b"])
    assert turns.next({"a", "b"}) == ("a", 10)
    turns.pay({"a": 25})
    assert turns.next({"a", "b"}) == ("b", 10)
    turns.pay({"b": 10})
    assert turns.next({"a", "b"})[0] == "b", "a pays its debt first"
    turns.pay({"a": 1_000_000})
    assert turns.deficit("a") == -320
    assert turns.next({"a"}) == ("a", 10)
    turns.keep(["b"])
    assert turns.deficit("a") == 0


def test_weights_are_read_from_the_setting() -> None:
    assert parse_weights("") == {}
    assert parse_weights("a=2, b/c=0.5") == {"a": 2.0, "b/c": 0.5}
    for wrong in ("a", "a=x", "a=0", "=1", "a=-1", "a=inf"):
        with pytest.raises(InvalidSetting, match="TENANT_WEIGHTS"):
            parse_weights(wrong)
