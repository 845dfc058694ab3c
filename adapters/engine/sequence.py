"""One request on its way through the engine: what was asked, and its state between steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graftwork.adapters.engine.generation import Chunk, Completion, FinishReason, Generation, Listener, Logprob
from graftwork.errors import InvalidRequest

if TYPE_CHECKING:
    from graftwork.adapters.engine.pages import Key
    from graftwork.adapters.engine.sampling import Sampler
    from graftwork.adapters.engine.text import TextStream
    from graftwork.adapters.residency.lease import Lease

__all__ = [
    "Chunk",
    "Completion",
    "FinishReason",
    "Generation",
    "Listener",
    "Logprob",
    "Request",
    "Sampling",
    "Sequence",
]

MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 128


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
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest one are left out."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token that was generated before."""
    frequency_penalty: float = 0.0
    """Taken from the logit of every token as often as it was generated before."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens of the prompt and of those generated before, multiplies negative ones
    (arXiv:1909.05858)."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, like an end-of-sequence token but whatever `ignore_eos` says."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of tokens."""
    logprobs: int | None = None
    """With how many of the likeliest tokens beside it each token's logarithm comes; None is without."""

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 1, "max_tokens", f"{self.max_tokens} is given; at least 1 is accepted")
        _require(0.0 <= self.temperature <= 100.0, "temperature", f"{self.temperature} is given; 0 to 100 is accepted")
        _require(0.0 < self.top_p <= 1.0, "top_p", f"{self.top_p} is given; above 0 and up to 1 is accepted")
        _require(self.top_k >= 0, "top_k", f"{self.top_k} is given; 0 (every token) or more is accepted")
        in_range = self.seed is None or -(2**63) <= self.seed < 2**63
        _require(in_range, "seed", f"{self.seed} is given; a signed 64-bit whole number is accepted")
        _require(all(self.stop), "stop", "an empty string is given; every stop string needs at least one character")
        _require(0.0 <= self.min_p <= 1.0, "min_p", f"{self.min_p} is given; 0 to 1 is accepted")
        for name, penalty in (
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ):
            _require(-2.0 <= penalty <= 2.0, name, f"{penalty} is given; -2 to 2 is accepted")
        above = 0 < self.repetition_penalty < math.inf
        _require(above, "repetition_penalty", f"{self.repetition_penalty} is given; a number above 0 is accepted")
        biases = self.logit_bias.values()
        _require(all(map(math.isfinite, biases)), "logit_bias", "a bias is not finite")
        in_range = self.logprobs is None or 0 <= self.logprobs <= MAX_TOP_LOGPROBS
        _require(in_range, "logprobs", f"{self.logprobs} is given; 0 to {MAX_TOP_LOGPROBS} is accepted")


def _require(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise InvalidRequest(field=field, reason=reason)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt for the base (no lease) or for the adapter that the lease pins. The engine takes the lease over."""

    prompt_ids: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    lease: Lease | None = None
    n: int = 1
    """Choices, drawn independently. With a seed, choice i is what the seed plus i gives a request of its own."""
    tenant: str = ""
    """On whose behalf; the engine is shared fairly between tenants."""
    timeout: float | None = None
    """Seconds from being queued until it must be done; None for the engine's own limit."""

    def __post_init__(self) -> None:
        _require(1 <= self.n <= MAX_CHOICES, "n", f"{self.n} is given; 1 to {MAX_CHOICES} is accepted")
        fits = self.timeout is None or 0 < self.timeout < math.inf
        _require(fits, "timeout", f"{self.timeout} is given; a number of seconds above 0 is accepted")


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of a request inside the engine.

    It keeps its lease, and with it its adapter, from admission to the end.
    """

    tokens: list[int]
    """The prompt and everything sampled so far."""
    sampling: Sampling
    sampler: Sampler
    text: TextStream
    generation: Generation
    lease: Lease | None
    tenant: str = ""
    timeout: float = math.inf
    """Seconds from `queued` on."""
    queued: float = field(default_factory=time.monotonic)
    """When it came, by the monotonic clock."""
    index: int = 0
    """Which choice of the request."""
    siblings: list[Sequence] = field(default_factory=list)
    """The request's other choices, until the prompt is computed: then they go their own ways."""
    computed: int = 0
    """How many of `tokens` have their keys and values in `pages`."""
    pages: list[int] = field(default_factory=list)
    """The pages of the cache that hold them, in order."""
    keys: list[Key] = field(default_factory=list)
    """The keys of those pages that are full and known."""
    turn: int = 0
    """Tokens computed since it got its place."""

    @property
    def root(self) -> str:
        """Whose keys and values these are: the adapter's digest; empty for the base, of which a cache has one."""
        return "" if self.lease is None else self.lease.resident.digest

    @property
    def deadline(self) -> float:
        """When it must be done, by the monotonic clock."""
        return self.queued + self.timeout

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self.generation.prompt_tokens

    @property
    def sampled(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """How many tokens have to be computed before the next is sampled."""
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        """Whether only its newest token has to be computed."""
        return self.computed > 0 and self.remaining == 1

    def abortion(self) -> Chunk:
        """The last chunk of one that is ended from outside."""
        return Chunk(self.text.flush(), (), "abort", self.index)

    def accept(self, token: int, end_ids: frozenset[int], logprob: Logprob | None = None) -> Chunk:
        """Append a sampled token and say what the caller gets to see of it."""
        self.tokens.append(token)
        self.sampler.record(token)
        logprobs = () if logprob is None else (logprob,)
        if (token in end_ids and not self.sampling.ignore_eos) or token in self.sampling.stop_token_ids:
            return Chunk(self.text.flush(), (token,), "stop", self.index, logprobs)
        text, stopped = self.text.push(token)
        if stopped:
            return Chunk(text, (token,), "stop", self.index, logprobs)
        if self.sampled >= self.sampling.max_tokens:
            return Chunk(text + self.text.flush(), (token,), "length", self.index, logprobs)
        return Chunk(text, (token,), None, self.index, logprobs)
