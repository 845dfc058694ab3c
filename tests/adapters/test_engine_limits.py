"""Deadlines, a full queue, and what an engine tells of itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.errors import DeadlineExceeded, InvalidRequest, QueueFull

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

PROMPT = list(b"hello")
LONG = Sampling(max_tokens=100, temperature=0, ignore_eos=True)
SHORT = Sampling(max_tokens=4, temperature=0, ignore_eos=True)


def drain(engine: Engine) -> None:
    while engine.step():
        pass


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_request_past_its_deadline_ends_and_frees_everything(
    engine: Engine, family: Family, n: int, steps: int
) -> None:
    late = engine.submit(Request(PROMPT, LONG, family.pin(engine, "mlp"), n=n, timeout=0.2))
    other = engine.submit(Request(PROMPT, SHORT))
    for _ in range(steps):
        engine.step()
    time.sleep(0.2)
    drain(engine)
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 seconds"):
        late.result(timeout=0)
    assert other.result(timeout=0).finish_reason == "length"
    assert engine.residency.pins(family.digest("mlp")) == 0
    assert engine.statistics().pages_used == 0
    assert engine.statistics().expired == 1


def test_the_setting_is_the_longest_deadline(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, request_timeout=1)
    generation = engine.submit(Request(PROMPT, LONG, timeout=50))
    assert engine._scheduler.all()[0].timeout == 1
    generation.abort()
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="timeout: "):
            Request(PROMPT, SHORT, timeout=timeout)


def test_a_full_queue_says_when_to_come_back(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, max_queue=3, max_sequences=1)
    for _ in range(3):
        engine.submit(Request(PROMPT, SHORT))
    with pytest.raises(QueueFull, match="3 requests are waiting") as caught:
        engine.submit(Request(PROMPT, SHORT))
    assert caught.value.fields["retry_after"] == 1, "nothing has begun, so nothing is known of the pace"
    drain(engine)
    now = time.monotonic()
    engine._scheduler._admissions.clear()
    engine._scheduler._admissions.extend([now - 20, now - 10])
    for _ in range(3):
        engine.submit(Request(PROMPT, SHORT))
    with pytest.raises(QueueFull) as caught:
        engine.submit(Request(PROMPT, SHORT))
    assert caught.value.fields["retry_after"] in (30, 31), "3 wait, and one begins every ten seconds"


def test_an_engine_tells_what_it_does_and_did(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4, max_sequences=2)
    digest = family.digest("mlp")
    engine.submit(Request(PROMPT, SHORT, family.pin(engine, "mlp")))
    engine.submit(Request(PROMPT, SHORT))
    aborted = engine.submit(Request(PROMPT, SHORT))
    engine.step()
    now = engine.statistics()
    assert (now.running, now.waiting, now.in_flight) == (2, 1, {digest: 1, "": 2})
    assert (now.pages_used, now.steps, now.computed_tokens, now.generated_tokens) == (4, 1, 10, 2)
    assert now.pages_free == now.pages_total - 4
    aborted.abort()
    drain(engine)
    engine.submit(Request(PROMPT, SHORT))
    drain(engine)
    done = engine.statistics()
    assert (done.running, done.waiting, done.in_flight) == (0, 0, {})
    assert (done.finished, done.aborted, done.failed) == (3, 1, 0)
    assert (done.prompt_tokens, done.found_tokens, done.generated_tokens) == (15, 4, 12)
    assert (done.pages_used, done.pages_idle) == (0, 4)
