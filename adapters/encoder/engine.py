"""An embedded engine for encoders: texts of many adapters become vectors or classifications in one forward."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.encoder.attach import EncoderAttachments
from graftwork.adapters.encoder.batch import Piece
from graftwork.adapters.encoder.checkpoint import EncoderCheckpoint, load_encoder
from graftwork.adapters.encoder.conformance import expected, require_conformance, texts
from graftwork.adapters.encoder.heads import Heads
from graftwork.adapters.encoder.labels import OTHER_TASKS, Labels, read_labels, task_of
from graftwork.adapters.encoder.pooling import Pooling
from graftwork.adapters.encoder.positions import positions_of
from graftwork.adapters.encoder.queue import FairQueue
from graftwork.adapters.encoder.reading import Reader
from graftwork.adapters.encoder.requests import Encoding, Job, Request, Work
from graftwork.adapters.encoder.runner import Runner
from graftwork.adapters.residency.limits import Limits
from graftwork.adapters.residency.probe import require_finite
from graftwork.adapters.residency.residency import Residency
from graftwork.adapters.steps.fairness import Turns, parse_weights
from graftwork.adapters.steps.isolation import as_failure, compute_isolated
from graftwork.adapters.steps.loop import StepLoop
from graftwork.errors import (
    Cancelled,
    DeadlineExceeded,
    GraftworkError,
    InvalidCheckpoint,
    InvalidRequest,
    OperationFailed,
    Overloaded,
)
from graftwork.settings import Settings

logger = logging.getLogger(__name__)


class EncoderEngine:
    """Serves an encoder and the adapters resident beside it.

    `submit` may be called from any thread. After `start`, a thread of its own steps while there is work; without it,
    the caller steps.
    """

    def __init__(
        self, checkpoint: EncoderCheckpoint, settings: Settings, *, headless: str = "no classification head"
    ) -> None:
        """Takes over the checkpoint's model; `headless` is what it has where it has no classification head.

        Raises InvalidCheckpoint when packed batches would not compute it.
        """
        self.tokenizer: PreTrainedTokenizerBase = checkpoint.tokenizer
        self.config: PreTrainedConfig = checkpoint.model.config
        self.pooling: Pooling = checkpoint.pooling
        positions = positions_of(checkpoint.trunk)
        bounds = (settings.max_model_tokens, positions.limit, checkpoint.pooling.max_tokens)
        self.max_tokens = min(bound for bound in bounds if bound is not None)
        """Tokens that one text may have."""
        self.reader = Reader(
            checkpoint.tokenizer, self.max_tokens, checkpoint.vocabulary, checkpoint.pooling.lower_case
        )
        wanted = expected(checkpoint, positions)
        self.width = wanted.vectors[0].shape[0]
        """Numbers of a text's vector."""
        self._heads = Heads(checkpoint)
        attachments = EncoderAttachments(checkpoint, self._heads, settings.adapter_rank_rows)
        self._runner = Runner(checkpoint, positions, attachments, self._heads)
        require_conformance(self._runner, wanted, checkpoint)
        self._probes = texts(checkpoint, positions)
        self.residency = Residency(attachments, self._probe, base_name=checkpoint.name, limits=Limits.of(settings))
        self._checkpoint = checkpoint
        self._headless = headless
        self._budget = settings.encoder_tokens
        turns = Turns(settings.fair_tokens, parse_weights(settings.tenant_weights))
        self._queue = FairQueue(turns, max_waiting=settings.max_queue)
        self._jobs: dict[Job, None] = {}  # all that have not ended, oldest first
        self._living = threading.Lock()
        self._loop = StepLoop("graftwork-encoder", self.step, lambda error: self._fail(self._live(), error))

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

        A classification head that packed batches would not compute as transformers does is left out. Raises
        InvalidCheckpoint, InvalidSetting.
        """
        name = name or folder.name
        try:
            return cls(load_encoder(folder, name=name, device=device, dtype=dtype), settings)
        except InvalidCheckpoint as error:
            without = load_encoder(folder, name=name, device=device, dtype=dtype, with_head=False)
            engine = cls(without, settings, headless="no classification head that the embedded engine can compute")
            logger.warning("%s is served without its classification head: %s", name, error)
            return engine

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._loop.is_alive

    @property
    def waiting(self) -> int:
        """Requests with texts that were not computed yet."""
        return self._queue.waiting

    @property
    def running(self) -> int:
        """Requests that are being computed."""
        return len(self._live()) - self._queue.waiting

    def labels(self, resident: Resident | None, folder: Path | None = None) -> Labels:
        """What a classification by the adapter (None: the base) answers; `folder` is the adapter's own.

        Raises InvalidRequest when neither the checkpoint nor the adapter has a whole classification head.
        """
        count = self._heads.labels(resident)
        missing = self._heads.missing(resident)
        if folder is not None and (task := task_of(folder)) in OTHER_TASKS:
            raise InvalidRequest(field="model", reason=f"it cannot classify texts: its task_type is {task}")
        if not count or missing:
            lacks = f"no weights for {', '.join(missing)}" if count else self._headless
            who = "it has" if resident is None else "the adapter and its base have"
            raise InvalidRequest(field="model", reason=f"it cannot classify: {who} {lacks}")
        return read_labels(folder, count, read_labels(self._checkpoint.folder, self._heads.labels(None)))

    def submit(self, request: Request) -> Encoding:
        """Queue a request.

        The pin of the request's lease moves into the engine, which releases it when the request ends in whatever way;
        it is released as well when this raises. Raises InvalidRequest for no texts, one that is empty or too long, or
        a classification without a head, and Overloaded when the queue is full or the engine is closed.
        """
        lease = request.lease
        try:
            self._check(request)
            pinned = lease.share() if lease is not None else None
        finally:
            if lease is not None:
                lease.release()
        encoding = Encoding(sum(map(len, request.texts)), self._loop.wake)
        try:
            self._admit(Job(request, encoding, pinned))
        except Overloaded:
            if pinned is not None:
                pinned.release()
            raise
        self._loop.wake()
        return encoding

    def step(self) -> bool:
        """Compute one batch; False when there was nothing to do."""
        with self._loop.turn:
            self._end_stale()
            works = self._queue.take(self._budget)
            if works:
                self._run(works)
            return bool(works)

    def start(self) -> None:
        """Step in a thread of its own from now on."""
        self._loop.start()

    def abort(self, digest: str) -> None:
        """End every request on the adapter, or on a mixture with it, at the next step."""
        for job in self._live():
            if job.lease is not None and digest in job.lease.resident.made_of:
                job.encoding.abort()

    def close(self, *, drain: bool = False) -> None:
        """Take no more requests, finish (`drain`) or refuse the ones there are, and end the thread."""
        self._loop.close()
        self.residency.close()
        if drain:
            self._loop.drain(self._pending)
        self._loop.stop()
        with self._loop.turn:
            self._fail(self._live(), Overloaded(reason="this engine is closed"))

    def _admit(self, job: Job) -> None:
        with self._loop.admitting(), self._living:
            self._queue.add(job)
            self._jobs[job] = None

    def _live(self) -> list[Job]:
        with self._living:
            return list(self._jobs)

    def _pending(self) -> Callable[[], object] | None:
        jobs = self._live()
        return partial(wait, [job.encoding for job in jobs]) if jobs else None

    def _run(self, works: list[Work]) -> None:
        """Compute the works together; should that fail, only the culprit's requests end."""
        for done, results in compute_isolated(works, self._compute, _by_adapter, self._fail_works):
            for work, result in zip(done, results, strict=True):
                work.job.results[work.place] = result
            for job in dict.fromkeys(work.job for work in done):
                self._end_if_complete(job)

    def _compute(self, works: list[Work]) -> list[Tensor]:
        vectors, logits = self._runner.forward([_piece(work) for work in works])
        return [_result(work, vectors[index], logits, index) for index, work in enumerate(works)]

    def _end_if_complete(self, job: Job) -> None:
        count = len(job.request.texts)
        if len(job.results) < count or job not in self._jobs:
            return
        results = [job.results[place] for place in range(count)]
        if all(bool(torch.isfinite(result).all()) for result in results):
            self._end(job, results)
        else:
            self._end(job, OperationFailed(what="The encoding", reason="what the model computes is not finite"))

    def _end(self, job: Job, outcome: list[Tensor] | GraftworkError) -> None:
        """Free what the job holds, then tell its caller."""
        self._queue.remove(job)
        with self._living:
            del self._jobs[job]
        if job.lease is not None:
            job.lease.release()
        if not job.encoding.set_running_or_notify_cancel():
            return
        if isinstance(outcome, GraftworkError):
            job.encoding.set_exception(outcome)
        else:
            job.encoding.set_result(outcome)

    def _end_stale(self) -> None:
        """End the jobs that nobody waits for any more."""
        for job in self._live():
            if job.late:
                self._end(job, DeadlineExceeded(seconds=round(job.waited, 1)))
            elif job.encoding.cancelled():
                self._end(job, Cancelled(what="The encoding"))

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            self._end(job, as_failure(error, "The encoding"))

    def _fail_works(self, works: list[Work], error: Exception) -> None:
        self._fail(list(dict.fromkeys(work.job for work in works)), error)

    def _probe(self, resident: Resident) -> None:
        """One forward with the adapter, between two steps. Raises AdapterProbeFailed."""

        def compute() -> list[Tensor]:
            vectors, logits = self._runner.forward([Piece(text, resident) for text in self._probes])
            return [vectors, *(logits or [])]

        with self._loop.turn:
            require_finite(resident, compute)

    def _check(self, request: Request) -> None:
        if not request.texts:
            raise InvalidRequest(field="input", reason="it has no text; at least one is needed")
        longest = max(map(len, request.texts))
        if not min(map(len, request.texts)) or longest > self.max_tokens:
            raise InvalidRequest(field="input", reason=f"a text has 1 to {self.max_tokens} tokens for this model")
        if request.lease is not None and not self.residency.issued(request.lease):
            raise InvalidRequest(field="lease", reason="it pins an adapter of another engine")
        if request.purpose == "logits":
            self.labels(None if request.lease is None else request.lease.resident)


def _piece(work: Work) -> Piece:
    lease = work.job.lease
    return Piece(work.tokens, None if lease is None else lease.resident)


def _result(work: Work, vector: Tensor, logits: list[Tensor] | None, index: int) -> Tensor:
    if work.job.request.purpose == "vectors" or logits is None:
        return vector
    return logits[index]


def _by_adapter(works: list[Work]) -> list[list[Work]]:
    groups: dict[Resident | None, list[Work]] = {}
    for work in works:
        groups.setdefault(_piece(work).resident, []).append(work)
    return list(groups.values())
