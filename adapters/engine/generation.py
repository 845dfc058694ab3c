"""What the caller of a request sees of it: chunks, results, and a way to abort."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from graftwork.errors import GraftworkError

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely the model found a token, before temperature and everything else that sampling does."""

    token: int
    logprob: float
    """Natural logarithm of its probability."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens of this position, as many as were asked for, each with its logarithm; best first."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added to one choice. The text may lag behind the tokens.

    The chunk with a finish reason is the last of its choice.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    index: int = 0
    """Which choice, from 0 up to the request's `n`."""
    logprobs: tuple[Logprob, ...] = ()
    """One for each of `token_ids`, if they were asked for."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished choice. An end-of-sequence token is among `token_ids` and not in `text`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    index: int = 0
    logprobs: tuple[Logprob, ...] = ()


Listener = Callable[[Chunk | GraftworkError], None]


class Generation:
    """The caller's end of a request: iterate over its chunks, wait for its result, listen to it, or abort it.

    Any thread may call any method, any number of times; iterating again replays from the first chunk. A request that
    failed raises its error from the iterator and from `result`. Of several choices the chunks come mixed.
    """

    def __init__(self, prompt_tokens: int, wake: Callable[[], None], choices: int = 1) -> None:
        self.prompt_tokens = prompt_tokens
        self.choices = choices
        self.cached_tokens = 0
        """Prompt tokens that were found in the cache; known once the request has begun."""
        self._wake = wake
        self._aborted = threading.Event()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._ended = threading.Condition(lock)  # who waits for the end is not woken by every token
        self._events: list[Chunk | GraftworkError] = []
        self._unfinished = choices
        self._done = False
        self._listeners: list[Listener] = []

    @property
    def done(self) -> bool:
        """Whether the last chunk of every choice, or the error, is there."""
        return self._done

    @property
    def aborted(self) -> bool:
        """Whether `abort` was called; the engine ends the request at its next step."""
        return self._aborted.is_set()

    def abort(self) -> None:
        """End the request at the engine's next step. Does nothing once it is done."""
        self._aborted.set()
        self._wake()

    def __iter__(self) -> Iterator[Chunk]:
        unfinished = self.choices
        for position in itertools.count():
            event = self._event(position)
            if isinstance(event, GraftworkError):
                raise event
            yield event
            unfinished -= event.finish_reason is not None
            if not unfinished:
                return

    def result(self, timeout: float | None = None) -> Completion:
        """Wait until it is done; its first choice.

        Raises the request's error, or TimeoutError after `timeout` seconds.
        """
        return self.results(timeout)[0]

    def results(self, timeout: float | None = None) -> list[Completion]:
        """Wait until it is done; every choice in order. Raises as `result` does."""
        if not self.wait(timeout):
            raise TimeoutError(f"the generation was not done after {timeout} seconds")
        said: list[list[Chunk]] = [[] for _ in range(self.choices)]
        for chunk in self:
            said[chunk.index].append(chunk)
        return [self._completion(chunks) for chunks in said]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done, in whatever way; False after `timeout` seconds."""
        with self._ended:
            return self._ended.wait_for(lambda: self._done, timeout)

    def add_listener(self, listener: Listener) -> None:
        """Call `listener` with every chunk so far and from now on, in order; the error of a failed request comes last.

        It is called from this thread for what is there already and from the engine's for the rest, and must not block.
        When it raises, as `call_soon_threadsafe` of a closed loop does, it is dropped and the request aborted.
        """
        with self._changed:
            self._listeners.append(listener)
            for event in list(self._events):
                self._tell(listener, event)

    def publish(self, event: Chunk | GraftworkError) -> None:
        """Hand the next chunk, or the error that ends it, to the caller (the engine's side)."""
        with self._changed:
            if self._done:
                return
            self._events.append(event)
            if isinstance(event, GraftworkError):
                self._done = True
            elif event.finish_reason is not None:
                self._unfinished -= 1
                self._done = self._unfinished == 0
            for listener in list(self._listeners):
                self._tell(listener, event)
            self._changed.notify_all()
            if self._done:
                self._ended.notify_all()

    def _completion(self, chunks: list[Chunk]) -> Completion:
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        last = chunks[-1]
        assert last.finish_reason is not None  # noqa: S101  the iterator ends only there
        return Completion(
            text="".join(chunk.text for chunk in chunks),
            token_ids=tokens,
            finish_reason=last.finish_reason,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=len(tokens),
            index=last.index,
            logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
        )

    def _event(self, position: int) -> Chunk | GraftworkError:
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > position)
            return self._events[position]

    def _tell(self, listener: Listener, event: Chunk | GraftworkError) -> None:
        try:
            listener(event)
        except Exception:
            logger.warning("a listener failed, so its request is aborted", exc_info=True)
            self._listeners.remove(listener)
            self.abort()
