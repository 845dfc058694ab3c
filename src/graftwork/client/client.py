"""Clients of a Graftwork server, blocking and asynchronous: both send the same calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from graftwork import __version__
from graftwork.api.schemas.jobs import JobOut
from graftwork.client import jobs
from graftwork.client.call import API, Call, Steps
from graftwork.client.errors import failure, raise_for
from graftwork.client.events import Event, EventReader
from graftwork.client.exchange import RETRIES, Outcome, exchange, seconds, unreachable
from graftwork.errors import Cancelled

T = TypeVar("T")
TIMEOUT = httpx.Timeout(60.0, connect=10.0)


class Client:
    """A blocking client: `with Client("http://127.0.0.1:8000") as graft: graft(artifacts.get("acme/support"))`.

    Failures are raised as the `GraftworkError` that the server raised. A request that changes nothing, or may be sent
    twice, is repeated when the server cannot be reached or asks to try again later.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: httpx.Timeout = TIMEOUT) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(token), timeout=timeout, follow_redirects=True)

    def __call__(self, asked: Call[T] | Steps[T]) -> T:
        """What a call answers, or steps return after call upon call.

        Raises what the server answers, ServerUnreachable, and what steps raise.
        """
        if isinstance(asked, Call):
            return self._send(asked)
        answer: Any = None
        while True:
            try:
                call = asked.send(answer)
            except StopIteration as ended:
                result: T = ended.value
                return result
            answer = self._send(call)

    def _send(self, call: Call[T]) -> T:
        talk = exchange(call, self._http.base_url)
        pause = next(talk)
        while True:
            time.sleep(pause)
            outcome: Outcome
            with ExitStack() as opened:
                try:
                    outcome = self._http.send(_request(self._http, call, opened))
                except httpx.TransportError as error:
                    outcome = error
            try:
                pause = talk.send(outcome)
            except StopIteration as ended:
                answer: T = ended.value
                return answer

    def pages(self, call: Call[list[T]]) -> Iterator[T]:
        """Everything that a list goes on with, page by page."""
        following: Call[list[T]] | None = call
        while following is not None:
            links: list[str] = []
            yield from self(_noting(following, links))
            following = _next(following, links)

    def events(self, job: str, after: int = 0) -> Iterator[Event]:
        """What happens to a job from the event `after` on, until it ends; a lost connection is taken up again."""
        reader = EventReader(after)
        for attempt in range(RETRIES + 1):
            try:
                headers = {"Last-Event-ID": str(reader.position)}
                with self._http.stream("GET", f"{API}/jobs/{job}/events", headers=headers) as response:
                    if response.is_error:
                        response.read()
                    raise_for(response)
                    for line in response.iter_lines():
                        yield from reader.feed(line)
            except httpx.TransportError as error:
                if attempt == RETRIES:
                    raise unreachable(self._http.base_url, error) from None
                time.sleep(seconds(attempt))
            else:
                return

    def wait(self, job: str, told: Callable[[Event], None] = lambda event: None) -> JobOut:
        """Wait until a job ended, telling its events. Raises what it failed with; Cancelled when it was cancelled."""
        for event in self.events(job):
            told(event)
        return _outcome(self(jobs.get(job)))

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """The same on an event loop: `async with AsyncClient(url) as graft: await graft(artifacts.get("acme/support"))`."""

    def __init__(self, url: str, token: str | None = None, *, timeout: httpx.Timeout = TIMEOUT) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(token), timeout=timeout, follow_redirects=True)

    async def __call__(self, asked: Call[T] | Steps[T]) -> T:
        """See `Client.__call__`."""
        if isinstance(asked, Call):
            return await self._send(asked)
        answer: Any = None
        while True:
            try:
                call = asked.send(answer)
            except StopIteration as ended:
                result: T = ended.value
                return result
            answer = await self._send(call)

    async def _send(self, call: Call[T]) -> T:
        talk = exchange(call, self._http.base_url)
        pause = next(talk)
        while True:
            await asyncio.sleep(pause)
            outcome: Outcome
            with ExitStack() as opened:
                try:
                    outcome = await self._http.send(_request(self._http, call, opened))
                except httpx.TransportError as error:
                    outcome = error
            try:
                pause = talk.send(outcome)
            except StopIteration as ended:
                answer: T = ended.value
                return answer

    async def pages(self, call: Call[list[T]]) -> AsyncIterator[T]:
        """See `Client.pages`."""
        following: Call[list[T]] | None = call
        while following is not None:
            links: list[str] = []
            for item in await self(_noting(following, links)):
                yield item
            following = _next(following, links)

    async def events(self, job: str, after: int = 0) -> AsyncIterator[Event]:
        """See `Client.events`."""
        reader = EventReader(after)
        for attempt in range(RETRIES + 1):
            try:
                headers = {"Last-Event-ID": str(reader.position)}
                async with self._http.stream("GET", f"{API}/jobs/{job}/events", headers=headers) as response:
                    if response.is_error:
                        await response.aread()
                    raise_for(response)
                    async for line in response.aiter_lines():
                        for event in reader.feed(line):
                            yield event
            except httpx.TransportError as error:
                if attempt == RETRIES:
                    raise unreachable(self._http.base_url, error) from None
                await asyncio.sleep(seconds(attempt))
            else:
                return

    async def wait(self, job: str, told: Callable[[Event], None] = lambda event: None) -> JobOut:
        """See `Client.wait`."""
        async for event in self.events(job):
            told(event)
        return _outcome(await self(jobs.get(job)))

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _headers(token: str | None) -> dict[str, str]:
    agent = {"User-Agent": f"graftwork/{__version__}"}
    return agent if not token else {**agent, "Authorization": f"Bearer {token}"}


def _request(http: httpx.Client | httpx.AsyncClient, call: Call[Any], opened: ExitStack) -> httpx.Request:
    if httpx.URL(call.path).is_absolute_url:  # another host, which is not told the token
        bare = {"timeout": http.timeout.as_dict()}
        return httpx.Request(call.method, call.path, content=call.content, headers=call.headers, extensions=bare)
    files = [
        (field, (name, opened.enter_context(path.open("rb")), "application/octet-stream"))
        for field, (name, path) in call.files
    ]
    return http.build_request(
        call.method,
        call.path,
        params=call.query or None,
        json=call.json,
        content=call.content,
        data=dict(call.form) if call.form is not None else None,
        files=files or None,
        headers=call.headers,
    )


def _noting(call: Call[T], links: list[str]) -> Call[T]:
    """`call`, whose link to the next page ends up in `links`."""

    def read(response: httpx.Response) -> T:
        links.extend([response.links["next"]["url"]] if "next" in response.links else [])
        return call.read(response)

    return Call(call.method, call.path, read, call.query, call.json, headers=call.headers)


def _next(call: Call[T], links: list[str]) -> Call[T] | None:
    if not links:
        return None
    url = httpx.URL(links[0])
    return Call(call.method, url.path, call.read, dict(url.params), headers=call.headers)


def _outcome(job: JobOut) -> JobOut:
    if job.state == "cancelled":
        raise Cancelled(what=f"The {job.kind} job {job.id}")
    if job.state == "failed" and job.error is not None:
        raise failure(job.error.code, job.error.message, {})
    return job
