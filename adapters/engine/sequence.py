"""One request on its way through the engine: what was asked, what its caller sees, and its state between steps."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from graftwork.errors import GraftworkError, InvalidRequest

if TYPE_CHECKING:
    from graftwork.adapters.engine.sampling import Sampler
    from graftwork.adapters.engine.text import TextStream
    from graftwork.adapters.lease import Lease

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to stop. Raises InvalidRequest naming the field that is out of range."""

    max_tokens: int = 16
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 considers every token."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", f"{self.max_tokens} is given; at least 1 is accepted")
        _require(0.0 <= self.temperature <= 100.0, "temperature", f"{self.temperature} is given; 0 to 100 is accepted")
        _require(0.0 < self.top_p <= 1.0, "top_p", f"{self.top_p} is given; above 0 and up to 1 is accepted")
        _require(self.top_k >= 0, "top_k", f"{self.top_k} is given; 0 (every token) or more is accepted")
        in_range = self.seed is None or -(2**63) <= self.seed < 2**63
        _require(in_range, "seed", f"{self.seed} is given; a signed 64-bit whole number is accepted")
        _require(all(self.stop), "stop", "an empty string is given; every stop string needs at least one character")


def _require(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise InvalidRequest(field=field, reason=reason)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt for the base (no lease) or for the adapter that the lease pins. The engine takes the lease over."""

    prompt_ids: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added. The text may lag behind the tokens; the chunk with a finish reason is the last."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation. An end-of-sequence token is among `token_ids` and not in `text`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


Listener = Callable[[Chunk | GraftworkError], None]


class Generation:
    """The caller's end of a request: iterate over its chunks, wait for its result, listen to it, or abort it.

    Any thread may call any method, any number of times; iterating again replays from the first chunk. A request that
    failed raises its error from the iterator and from `result`.
    """

    def __init__(self, prompt_tokens: int, wake: Callable[[], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self._wake = wake
        self._aborted = threading.Event()
        self._changed = threading.Condition()
        self._events: list[Chunk | GraftworkError] = []
        self._done = False
        self._listeners: list[Listener] = []

    @property
    def done(self) -> bool:
        """Whether the last chunk, or the error, is there."""
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
        for position in itertools.count():
            event = self._event(position)
            if isinstance(event, GraftworkError):
                raise event
            yield event
            if event.finish_reason is not None:
                return

    def result(self, timeout: float | None = None) -> Completion:
        """Wait until it is done. Raises the request's error, or TimeoutError after `timeout` seconds."""
        if not self.wait(timeout):
            raise TimeoutError(f"the generation was not done after {timeout} seconds")
        chunks = list(self)
        tokens = [token for chunk in chunks for token in chunk.token_ids]
        reason = chunks[-1].finish_reason
        assert reason is not None  # noqa: S101  the iterator ends only there
        return Completion("".join(chunk.text for chunk in chunks), tokens, reason, self.prompt_tokens, len(tokens))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done, in whatever way; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done, timeout)

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
            self._done = isinstance(event, GraftworkError) or event.finish_reason is not None
            for listener in list(self._listeners):
                self._tell(listener, event)
            self._changed.notify_all()

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


@dataclass(slots=True, eq=False)
class Sequence:
    """A request inside the engine. It keeps its lease, and with it its adapter's rows, from admission to the end."""

    tokens: list[int]
    """The prompt and everything sampled so far."""
    sampling: Sampling
    sampler: Sampler
    text: TextStream
    generation: Generation
    lease: Lease | None
    computed: int = 0
    """How many of `tokens` have their keys and values in the cache."""
    place: int | None = None
    """The cache's place for this sequence, while it runs."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self.generation.prompt_tokens

    @property
    def sampled(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - self.prompt_tokens

    def accept(self, token: int, end_ids: frozenset[int]) -> Chunk:
        """Append a sampled token and say what the caller gets to see of it."""
        self.tokens.append(token)
        if token in end_ids and not self.sampling.ignore_eos:
            return Chunk(self.text.flush(), (token,), "stop")
        text, stopped = self.text.push(token)
        if stopped:
            return Chunk(text, (token,), "stop")
        if self.sampled >= self.sampling.max_tokens:
            return Chunk(text + self.text.flush(), (token,), "length")
        return Chunk(text, (token,))
