"""Carry a plan out: statistics where the method asks for them, then one slice after another into the output."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from graftwork.errors import IncompatibleModels, NonFiniteTensor
from graftwork.kernels.abs_sum import abs_sum
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.buffers import Buffers, as_bytes
from graftwork.merge.pipeline import Stages, Task, run_pipelines
from graftwork.merge.plan import Operand, Plan, TensorPlan
from graftwork.merge.slices import Array, Slice, slice_starts
from graftwork.merge.statistics import BlockSums, Extent, Measuring, Statistic
from graftwork.merge.writer import OutputFolder
from graftwork.progress import Progress
from graftwork.registry.formats.safetensors import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured on the way, for the lineage: the alpha of LiNeS where it was found automatically."""

    lines_alpha: float | None = None


def write_tensors(plan: Plan, output: OutputFolder, progress: Progress) -> Report:
    """Write every tensor of `plan` into `output`, whose weight files are allocated here.

    Raises NonFiniteTensor, IncompatibleModels for integer tensors that differ, InputChanged, StorageFull, and whatever
    `progress` raises.
    """
    output.allocate(plan.shards)
    report = _Run(plan, output, progress).go()
    for source in plan.sources:
        source.check_unchanged()
    return report


@dataclass
class _Run:
    plan: Plan
    output: OutputFolder
    progress: Progress
    buffers: Buffers = field(default_factory=Buffers)
    measured: dict[str, Any] = field(default_factory=dict)
    of_model: dict[Statistic[Any], Any] = field(default_factory=dict)

    def go(self) -> Report:
        merged = [tensor for tensor in self.plan.tensors if tensor.method is not None and tensor.numel > 0]
        statistic = next((t.statistic for t in merged if t.statistic and t.statistic.scope == "model"), None)
        if statistic is not None:
            self._drive("measure", [self._measure_model(statistic, merged)], merged)
        alpha = self._find_alpha(merged)
        self._drive("merge", (self._merge(tensor, alpha) for tensor in self.plan.tensors), self.plan.tensors)
        measured = self.plan.lines is not None and self.plan.lines.alpha is None
        return Report(alpha if measured else None)

    def _drive(self, stage: str, pipelines: Iterable[Stages], tensors: Sequence[TensorPlan]) -> None:
        total = sum(operand.tensor.info.nbytes for tensor in tensors for operand in tensor.operands)
        done = 0
        self.progress(stage, 0, total)

        def report(count: int) -> None:
            nonlocal done
            done = min(done + count, total)
            self.progress(stage, done, total)

        run_pipelines(pipelines, threads=self.plan.threads, report=report)
        self.progress(stage, total, total)

    def _merge(self, tensor: TensorPlan, alpha: float) -> Stages:
        """Measure what the method needs of this tensor, then combine its slices."""
        if tensor.method is None:
            yield self._tasks(tensor, self._copy)
            return
        yield from self._measure_tensor(tensor)
        lines = self.plan.lines
        scale = 1.0 if lines is None else lines.coefficient(tensor.block, alpha)
        yield self._tasks(tensor, partial(self._combine, scale=scale))

    def _measure_tensor(self, tensor: TensorPlan) -> Stages:
        statistic = tensor.statistic
        if statistic is None or tensor.numel == 0 or tensor.name in self.measured:
            return
        if statistic.scope == "model":
            self.measured[tensor.name] = self.of_model[statistic]
            return
        measuring = statistic.measure(Extent(tensor.numel, len(tensor.inputs)))
        self.measured[tensor.name] = yield from self._passes(measuring, [tensor])

    def _measure_model(self, statistic: Statistic[Any], tensors: Sequence[TensorPlan]) -> Stages:
        extent = Extent(sum(tensor.numel for tensor in tensors), len(self.plan.models))
        self.of_model[statistic] = yield from self._passes(statistic.measure(extent), tensors)

    def _passes(self, measuring: Measuring[Any], tensors: Sequence[TensorPlan]) -> Generator[Sequence[Task], None, Any]:
        while True:
            try:
                visit = next(measuring)
            except StopIteration as finished:
                return finished.value
            observe = visit.observe
            yield [
                partial(self._observe, tensor, start, observe)
                for tensor in tensors
                for start in self._starts(tensor)
                if visit.only is None or start == visit.only
            ]

    def _find_alpha(self, merged: Sequence[TensorPlan]) -> float:
        """The alpha of LiNeS: given, or (|sum_t tau_t|_1 / |tau_merged|_1) / T over the whole model."""
        lines = self.plan.lines
        if lines is None:
            return 1.0
        if lines.alpha is not None:
            return lines.alpha
        before, after = BlockSums(), BlockSums()
        for tensor in merged:
            before.reserve(tensor.name, tensor.numel)
            after.reserve(tensor.name, tensor.numel)
        self._drive("measure", (self._norms(tensor, before, after) for tensor in merged), merged)
        ratio = before.total() / after.total() if after.total() > 0 else 1.0
        return ratio / len(self.plan.models)

    def _norms(self, tensor: TensorPlan, before: BlockSums, after: BlockSums) -> Stages:
        yield from self._measure_tensor(tensor)
        yield self._tasks(tensor, partial(self._add_norms, before=before, after=after))

    def _add_norms(self, tensor: TensorPlan, start: int, *, before: BlockSums, after: BlockSums) -> None:
        """L1 norms of the plain sum of the deltas and of the merged delta, both evaluated against a base of zeros."""
        piece = self._read(tensor, start)
        zeros = self.buffers.array("zeros", "F32", piece.size)
        zeros.fill(0)
        deltas = []
        for position, values in enumerate(piece.inputs):
            delta = self.buffers.array(f"delta {position}", "F32", piece.size)
            weighted_sum(delta, (values, piece.against_base()), (1.0, -1.0))
            deltas.append(delta)
        result = self.buffers.array("delta out", "F32", piece.size)
        weighted_sum(result, deltas, [1.0] * len(deltas))
        before.put(tensor.name, start, abs_sum(result))
        differences = Slice(piece.tensor, piece.offset, zeros, tuple(deltas), piece.seed)
        tensor.method.combine(result, differences, self.measured.get(tensor.name), 1.0)
        after.put(tensor.name, start, abs_sum(result))

    def _combine(self, tensor: TensorPlan, start: int, *, scale: float) -> None:
        piece = self._read(tensor, start)
        out = self.buffers.array("out", tensor.dtype, piece.size)
        tensor.method.combine(out, piece, self.measured.get(tensor.name), scale)
        if not np.isfinite(abs_sum(out)).all():
            raise self._blame(tensor, piece, out)
        self.output.write(tensor.name, start * DTYPE_BYTES[tensor.dtype], as_bytes(out))

    def _copy(self, tensor: TensorPlan, start: int) -> None:
        """Copy the base's integers; the models' must be the same, unless the tensor is a single counter."""
        first, *others = tensor.operands
        ours = self._values(first, start, "out")
        for operand in others:
            theirs = self._values(operand, start, "in 0")
            if tensor.numel > 1 and not np.array_equal(as_bytes(ours), as_bytes(theirs)):
                reason = f"the tensor {tensor.name!r} is {tensor.dtype}, which cannot be merged, and its values differ"
                labels = [self.plan.sources[side.source].label for side in (operand, first)]
                raise IncompatibleModels(model=labels[0], other=labels[1], reason=reason)
        self.output.write(tensor.name, start * DTYPE_BYTES[tensor.dtype], as_bytes(ours))

    def _observe(self, tensor: TensorPlan, start: int, observe: Callable[[Slice], None]) -> int:
        observe(self._read(tensor, start))
        return 0

    def _tasks(self, tensor: TensorPlan, work: Callable[[TensorPlan, int], None]) -> Sequence[Task]:
        return [partial(self._do, tensor, start, work) for start in self._starts(tensor)]

    def _do(self, tensor: TensorPlan, start: int, work: Callable[[TensorPlan, int], None]) -> int:
        work(tensor, start)
        length = min(self.plan.slice_elements, tensor.numel - start)
        return length * sum(DTYPE_BYTES[operand.dtype] for operand in tensor.operands)

    def _starts(self, tensor: TensorPlan) -> range:
        return slice_starts(tensor.numel, self.plan.slice_elements)

    def _read(self, tensor: TensorPlan, start: int) -> Slice:
        base = None if tensor.base is None else self._values(tensor.base, start, "base")
        inputs = tuple(self._values(operand, start, f"in {position}") for position, operand in enumerate(tensor.inputs))
        return Slice(tensor.name, start, base, inputs, self.plan.recipe.seed)

    def _values(self, operand: Operand, start: int, role: str) -> Array:
        length = min(self.plan.slice_elements, operand.tensor.info.numel - start)
        array = self.buffers.array(role, operand.dtype, length)
        source = self.plan.sources[operand.source]
        source.read(operand.tensor, start * DTYPE_BYTES[operand.dtype], as_bytes(array))
        return array

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
    return int(np.count_nonzero(~np.isfinite(array.astype(np.float32))))
