"""Carry a plan out: statistics where the method asks for them, then one slice after another into the output.

Tensors of up to `Intake.alone` elements are merged by one thread from reading to writing, several small ones in one
task. Larger ones are cut into spans that all threads share, stage by stage, and read anew for each stage, from the
system's cache of files. What is written is recorded in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from graftwork import tracing
from graftwork.errors import IncompatibleModels, NonFiniteTensor
from graftwork.kernels.abs_sum import abs_sum
from graftwork.kernels.all_finite import all_finite
from graftwork.kernels.arrays import on_host
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.output.journal import Span
from graftwork.merge.output.target import Target
from graftwork.merge.output.writer import OutputFolder
from graftwork.merge.plan.plan import Plan, TensorPlan
from graftwork.merge.run.intake import Held, Intake, open_intake, operand_bytes
from graftwork.merge.run.pipeline import AHEAD, Stages, Task, run_pipelines
from graftwork.merge.slices.buffers import HostArray, as_bytes
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.block_sums import BlockSums
from graftwork.merge.statistics.passes import Extent, Measuring, Statistic
from graftwork.progress import Progress
from graftwork.registry.formats.safetensors import DTYPE_BYTES

SMALLEST = 2048
"""Elements that a tensor counts for at least when small ones are put together into a task."""

Work = Callable[[TensorPlan, Slice], None]
"""What is done with each slice of a tensor once its statistic is measured."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured on the way, for the lineage: the alpha of LiNeS where it was found automatically."""

    lines_alpha: float | None = None


def write_tensors(plan: Plan, output: OutputFolder, progress: Progress, run: type[Run]) -> Report:
    """Write every tensor of `plan` into `output`, whose weight files are allocated here; `run` says who computes.

    What the output's journal says was written by a process that was killed is not written again. Raises
    NonFiniteTensor, IncompatibleModels for integer tensors that differ, InputChanged, StorageFull, and whatever
    `progress` raises.
    """
    output.allocate(plan.shards)
    report = run(plan, output, progress).go()
    for source in plan.sources:
        source.check_unchanged()
    return report


@dataclass
class Run:
    """One merge at work; `measured` has the statistics of tensors, by name."""

    plan: Plan
    output: Target
    progress: Progress
    measured: dict[str, Any] = field(default_factory=dict)
    intake: Intake = field(init=False)
    positions: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.intake = open_intake(self.plan)
        self.positions = {tensor.name: position for position, tensor in enumerate(self.plan.tensors)}

    def go(self) -> Report:
        """Measure what spans the model, then write every tensor."""
        merged = [tensor for tensor in self.plan.tensors if tensor.method is not None and tensor.numel > 0]
        self._measure_model(merged)
        alpha = self._find_alpha(merged)
        self.write(alpha)
        measured = self.plan.lines is not None and self.plan.lines.alpha is None
        return Report(alpha if measured else None)

    def write(self, alpha: float) -> None:
        """Merge and write what the journal does not have."""
        self.drive("merge", self._pipelines(self.plan.tensors, partial(self._write, alpha=alpha), record=True))

    def norms(self, tensors: Sequence[TensorPlan]) -> tuple[BlockSums, BlockSums]:
        """The L1 norms by tensor of the plain sum of the deltas, and of the merged delta."""
        before, after = BlockSums(), BlockSums()
        for tensor in tensors:
            before.reserve(tensor.name, tensor.numel)
            after.reserve(tensor.name, tensor.numel)
        self.drive("measure", self._pipelines(tensors, partial(self._add_norms, before=before, after=after)))
        return before, after

    def drive(self, stage: str, pipelines: Iterable[Stages]) -> None:
        """Run pipelines to their end, telling how far the stage is."""
        with self.stage(stage) as report:
            run_pipelines(pipelines, threads=self.plan.threads, report=report)

    @contextmanager
    def stage(self, stage: str) -> Iterator[Callable[[int], None]]:
        """Tells the progress of a stage: what it yields is called with every count of bytes that are done."""
        total = sum(map(operand_bytes, self.plan.tensors))
        done = 0
        self.progress(stage, 0, total)

        def report(count: int) -> None:
            nonlocal done
            done = min(done + count, total)
            self.progress(stage, done, total)

        with tracing.span(tracing.PASS, {tracing.STAGE: stage}):
            yield report
        self.progress(stage, total, total)

    def _wanted(self, tensor: TensorPlan) -> Statistic[Any] | None:
        """The statistic of this tensor that was not measured yet."""
        if tensor.numel == 0 or tensor.name in self.measured:
            return None
        return tensor.statistic

    def _measure_model(self, merged: Sequence[TensorPlan]) -> None:
        """The statistic over all tensors, if the method has one; every tensor then has its result."""
        statistics = ((tensor.statistic, tensor) for tensor in merged)
        sharing = [(statistic, tensor) for statistic, tensor in statistics if statistic and statistic.scope == "model"]
        if not sharing:
            return
        statistic = sharing[0][0]
        tensors = [tensor for _, tensor in sharing]
        result = self._recalled("statistic")
        if result is None:
            found: list[Any] = []
            extent = Extent(sum(tensor.numel for tensor in tensors), len(self.plan.models))
            self.drive("measure", [self._whole_model(statistic.measure(extent), tensors, found)])
            result = found[0]
            self._keep("statistic", result)
        self.measured.update((tensor.name, result) for tensor in tensors)

    def _whole_model(self, measuring: Measuring[Any], tensors: Sequence[TensorPlan], found: list[Any]) -> Stages:
        found.append((yield from self._passes(measuring, list(self._bundles(tensors)), None)))

    def _passes(
        self, measuring: Measuring[Any], bundles: Sequence[Sequence[tuple[TensorPlan, int, int]]], held: Held | None
    ) -> Generator[Sequence[Task], None, Any]:
        """Make every pass of a measurement over the spans in the bundles, one task a bundle."""
        while True:
            try:
                visit = next(measuring)
            except StopIteration as finished:
                return finished.value
            chosen = [
                [span for span in bundle if visit.only is None or span[1] <= visit.only < span[2]] for bundle in bundles
            ]
            observe = partial(self._observe, observe=visit.observe, only=visit.only, held=held)
            yield [partial(observe, bundle) for bundle in chosen if bundle]

    def _observe(
        self,
        bundle: Sequence[tuple[TensorPlan, int, int]],
        *,
        observe: Callable[[Slice], None],
        only: int | None,
        held: Held | None,
    ) -> int:
        for tensor, start, stop in bundle:
            if only is not None:
                start, stop = only, min(only + self.intake.step(tensor), stop)
            elif held is None:
                self._look_ahead(tensor, stop)
            for piece in self.intake.slices(tensor, start, stop, held):
                observe(piece)
        return 0

    def _find_alpha(self, merged: Sequence[TensorPlan]) -> float:
        """The alpha of LiNeS: given, or (|sum_t tau_t|_1 / |tau_merged|_1) / T over the whole model."""
        lines = self.plan.lines
        if lines is None:
            return 1.0
        if lines.alpha is not None:
            return lines.alpha
        known: float | None = self._recalled("alpha")
        if known is not None:
            return known
        before, after = self.norms(merged)
        ratio = before.total() / after.total() if after.total() > 0 else 1.0
        self._keep("alpha", ratio / len(self.plan.models))
        return ratio / len(self.plan.models)

    def _add_norms(self, tensor: TensorPlan, piece: Slice, *, before: BlockSums, after: BlockSums) -> None:
        """L1 norms of the plain sum of the deltas and of the merged delta, both evaluated against a base of zeros."""
        buffers, like = self.intake.buffers, piece.against_base()
        zeros = buffers.array("zeros", "F32", piece.size, like)
        zeros[...] = 0
        deltas = []
        for position, values in enumerate(piece.inputs):
            delta = buffers.array(f"delta {position}", "F32", piece.size, like)
            weighted_sum(delta, (values, piece.against_base()), (1.0, -1.0))
            deltas.append(delta)
        result = buffers.array("delta out", "F32", piece.size, like)
        weighted_sum(result, deltas, [1.0] * len(deltas))
        before.put(tensor.name, piece.offset, abs_sum(result))
        differences = Slice(piece.tensor, piece.offset, zeros, tuple(deltas), piece.seed, piece.shape)
        tensor.method.combine(result, differences, self.measured.get(tensor.name), 1.0)
        after.put(tensor.name, piece.offset, abs_sum(result))

    def _recalled(self, key: str) -> Any:
        return None if self.output.journal is None else self.output.journal.result(key)

    def _keep(self, key: str, result: Any) -> None:
        if self.output.journal is not None:
            self.output.journal.keep(key, result)

    def _pipelines(self, tensors: Iterable[TensorPlan], work: Work, *, record: bool = False) -> Iterator[Stages]:
        """Measure and then work on every tensor; with `record` those in the journal are left out, others put in."""
        batch: list[TensorPlan] = []
        filled = 0
        for tensor in tensors:
            if record and self._is_written(tensor, 0, tensor.numel):
                continue
            if tensor.numel > self.intake.alone:
                yield self._spread(tensor, work, record=record)
                continue
            self.intake.prefetch(tensor, 0, tensor.numel)
            batch.append(tensor)
            filled += max(tensor.numel, SMALLEST)
            if filled >= self.intake.span:
                yield self._together(batch, work, record=record)
                batch, filled = [], 0
        if batch:
            yield self._together(batch, work, record=record)

    def _together(self, tensors: Sequence[TensorPlan], work: Work, *, record: bool) -> Stages:
        yield [partial(self._alone, tensors, work, record=record)]

    def _alone(self, tensors: Sequence[TensorPlan], work: Work, *, record: bool) -> int:
        """Everything that is to be done for these tensors, in the calling thread."""
        for tensor in tensors:
            statistic = self._wanted(tensor)
            held = None if statistic is None else self._measure_alone(statistic, tensor)
            for piece in self.intake.slices(tensor, 0, tensor.numel, held):
                work(tensor, piece)
        if record:
            self._record((self.positions[tensor.name], 0, tensor.numel) for tensor in tensors)
        return sum(map(operand_bytes, tensors))

    def _measure_alone(self, statistic: Statistic[Any], tensor: TensorPlan) -> Held | None:
        """Measure a tensor in the calling thread. Returns what was read for it, unless it took no pass."""
        measuring = statistic.measure(self._extent(tensor, resident=True))
        held = None
        while True:
            try:
                visit = next(measuring)
            except StopIteration as finished:
                self.measured[tensor.name] = finished.value
                return held
            held = held or self.intake.hold_alone(tensor)
            self._observe([(tensor, 0, tensor.numel)], observe=visit.observe, only=visit.only, held=held)

    def _spread(self, tensor: TensorPlan, work: Work, *, record: bool) -> Stages:
        """The stages of a large tensor: read it if it is to be held, measure it, work on its spans."""
        statistic = self._wanted(tensor)
        cached = self.intake.is_cached(tensor)
        held = None if statistic is None or cached else self.intake.reserve(tensor)
        spans = list(self._spans(tensor))
        if held is not None:
            yield [partial(self._fill, held, *span) for span in spans]
        if statistic is not None:
            extent = self._extent(tensor, resident=cached or held is not None)
            bundles = [[span] for span in spans]
            self.measured[tensor.name] = yield from self._passes(statistic.measure(extent), bundles, held)
        if record:
            spans = [span for span in spans if not self._is_written(*span)]
        yield [partial(self._work, *span, work, held, record=record) for span in spans]
        if held is not None:
            del held
            self.intake.release(tensor)

    def _extent(self, tensor: TensorPlan, *, resident: bool) -> Extent:
        return Extent(tensor.numel, len(tensor.inputs), tensor.shape, resident, self.intake.step(tensor))

    def _spans(self, tensor: TensorPlan) -> Iterator[tuple[TensorPlan, int, int]]:
        stride = self.intake.stride(tensor)
        for start in range(0, tensor.numel, stride):
            yield tensor, start, min(start + stride, tensor.numel)

    def _fill(self, held: Held, tensor: TensorPlan, start: int, stop: int) -> int:
        self._look_ahead(tensor, stop)
        self.intake.fill(held, tensor, start, stop)
        return 0

    def _work(self, tensor: TensorPlan, start: int, stop: int, work: Work, held: Held | None, *, record: bool) -> int:
        if held is None:
            self._look_ahead(tensor, stop)
        for piece in self.intake.slices(tensor, start, stop, held):
            work(tensor, piece)
        if record:
            self._record([(self.positions[tensor.name], start, stop)])
        return operand_bytes(tensor) * (stop - start) // tensor.numel

    def _look_ahead(self, tensor: TensorPlan, stop: int) -> None:
        after = stop + AHEAD * self.plan.threads * self.intake.span
        self.intake.prefetch(tensor, after - self.intake.span, after)

    def _bundles(self, tensors: Iterable[TensorPlan]) -> Iterator[Sequence[tuple[TensorPlan, int, int]]]:
        """Spans of tensors, small ones together."""
        bundle: list[tuple[TensorPlan, int, int]] = []
        filled = 0
        for tensor in tensors:
            for span in self._spans(tensor):
                bundle.append(span)
                filled += max(span[2] - span[1], SMALLEST)
                if filled >= self.intake.span:
                    yield bundle
                    bundle, filled = [], 0
        if bundle:
            yield bundle

    def _is_written(self, tensor: TensorPlan, start: int, stop: int) -> bool:
        journal = self.output.journal
        return journal is not None and journal.has(self.positions[tensor.name], start, stop)

    def _record(self, spans: Iterable[Span]) -> None:
        if self.output.journal is not None:
            self.output.journal.add(spans)

    def _write(self, tensor: TensorPlan, piece: Slice, *, alpha: float) -> None:
        if tensor.method is None:
            self._put(tensor, piece, self._copied(tensor, piece))
            return
        lines = self.plan.lines
        scale = 1.0 if lines is None else lines.coefficient(tensor.block, alpha)
        out = self.intake.output(tensor, piece)
        tensor.method.combine(out, piece, self.measured.get(tensor.name), scale)
        self.intake.deliver(out, tensor, partial(self._check_and_put, tensor, piece))

    def _check_and_put(self, tensor: TensorPlan, piece: Slice, out: HostArray) -> None:
        if not all_finite(out):
            raise self._blame(tensor, piece, out)
        self._put(tensor, piece, out)

    def _put(self, tensor: TensorPlan, piece: Slice, out: HostArray) -> None:
        self.output.write(tensor.name, piece.offset * DTYPE_BYTES[tensor.dtype], as_bytes(out))

    def _copied(self, tensor: TensorPlan, piece: Slice) -> HostArray:
        """The base's integers; the models' must be the same, unless the tensor is a single counter."""
        ours = on_host(piece.against_base())
        for operand, theirs in zip(tensor.inputs, piece.inputs, strict=True):
            if tensor.numel > 1 and not np.array_equal(as_bytes(ours), as_bytes(on_host(theirs))):
                reason = f"the tensor {tensor.name!r} is {tensor.dtype}, which cannot be merged, and its values differ"
                labels = [self.plan.sources[side.source].label for side in (operand, tensor.operands[0])]
                raise IncompatibleModels(model=labels[0], other=labels[1], reason=reason)
        return ours

    def _blame(self, tensor: TensorPlan, piece: Slice, out: Array) -> NonFiniteTensor:
        """Name the input that holds NaN or infinite values, or the output, where a sum overflows its dtype."""
        arrays = [*([] if piece.base is None else [piece.base]), *piece.inputs]
        for operand, array in zip(tensor.operands, arrays, strict=True):
            if count := _count_non_finite(array):
                label = self.plan.sources[operand.source].label
                return NonFiniteTensor(tensor=tensor.name, path=label, count=count)
        label = f"the merged model (in {tensor.dtype})"
        return NonFiniteTensor(tensor=tensor.name, path=label, count=_count_non_finite(out))


def _count_non_finite(array: Array) -> int:
    return int(np.count_nonzero(~np.isfinite(on_host(array).astype(np.float32))))
