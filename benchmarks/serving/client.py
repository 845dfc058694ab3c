"""A client of OpenAI's dialect that writes down when each token came. Ours and vLLM are asked by this same client.

It shares the processors with the server, so it does as little as it can: it reads lines off a socket, and looks into
them when all is over. That is a third of what httpx takes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.serving.measured import Run, Timeline, cpu_seconds
from benchmarks.serving.trace import CONCURRENT, Asked

Name = Callable[[int | None], str]
"""The served name of an adapter, by its number; of the base for None."""
Arrival = tuple[float, bytes]
"""An event of a stream, and when it came."""
EVENT = b"data: {"

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
    address = urlsplit(url).netloc

    async def one(asked: Asked) -> tuple[float, list[Arrival]]:
        async with places:
            return time.perf_counter(), await _stream(address, _body(asked, name(asked.adapter), stream=True))

    started, computed = time.perf_counter(), cpu_seconds(pid)
    answers = await asyncio.gather(*(one(asked) for asked in trace))
    seconds, computed = time.perf_counter() - started, cpu_seconds(pid) - computed
    timelines = [Timeline(sent, _token_times(arrivals)) for sent, arrivals in answers]
    for asked, timeline in zip(trace, timelines, strict=True):
        if len(timeline.tokens) != asked.tokens:
            raise RuntimeError(f"{len(timeline.tokens)} tokens of {asked.tokens} came of {name(asked.adapter)}")
    return Run(timelines, seconds, computed)


async def _stream(address: str, asked: dict[str, Any]) -> list[Arrival]:
    host, port = address.split(":")
    body = json.dumps(asked).encode()
    head = [
        "POST /v1/completions HTTP/1.1",
        f"Host: {address}",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        if b" 200 " not in await reader.readline():
            raise RuntimeError((await reader.read()).decode())
        # each event is one line in one chunk of the transfer
        return [(time.perf_counter(), line) async for line in reader if line.startswith(EVENT)]
    finally:
        writer.close()


def _token_times(arrivals: Sequence[Arrival]) -> list[float]:
    events = [(at, json.loads(line.removeprefix(b"data: "))) for at, line in arrivals]
    return [at for at, event in events for choice in event["choices"] for _ in choice["token_ids"] or ()]


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
