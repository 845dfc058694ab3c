"""An embedded inference engine: one base model, many adapters, one forward for all of their requests."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from graftwork.adapters.attachment.attach import Attachments
from graftwork.adapters.attachment.linears import take_over_linears
from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.engine.batch import Piece
from graftwork.adapters.engine.cache import KeyValueCache
from graftwork.adapters.engine.checkpoint import Checkpoint, load_checkpoint, require_packable
from graftwork.adapters.engine.conformance import (
    expected_logits,
    packed_logits,
    pages_needed,
    prompts,
    require_conformance,
)
from graftwork.adapters.engine.decoder import take_over_decoder
from graftwork.adapters.engine.intake import first_sequence
from graftwork.adapters.engine.probing import passes_in_a_step
from graftwork.adapters.engine.runner import Runner
from graftwork.adapters.engine.sampling import Choice, choose
from graftwork.adapters.engine.scheduler import Scheduler, Work, adapter_rows
from graftwork.adapters.engine.sequence import Chunk, Generation, Request, Sequence
from graftwork.adapters.engine.statistics import Counts, Statistics
from graftwork.adapters.residency.limits import Limits
from graftwork.adapters.residency.probe import require_finite
from graftwork.adapters.residency.residency import Residency
from graftwork.adapters.steps.fairness import Turns, parse_weights
from graftwork.adapters.steps.isolation import as_failure, compute_isolated
from graftwork.adapters.steps.loop import StepLoop
from graftwork.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    GraftworkError,
    InvalidRequest,
    OperationFailed,
    Overloaded,
)
from graftwork.settings import Settings

logger = logging.getLogger(__name__)


class Engine:
    """Serves a base model and the adapters resident beside it.

    `submit` may be called from any thread. After `start`, a thread of its own steps while there is work; without it,
    the caller steps.
    """

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        """Takes over the checkpoint's model. Raises InvalidCheckpoint when packed batches would not compute it."""
        model = checkpoint.model
        self.tokenizer: PreTrainedTokenizerBase = checkpoint.tokenizer
        self.config: PreTrainedConfig = model.config
        self.max_tokens = min(settings.max_model_tokens, checkpoint.max_positions or settings.max_model_tokens)
        """Prompt and completion tokens that one sequence may have."""
        require_packable(checkpoint, self.max_tokens)
        expected = expected_logits(model)
        cache = KeyValueCache(pages_needed(settings.page_tokens), settings.page_tokens)
        attachments = Attachments(model, settings.adapter_rank_rows, checkpoint.heads, take_over_linears(model))
        self._runner = Runner(model, cache, attachments)
        require_conformance(self._runner, expected, checkpoint.folder, self.max_tokens)
        take_over_decoder(model, lambda: packed_logits(self._runner))
        cache.fill(settings.cache_bytes, least=pages_needed(cache.page_tokens))
        self.residency = Residency(attachments, self._probe, base_name=checkpoint.name, limits=Limits.of(settings))
        self._scheduler = Scheduler(
            cache,
            Turns(settings.fair_tokens, parse_weights(settings.tenant_weights)),
            max_running=settings.max_sequences,
            max_waiting=settings.max_queue,
            prefill_tokens=settings.prefill_tokens,
            slice_tokens=2 * settings.fair_tokens,
        )
        self._timeout = settings.request_timeout
        self._counts = Counts()
        self._prefill_tokens = settings.prefill_tokens
        self._vocabulary = checkpoint.vocabulary
        self._end_ids = checkpoint.end_ids
        self.preferred = checkpoint.preferred
        """How the model's makers would have it sampled, where a request does not say."""
        self._aside = threading.Lock()  # whose turn it is to borrow pages
        self._loop = StepLoop("graftwork-engine", self.step, lambda error: self._fail(self._scheduler.all(), error))

    @classmethod
    def load(
        cls,
        folder: Path,
        settings: Settings,
        *,
        name: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
    ) -> Self:
        """An engine for the checkpoint in `folder`. Messages call it `name`; `dtype` None keeps the checkpoint's own.

        Raises InvalidCheckpoint, InvalidSetting.
        """
        return cls(load_checkpoint(folder, name=name or folder.name, device=device, dtype=dtype), settings)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._loop.is_alive

    @property
    def room(self) -> int:
        """Prompt and completion tokens that one sequence may have and the cache has room for."""
        return min(self.max_tokens, self._runner.cache.pages.total * self._runner.cache.page_tokens)

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        """Requests that are being computed."""
        return self._scheduler.running

    def submit(self, request: Request) -> Generation:
        """Queue a request.

        The pin of the request's lease moves into the engine, which releases it when the request ends in whatever way;
        it is released as well when this raises. Raises InvalidRequest for a prompt that is empty, has unknown tokens or
        can never fit, and Overloaded when the queue is full or the engine is closed.
        """
        lease = request.lease
        try:
            self._check(request)
            leases = [lease.share() if lease is not None else None for _ in range(request.n)]
        finally:
            if lease is not None:
                lease.release()
        first = first_sequence(request, leases, self.tokenizer, limit=self._timeout, wake=self._loop.wake)
        try:
            with self._loop.admitting():
                self._scheduler.add(first)
        except Overloaded:
            for pinned in leases:
                if pinned is not None:
                    pinned.release()
            raise
        self._loop.wake()
        return first.generation

    def statistics(self) -> Statistics:
        """What the engine did so far and does now; from any thread."""
        scheduler, pages, counts = self._scheduler, self._runner.cache.pages, self._counts
        return Statistics(
            waiting=scheduler.waiting,
            running=scheduler.running,
            in_flight=Counter(sequence.root for sequence in scheduler.all()),
            pages_total=pages.total,
            pages_used=pages.used,
            pages_idle=pages.idle,
            prompt_tokens=scheduler.prompt_tokens,
            found_tokens=scheduler.found_tokens,
            preemptions=scheduler.preemptions,
            **asdict(counts),
        )

    def step(self) -> bool:
        """Compute one step; False when there was nothing to do."""
        with self._loop.turn:
            self._end_overdue()
            works = self._scheduler.schedule()
            if works:
                self._counts.steps += 1
                self._run(works)
            return bool(works)

    def read(self, prompt_ids: Items[int], resident: Resident | None) -> Tensor:
        """Run a prompt through the model and an adapter without answering it, a chunk between every two steps.

        Gives the mean of its last hidden states, [hidden] float32. Raises InvalidRequest for a prompt that `submit`
        would refuse.
        """
        total = torch.zeros((), dtype=torch.float64)
        for hidden in self._aside_from_steps(prompt_ids, resident, self._runner.hidden):
            total = total + hidden.sum(dim=0, dtype=torch.float64).cpu()
        return (total / len(prompt_ids)).float().to(self._runner.attachments.device)

    def score(self, token_ids: Items[int], resident: Resident | None) -> Tensor:
        """The logarithms of the probabilities of the tokens after the first, each given those before it.

        [tokens - 1] float32 on the CPU; computed as `read` does. Raises InvalidRequest for what `submit` would refuse.
        """
        found: list[Tensor] = []
        following = torch.tensor(token_ids[1:], device=self._runner.attachments.device)
        for logits in self._aside_from_steps(token_ids, resident, self._runner.forward, everywhere=True):
            targets, following = following[: len(logits)], following[len(logits) :]
            known = logits[: len(targets)].float()
            found.append((known.gather(-1, targets[:, None])[:, 0] - known.logsumexp(-1)).cpu())
        return torch.cat(found)

    def _aside_from_steps(
        self,
        prompt_ids: Items[int],
        resident: Resident | None,
        compute: Callable[[Items[Piece]], Tensor],
        *,
        everywhere: bool = False,
    ) -> Iterator[Tensor]:
        """What `compute` makes of each chunk of a prompt, one between every two steps, in borrowed pages."""
        self._check_prompt(prompt_ids, 1)
        with self._aside:
            with self._loop.turn:
                pages = self._scheduler.borrow(self._runner.cache.pages_for(len(prompt_ids)))
            try:
                for start in range(0, len(prompt_ids), self._prefill_tokens):
                    tokens = prompt_ids[start : start + self._prefill_tokens]
                    is_last = start + len(tokens) == len(prompt_ids)
                    piece = Piece(tokens, start, pages, resident, wants_logits=is_last, everywhere=everywhere)
                    with self._loop.turn:
                        computed = compute([piece])
                    yield computed
            finally:
                with self._loop.turn:
                    self._scheduler.give_back(pages)
                self._loop.wake()

    def start(self) -> None:
        """Step in a thread of its own from now on."""
        self._loop.start(self._runner.leave_threads_to_kernels)

    def abort(self, digest: str) -> None:
        """End every request on the adapter, or on a mixture with it, at the next step."""
        for sequence in self._scheduler.all():
            if sequence.lease is not None and digest in sequence.lease.resident.made_of:
                sequence.generation.abort()

    def close(self, *, drain: bool = False) -> None:
        """Take no more requests, finish (`drain`) or abort the ones there are, and end the thread."""
        self._loop.close()
        self.residency.close()
        if drain:
            self._loop.drain(lambda: next((sequence.generation.wait for sequence in self._scheduler.all()), None))
        self._loop.stop()
        with self._loop.turn:
            for sequence in self._scheduler.all():
                self._end(sequence, sequence.abortion())

    def _run(self, works: list[Work]) -> None:
        """Compute the works together; should that fail, only the culprit's requests end."""
        for done, (sampling, choices) in compute_isolated(works, self._compute, _by_adapter, self._fail_works):
            for work in done:
                work.sequence.computed += work.count
                self._counts.computed_tokens += work.count
            for sequence, of_sequence in zip(sampling, choices, strict=True):
                if None not in of_sequence:
                    self._scheduler.publish(sequence)
                for each, choice in zip([sequence, *self._scheduler.fork(sequence)], of_sequence, strict=True):
                    self._advance(each, choice)

    def _compute(self, works: list[Work]) -> tuple[list[Sequence], list[list[Choice | None]]]:
        """The sequences that get a token, and what each of their samplers chooses."""
        logits = self._runner.forward([_piece(work) for work in works])
        sampling = [work.sequence for work in works if work.samples]
        samplers = [[sequence.sampler, *(other.sampler for other in sequence.siblings)] for sequence in sampling]
        return sampling, choose(logits, samplers)

    def _advance(self, sequence: Sequence, choice: Choice | None) -> None:
        if choice is None:
            self._end(sequence, OperationFailed(what="The generation", reason="the model's logits are not finite"))
            return
        self._counts.generated_tokens += 1
        try:
            chunk = sequence.accept(choice.token, self._end_ids, choice.logprob)
        except Exception as error:
            logger.exception("a token could not be turned into text")
            self._fail([sequence], error)
            return
        if chunk.finish_reason is None:
            sequence.generation.publish(chunk)
        else:
            self._end(sequence, chunk)

    def _end(self, sequence: Sequence, event: Chunk | GraftworkError) -> None:
        """Free what the sequence holds, then tell its caller."""
        self._scheduler.remove(sequence, failed=not isinstance(event, Chunk | DeadlineExceeded))
        siblings, sequence.siblings = sequence.siblings, []
        for each in (sequence, *siblings):
            if each.lease is not None:
                each.lease.release()
        self._counts.count(event)
        sequence.generation.publish(event)
        for each in siblings if isinstance(event, Chunk) else []:
            each.generation.publish(each.abortion())

    def _end_overdue(self) -> None:
        """End what its caller gave up, what has lost a sibling to an error, and what is past its deadline."""
        now = time.monotonic()
        for sequence in self._scheduler.all():
            generation = sequence.generation
            if generation.aborted or generation.done:
                self._end(sequence, sequence.abortion())
            elif sequence.deadline <= now:
                self._end(sequence, DeadlineExceeded(seconds=f"{sequence.timeout:g}"))

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        for sequence in sequences:
            self._end(sequence, as_failure(error, "The generation"))

    def _fail_works(self, works: list[Work], error: Exception) -> None:
        self._fail([work.sequence for work in works], error)

    def _probe(self, resident: Resident) -> None:
        """One forward with the adapter, in a step or between two. Raises AdapterProbeFailed."""
        prompt = prompts(self._runner.model)[0]
        runs_soon = self._loop.is_started and self.running > 0 and self._scheduler.has_room
        lease = self.residency.pin(resident.digest) if runs_soon else None
        if lease is not None and passes_in_a_step(self.submit, lease, prompt[0]):
            return
        with self._aside, self._loop.turn:
            pages = self._scheduler.borrow(self._runner.cache.pages_for(len(prompt)))
            piece = Piece(prompt, 0, pages, resident, wants_logits=True)
            try:
                require_finite(resident, lambda: [self._runner.forward([piece])])
            finally:
                self._scheduler.give_back(pages)

    def _check(self, request: Request) -> None:
        self._check_prompt(request.prompt_ids, request.sampling.max_tokens)
        if not all(0 <= token < self._vocabulary for token in request.sampling.logit_bias):
            raise InvalidRequest(field="logit_bias", reason=f"its tokens must be from 0 to {self._vocabulary - 1}")
        if request.lease is not None and not self.residency.issued(request.lease):
            raise InvalidRequest(field="lease", reason="it pins an adapter of another engine")

    def _check_prompt(self, prompt_ids: Items[int], wanted: int) -> None:
        prompt = len(prompt_ids)
        if not prompt:
            raise InvalidRequest(field="prompt", reason="it has no tokens; at least one is needed")
        if not all(0 <= token < self._vocabulary for token in prompt_ids):
            raise InvalidRequest(field="prompt", reason=f"its tokens must be from 0 to {self._vocabulary - 1}")
        most = self.room
        limit = f"this model takes {self.max_tokens} tokens in all (max_model_tokens or its own limit)"
        if prompt + wanted <= self.max_tokens:
            limit = f"the cache has room for {most} (cache_bytes)"
        if prompt >= most:
            raise ContextLengthExceeded(field="prompt", reason=f"it has {prompt} tokens; {limit}")
        if prompt + wanted > most:
            reason = f"{prompt} prompt tokens and {wanted} new ones; {limit}"
            raise ContextLengthExceeded(field="max_tokens", reason=reason)


def _piece(work: Work) -> Piece:
    sequence = work.sequence
    tokens = sequence.tokens[sequence.computed : sequence.computed + work.count]
    resident = sequence.lease.resident if sequence.lease is not None else None
    return Piece(tokens, sequence.computed, sequence.pages, resident, wants_logits=work.samples)


def _by_adapter(works: list[Work]) -> list[list[Work]]:
    return [list(group) for _, group in itertools.groupby(works, key=adapter_rows)]
