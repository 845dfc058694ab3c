from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Chunk, Generation, Request, Sampling
from graftwork.errors import GraftworkError, InvalidRequest, OperationFailed, Overloaded
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.adapters.conftest import EngineFactory, Family

PROMPT = list(b"hello")
LONG = Sampling(max_tokens=100, temperature=0, ignore_eos=True)
SHORT = Sampling(max_tokens=6, temperature=0, ignore_eos=True)


def drain(engine: Engine) -> None:
    while engine.step():
        pass


def is_idle(engine: Engine, family: Family) -> bool:
    return engine.statistics().pages_used == 0 and not any(
        engine.residency.pins(family.digest(name)) for name in family.adapters
    )


def test_an_aborted_request_ends_at_the_next_step_and_frees_what_it_held(engine: Engine, family: Family) -> None:
    running = engine.submit(Request(PROMPT, LONG, family.pin(engine, "mlp")))
    other = engine.submit(Request(PROMPT, SHORT, family.pin(engine, "mlp")))
    for _ in range(3):
        engine.step()
    assert engine.running == 2
    running.abort()
    engine.step()
    result = running.result(timeout=0)
    assert result.finish_reason == "abort"
    assert result.token_ids == family.greedy("mlp", PROMPT, 100, ignore_eos=True)[:3]
    assert engine.residency.pins(family.digest("mlp")) == 1
    drain(engine)
    assert other.result().token_ids == family.greedy("mlp", PROMPT, 6, ignore_eos=True)
    assert is_idle(engine, family)


def test_a_request_is_aborted_while_it_waits(engine: Engine, family: Family) -> None:
    generation = engine.submit(Request(PROMPT, LONG, family.pin(engine, "mlp")))
    generation.abort()
    assert not engine.step()
    assert generation.result(timeout=0).token_ids == []
    assert is_idle(engine, family)


def test_more_requests_than_places_wait_their_turn(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, max_sequences=2)
    generations = [engine.submit(Request(PROMPT, SHORT)) for _ in range(5)]
    engine.step()
    assert (engine.running, engine.waiting) == (2, 3)
    drain(engine)
    assert len({tuple(generation.result().token_ids) for generation in generations}) == 1


def test_a_full_queue_answers_overloaded_and_frees_the_lease(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, max_queue=2)
    for _ in range(2):
        engine.submit(Request(PROMPT, SHORT))
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        engine.submit(Request(PROMPT, SHORT, family.pin(engine, "mlp")))
    assert engine.residency.pins(family.digest("mlp")) == 0


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], SHORT, "prompt: it has no tokens"),
        ([1, 260], SHORT, "prompt: its tokens must be from 0 to 259"),
        ([-1], SHORT, "prompt: its tokens must be"),
        (
            [1] * 100,
            Sampling(max_tokens=29),
            "max_tokens: 100 prompt tokens and 29 new ones; this model takes 128 .*max_m",
        ),
    ],
)
def test_a_request_that_can_never_run_is_refused_and_frees_the_lease(
    engine: Engine, family: Family, prompt: list[int], sampling: Sampling, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(Request(prompt, sampling, family.pin(engine, "mlp")))
    assert is_idle(engine, family)


def test_the_longest_request_fits(engine: Engine, family: Family) -> None:
    prompt = list(range(100))
    generation = engine.submit(Request(prompt, Sampling(max_tokens=28, temperature=0, ignore_eos=True)))
    drain(engine)
    assert generation.result().token_ids == family.greedy(None, prompt, 28, ignore_eos=True)


def test_the_engine_keeps_its_own_pin_when_the_caller_releases_the_lease(engine: Engine, family: Family) -> None:
    lease = family.pin(engine, "mlp")
    generation = engine.submit(Request(PROMPT, SHORT, lease))
    lease.release()
    lease.release()
    assert engine.residency.pins(family.digest("mlp")) == 1
    drain(engine)
    assert generation.result().token_ids == family.greedy("mlp", PROMPT, 6, ignore_eos=True)
    assert is_idle(engine, family)


def test_end_of_sequence_ends_a_request_and_is_not_in_its_text(engine: Engine, family: Family) -> None:
    prompt = next(
        prompt for prompt in ([a, b] for a in range(64) for b in range(64)) if 257 in family.greedy(None, prompt, 8)
    )
    expected = family.greedy(None, prompt, 8)
    generation = engine.submit(Request(prompt, Sampling(max_tokens=50, temperature=0)))
    drain(engine)
    result = generation.result()
    assert (result.token_ids, result.finish_reason) == (expected, "stop")
    assert result.text == engine.tokenizer.decode(expected[:-1])
    assert (result.prompt_tokens, result.completion_tokens) == (2, len(expected))


def test_a_stop_string_ends_a_request(engine: Engine, family: Family) -> None:
    tokens = family.greedy(None, PROMPT, 40, ignore_eos=True)
    text = str(engine.tokenizer.decode(tokens, skip_special_tokens=True))
    stop = next(text[i : i + 2] for i in range(10, len(text)) if text[i : i + 2].isascii())
    generation = engine.submit(
        Request(PROMPT, Sampling(max_tokens=40, temperature=0, ignore_eos=True, stop=(stop, "never")))
    )
    drain(engine)
    result = generation.result()
    assert result.finish_reason == "stop"
    assert result.text == text[: text.index(stop)]
    assert "".join(chunk.text for chunk in generation) == result.text


def test_a_step_that_fails_ends_its_requests_with_the_error_and_the_engine_goes_on(
    engine: Engine, family: Family, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = engine.submit(Request(PROMPT, LONG, family.pin(engine, "mlp")))
    engine.step()
    forward = engine._runner.forward

    def broken(pieces: Any) -> torch.Tensor:
        monkeypatch.setattr(engine._runner, "forward", forward)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine._runner, "forward", broken)
    engine.start()
    with pytest.raises(OperationFailed, match="RuntimeError: out of memory"):
        failing.result(timeout=20)
    assert "a step failed" in caplog.text
    later = engine.submit(Request(PROMPT, SHORT))
    assert later.result(timeout=20).token_ids == family.greedy(None, PROMPT, 6, ignore_eos=True)
    assert is_idle(engine, family)


def test_an_adapter_that_breaks_its_step_ends_its_own_requests_only(
    engine: Engine, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._runner.forward

    def fails_for_mlp(pieces: Any) -> torch.Tensor:
        if any(piece.resident and piece.resident.digest == family.digest("mlp") for piece in pieces):
            raise RuntimeError("no kernel for this")
        return forward(pieces)

    monkeypatch.setattr(engine._runner, "forward", fails_for_mlp)
    names = [None, "mlp", "attention", "mlp", "everything"]
    generations = [engine.submit(Request(PROMPT, SHORT, family.lease(engine, name))) for name in names]
    drain(engine)
    for name, generation in zip(names, generations, strict=True):
        if name == "mlp":
            with pytest.raises(OperationFailed, match="no kernel for this"):
                generation.result(timeout=0)
        else:
            assert generation.result(timeout=0).token_ids == family.greedy(name, PROMPT, 6, ignore_eos=True)
    assert is_idle(engine, family)


def test_a_token_that_has_no_text_ends_its_own_request_only(
    engine: Engine, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, healthy = engine.submit(Request(PROMPT, SHORT)), engine.submit(Request(PROMPT, SHORT))
    sequence = engine._scheduler.all()[0]
    monkeypatch.setattr(sequence.text, "push", lambda token: [][token])
    drain(engine)
    with pytest.raises(OperationFailed, match="IndexError"):
        broken.result(timeout=0)
    assert healthy.result(timeout=0).token_ids == family.greedy(None, PROMPT, 6, ignore_eos=True)


def test_logits_that_are_not_finite_fail_their_own_request_only(
    engine: Engine, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned, healthy = (engine.submit(Request(PROMPT, SHORT)) for _ in range(2))
    forward = engine._runner.forward

    def poison(pieces: Any) -> torch.Tensor:
        logits = forward(pieces)
        poisoned_pages = list(pieces[0].pages)
        for keys, values in engine._runner.cache._layers.values():
            keys[poisoned_pages], values[poisoned_pages] = torch.nan, torch.nan  # what a diverging sequence leaves
        logits[0, 3] = torch.nan
        return logits

    with torch.inference_mode(), monkeypatch.context() as patch:
        patch.setattr(engine._runner, "forward", poison)
        engine.step()
    with pytest.raises(OperationFailed, match="not finite"):
        poisoned.result(timeout=0)
    successor = engine.submit(Request([9], SHORT))
    drain(engine)
    assert healthy.result().token_ids == family.greedy(None, PROMPT, 6, ignore_eos=True)
    assert successor.result().token_ids == family.greedy(None, [9], 6, ignore_eos=True)


def test_closing_aborts_what_runs_and_what_waits(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, max_sequences=1)
    engine.start()
    generations = [engine.submit(Request(PROMPT, LONG, family.pin(engine, "mlp"))) for _ in range(3)]
    next(iter(generations[0]))
    engine.close()
    assert all(generation.result(timeout=0).finish_reason == "abort" for generation in generations)
    assert is_idle(engine, family)
    with pytest.raises(Overloaded, match="closed"):
        engine.submit(Request(PROMPT, SHORT))


@pytest.mark.parametrize("threaded", [True, False])
def test_draining_finishes_everything_first(family: Family, engine_of: EngineFactory, threaded: bool) -> None:
    engine = engine_of(family, max_sequences=1)
    if threaded:
        engine.start()
    generations = [engine.submit(Request(PROMPT, SHORT)) for _ in range(3)]
    engine.close(drain=True)
    assert [generation.result(timeout=0).finish_reason for generation in generations] == ["length"] * 3


def test_chunks_are_iterated_listened_to_and_replayed(engine: Engine) -> None:
    generation = engine.submit(Request(PROMPT, SHORT))
    heard: list[Chunk | GraftworkError] = []
    generation.add_listener(heard.append)
    engine.start()
    chunks = list(generation)
    late: list[Chunk | GraftworkError] = []
    generation.add_listener(late.append)
    assert heard == chunks == late == list(generation)
    assert [chunk.finish_reason for chunk in chunks] == [None] * 5 + ["length"]
    assert [token for chunk in chunks for token in chunk.token_ids] == generation.result().token_ids


def test_a_listener_whose_event_loop_is_gone_aborts_its_request_only(engine: Engine, family: Family) -> None:
    def closed_loop(event: object) -> None:
        raise RuntimeError("Event loop is closed")

    gone, other = engine.submit(Request(PROMPT, LONG)), engine.submit(Request(PROMPT, SHORT))
    gone.add_listener(closed_loop)
    drain(engine)
    assert gone.result(timeout=0).finish_reason == "abort"
    assert other.result(timeout=0).finish_reason == "length"
    assert is_idle(engine, family)


def test_a_probe_gets_its_turn_while_every_place_is_busy(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, max_sequences=1)
    engine.start()
    busy = [engine.submit(Request(PROMPT, LONG)) for _ in range(8)]
    next(iter(busy[0]))
    started = time.monotonic()
    engine.residency.prepare(family.digest("everything"), family.adapters["everything"])
    waited = time.monotonic() - started
    assert not busy[-1].done, "the engine was idle, so this shows nothing"
    assert waited < 5
    engine.close()


def test_a_probe_shares_a_step_with_requests_that_are_about_to_begin(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, max_sequences=4)
    engine.submit(Request(PROMPT, LONG))
    engine.step()
    with ThreadPoolExecutor(1) as pool:
        with engine._loop.turn:  # nothing begins
            engine.start()
            engine.submit(Request(PROMPT, SHORT))
            assert (engine.running, engine.waiting) == (1, 1)
            preparing = pool.submit(
                engine.residency.prepare, family.digest("everything"), family.adapters["everything"]
            )
            until(lambda: engine.waiting == 2)
        preparing.result()


def test_waiting_for_a_result_times_out(engine: Engine) -> None:
    generation = engine.submit(Request(PROMPT, SHORT))
    assert not generation.wait(timeout=0.01)
    with pytest.raises(TimeoutError):
        generation.result(timeout=0.01)


def test_threads_submitting_while_adapters_are_swapped_get_one_version_each(
    family: Family, engine_of: EngineFactory
) -> None:
    """An alias moves over four versions, and rank rows are too few for all of them, while requests are in flight."""
    engine = engine_of(family, adapter_rank_rows=20)
    engine.start()
    versions = ["attention", "everything", "mlp", "pattern"]
    prompts = [list(b"once"), list(b"a prompt that takes more than one step to read"), [5]]
    expected = {
        (name, tuple(prompt)): family.greedy_cached(name, prompt, 9) for name in [None, *versions] for prompt in prompts
    }
    alias = {"current": versions[0]}
    failures: list[str] = []
    served: set[str | None] = set()
    stop = threading.Event()

    def client(number: int) -> None:
        for turn in itertools.takewhile(lambda turn: turn < 25 or served < {None, *versions}, range(5000)):
            name = None if (number + turn) % 5 == 0 else alias["current"]
            prompt = prompts[(number + turn) % len(prompts)]
            generation = _submit_patiently(engine, family, name, prompt)
            if turn % 7 == 6:
                generation.abort()
            result = generation.result(timeout=60)
            wanted = expected[name, tuple(prompt)]
            if result.token_ids != wanted[: len(result.token_ids)] or (
                result.finish_reason == "length" and len(result.token_ids) != 9
            ):
                failures.append(f"{name}: {result.token_ids} instead of {wanted}")
            served.add(name)

    def swapper() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            name = versions[turn % len(versions)]
            try:
                engine.residency.prepare(family.digest(name), family.adapters[name])
            except Overloaded:
                continue
            alias["current"] = name
            time.sleep(0.002)

    clients = _run_all([partial(client, number) for number in range(6)])
    swaps = threading.Thread(target=swapper)
    swaps.start()
    for thread in clients:
        thread.join()
    stop.set()
    swaps.join()
    assert failures == []
    assert served == {None, *versions}
    assert is_idle(engine, family)


def _submit_patiently(engine: Engine, family: Family, name: str | None, prompt: list[int]) -> Generation:
    sampling = Sampling(max_tokens=9, temperature=0)
    deadline = time.monotonic() + 60
    while True:
        try:
            return engine.submit(Request(prompt, sampling, family.lease(engine, name)))
        except Overloaded:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def _run_all(functions: list[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    return threads
