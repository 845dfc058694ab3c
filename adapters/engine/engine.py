"""An embedded inference engine: one base model, many adapters, one forward for all of their requests."""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from graftwork.adapters.attach import Attachments
from graftwork.adapters.engine.batch import Piece
from graftwork.adapters.engine.cache import KeyValueCache
from graftwork.adapters.engine.checkpoint import Checkpoint, load_checkpoint, require_packable
from graftwork.adapters.engine.conformance import PROMPTS, expected_logits, prompts, require_conformance
from graftwork.adapters.engine.runner import Runner
from graftwork.adapters.engine.sampling import Sampler, choose
from graftwork.adapters.engine.scheduler import Scheduler, Work, adapter_rows
from graftwork.adapters.engine.sequence import Chunk, Generation, Request, Sequence
from graftwork.adapters.engine.text import TextStream
from graftwork.adapters.engine.turn import Turn
from graftwork.adapters.pool import Resident
from graftwork.adapters.residency import Residency
from graftwork.errors import AdapterProbeFailed, GraftworkError, InvalidRequest, OperationFailed, Overloaded
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
        # One place more than sequences run, so that a probe never waits for one of them to end.
        cache = KeyValueCache(settings.max_sequences + 1, max(self.max_tokens, *PROMPTS))
        attachments = Attachments(model, settings.adapter_rank_rows)
        self._runner = Runner(model, cache, attachments)
        require_conformance(self._runner, expected, checkpoint.folder)
        self.residency = Residency(attachments, self._probe, base_name=checkpoint.name)
        self._scheduler = Scheduler(
            cache,
            max_running=settings.max_sequences,
            max_waiting=settings.max_queue,
            prefill_tokens=settings.prefill_tokens,
        )
        self._vocabulary = checkpoint.vocabulary
        self._end_ids = checkpoint.end_ids
        self._turn = Turn()
        self._admission = threading.Lock()
        self._closed = False
        self._stopping = False
        self._attention = threading.Event()
        self._thread: threading.Thread | None = None

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
            pinned = lease.share() if lease is not None else None
        finally:
            if lease is not None:
                lease.release()
        generation = Generation(len(request.prompt_ids), self._attention.set)
        sequence = Sequence(
            tokens=list(request.prompt_ids),
            sampling=request.sampling,
            sampler=Sampler(request.sampling),
            text=TextStream(self.tokenizer, request.sampling.stop),
            generation=generation,
            lease=pinned,
        )
        try:
            self._admit(sequence)
        except Overloaded:
            if pinned is not None:
                pinned.release()
            raise
        self._attention.set()
        return generation

    def step(self) -> bool:
        """Compute one step; False when there was nothing to do."""
        with self._turn:
            self._end_aborted()
            works = self._scheduler.schedule()
            if works:
                self._run(works)
            return bool(works)

    def start(self) -> None:
        """Step in a thread of its own from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="graftwork-engine", daemon=True)
            self._thread.start()

    def close(self, *, drain: bool = False) -> None:
        """Take no more requests, finish (`drain`) or abort the ones there are, and end the thread."""
        with self._admission:
            self._closed = True
        if drain:
            self._drain()
        self._stopping = True
        self._attention.set()
        if self._thread is not None:
            self._thread.join()
        with self._turn:
            for sequence in self._scheduler.all():
                self._end(sequence, Chunk(sequence.text.flush(), (), "abort"))

    def _admit(self, sequence: Sequence) -> None:
        with self._admission:
            if self._closed:
                raise Overloaded(reason="this engine is closed")
            self._scheduler.add(sequence)

    def _loop(self) -> None:
        while not self._stopping:
            self._attention.clear()
            try:
                busy = self.step()
            except Exception as error:
                logger.exception("a step could not be scheduled")
                self._fail(self._scheduler.all(), error)
                continue
            if not busy and not self._stopping:
                self._attention.wait()

    def _drain(self) -> None:
        while pending := self._scheduler.all():
            if self._thread is None:
                self.step()
            else:
                pending[0].generation.wait()

    def _run(self, works: list[Work]) -> None:
        """Compute the works together; should that fail, adapter by adapter, so that only the culprit's requests end."""
        try:
            logits = self._runner.forward([_piece(work) for work in works])
            sampling = [work.sequence for work in works if work.samples]
            tokens = choose(logits, [sequence.sampler for sequence in sampling])
        except Exception as error:
            groups = [list(group) for _, group in itertools.groupby(works, key=adapter_rows)]
            if len(groups) > 1:
                logger.warning("a step failed and is repeated adapter by adapter", exc_info=True)
                for group in groups:
                    self._run(group)
            else:
                logger.exception("a step failed")
                self._fail([work.sequence for work in works], error)
            return
        for work in works:
            work.sequence.computed += work.count
        for sequence, token in zip(sampling, tokens, strict=True):
            self._advance(sequence, token)

    def _advance(self, sequence: Sequence, token: int | None) -> None:
        if token is None:
            self._end(sequence, OperationFailed(what="The generation", reason="the model's logits are not finite"))
            return
        try:
            chunk = sequence.accept(token, self._end_ids)
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
        ended_well = isinstance(event, Chunk) and event.finish_reason != "abort"
        self._scheduler.remove(sequence, scrub=not ended_well)
        if sequence.lease is not None:
            sequence.lease.release()
        sequence.generation.publish(event)

    def _end_aborted(self) -> None:
        for sequence in self._scheduler.all():
            if sequence.generation.aborted:
                self._end(sequence, Chunk(sequence.text.flush(), (), "abort"))

    def _fail(self, sequences: list[Sequence], error: Exception) -> None:
        for sequence in sequences:
            failure = error
            if not isinstance(failure, GraftworkError):
                failure = OperationFailed(what="The generation", reason=f"{type(error).__name__}: {error}")
                failure.__cause__ = error
            self._end(sequence, failure)

    def _probe(self, resident: Resident) -> None:
        """One forward with the adapter, between two steps. Raises AdapterProbeFailed."""
        with self._turn:
            place = self._runner.cache.take()
            assert place is not None  # noqa: S101  the cache has one more place than sequences run
            try:
                prompt = prompts(self._runner.model)[0]
                logits = self._runner.forward([Piece(prompt, 0, place, resident, wants_logits=True)])
                finite = bool(torch.isfinite(logits).all())
            except (RuntimeError, ValueError, TypeError) as error:
                raise AdapterProbeFailed(adapter=resident.digest[:12], reason=str(error)) from error
            finally:
                self._runner.cache.give_back(place, scrub=True)
        if not finite:
            raise AdapterProbeFailed(adapter=resident.digest[:12], reason="its logits are not finite")

    def _check(self, request: Request) -> None:
        prompt, wanted = len(request.prompt_ids), request.sampling.max_tokens
        if not prompt:
            raise InvalidRequest(field="prompt", reason="it has no tokens; at least one is needed")
        if not all(0 <= token < self._vocabulary for token in request.prompt_ids):
            raise InvalidRequest(field="prompt", reason=f"its tokens must be from 0 to {self._vocabulary - 1}")
        if prompt + wanted > self.max_tokens:
            limit = f"this model takes {self.max_tokens} tokens in all (max_model_tokens or its own limit)"
            raise InvalidRequest(field="max_tokens", reason=f"{prompt} prompt tokens and {wanted} new ones; {limit}")
        if request.lease is not None and not self.residency.issued(request.lease):
            raise InvalidRequest(field="lease", reason="it pins an adapter of another engine")


def _piece(work: Work) -> Piece:
    sequence = work.sequence
    assert sequence.place is not None  # noqa: S101  scheduled sequences have a place
    tokens = sequence.tokens[sequence.computed : sequence.computed + work.count]
    resident = sequence.lease.resident if sequence.lease is not None else None
    return Piece(tokens, sequence.computed, sequence.place, resident, wants_logits=work.samples)
