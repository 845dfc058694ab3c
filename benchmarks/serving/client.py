"""A client of OpenAI's dialect that writes down when each token came. Ours and vLLM are asked by this same client."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from benchmarks.serving.measured import Run, Timeline, cpu_seconds
from benchmarks.serving.trace import CONCURRENT, Asked

Name = Callable[[int | None], str]
"""The served name of an adapter, by its number; of the base for None."""


TIMED = 4
"""Adapters whose first and second tokens are timed: with dozens, this would take some servers longer than the trace."""


def run_trace(url: str, pid: int, trace: Sequence[Asked], name: Name) -> Run:
    """The whole trace through the server at `url`, whose process is `pid`."""
    return asyncio.run(_run(url, pid, trace, name))


def load_seconds(url: str, names: Sequence[str]) -> float:
    """The median time that the first adapters' first token takes longer the first time than the second."""
    with httpx.Client(base_url=url, timeout=600) as client:
        return statistics.median(_one(client, name) - _one(client, name) for name in names[:TIMED])


async def _run(url: str, pid: int, trace: Sequence[Asked], name: Name) -> Run:
    places = asyncio.Semaphore(CONCURRENT)
    limits = httpx.Limits(max_connections=CONCURRENT)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one(asked: Asked) -> Timeline:
            async with places:
                return await _stream(client, asked, name(asked.adapter))

        started, computed = time.perf_counter(), cpu_seconds(pid)
        timelines = await asyncio.gather(*(one(asked) for asked in trace))
        return Run(timelines, time.perf_counter() - started, cpu_seconds(pid) - computed)


async def _stream(client: httpx.AsyncClient, asked: Asked, model: str) -> Timeline:
    timeline = Timeline(time.perf_counter())
    async with client.stream("POST", "/v1/completions", json=_body(asked, model, stream=True)) as answer:
        if answer.status_code != httpx.codes.OK:
            raise RuntimeError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                now = time.perf_counter()
                event = json.loads(line.removeprefix("data: "))
                timeline.tokens += [now for choice in event["choices"] for _ in choice["token_ids"] or ()]
    if len(timeline.tokens) != asked.tokens:
        raise RuntimeError(f"{model} answered {len(timeline.tokens)} tokens of {asked.tokens}")
    return timeline


def _one(client: httpx.Client, name: str) -> float:
    started = time.perf_counter()
    asked = Asked([2, 3, 4, 5], 1, None)
    client.post("/v1/completions", json=_body(asked, name, stream=False)).raise_for_status()
    return time.perf_counter() - started


def _body(asked: Asked, model: str, *, stream: bool) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": asked.prompt,
        "max_tokens": asked.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": stream,
    }
