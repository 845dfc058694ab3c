"""A merge spread over a Ray cluster: this process measures what spans the model and keeps the journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from graftwork.merge.output.journal import Span
from graftwork.merge.output.writer import OutputFolder
from graftwork.merge.plan.tensor_plan import TensorPlan
from graftwork.merge.run.execute import Report, Run
from graftwork.merge.run.intake import operand_bytes
from graftwork.merge.run.ray.crew import Crew, crew
from graftwork.merge.run.ray.share import Norms, Share
from graftwork.merge.statistics.block_sums import BlockSums

LARGEST_SHARE = 256_000_000
"""Bytes of operands that a worker is given at a time, unless one tensor that is measured whole has more."""
SHARES_EACH = 4
"""Shares for each worker at least, so that a slow one holds nobody up for long."""


@dataclass
class Spread(Run):
    """A run whose norms and whose output are computed by the workers of a cluster."""

    output: OutputFolder
    crew: Crew = field(init=False)

    def go(self) -> Report:
        """Do the same as a run in this process does. Raises what that does, and what `crew` and `Crew.each` raise."""
        with crew(self.plan, self.output.partial) as self.crew:
            return super().go()

    def norms(self, tensors: Sequence[TensorPlan]) -> tuple[BlockSums, BlockSums]:
        """See `Run.norms`; what was measured of a tensor on the way is kept for `write`."""
        before, after = BlockSums(), BlockSums()
        for tensor in tensors:
            before.reserve(tensor.name, tensor.numel)
            after.reserve(tensor.name, tensor.numel)

        def take(norms: Norms) -> None:
            before.by_tensor.update(norms.before)
            after.by_tensor.update(norms.after)
            self.measured.update(norms.measured)

        whole = ([(self.positions[tensor.name], 0, tensor.numel)] for tensor in tensors)
        self._deal("measure", self._shares(whole), take, "norms")
        return before, after

    def write(self, alpha: float) -> None:
        """See `Run.write`; what a worker wrote is put into the journal of this process."""
        journal = self.output.journal
        take: Callable[[list[Span]], None] = (lambda spans: None) if journal is None else journal.add
        self._deal("merge", self._shares(self._left()), take, "write", alpha)

    def _deal(self, stage: str, shares: Sequence[Share], take: Callable[[Any], None], *order: Any) -> None:
        method, *more = order
        with self.stage(stage) as report:
            for share, found in self.crew.each(method, shares, *more, tick=lambda: report(0)):
                take(found)
                report(share.nbytes)

    def _left(self) -> Iterator[list[Span]]:
        """The spans that are not written, together where they need a statistic of their tensor."""
        for position, tensor in enumerate(self.plan.tensors):
            whole = [(position, 0, tensor.numel)] if tensor.numel else []
            spans = whole if tensor.numel <= self.intake.alone else self._cut(position, tensor)
            left = [span for span in spans if not self._is_written(tensor, *span[1:])]
            if self._wanted(tensor) is not None:
                yield left
            else:
                yield from ([span] for span in left)

    def _cut(self, position: int, tensor: TensorPlan) -> list[Span]:
        return [(position, start, stop) for _, start, stop in self._spans(tensor)]

    def _shares(self, groups: Iterable[Sequence[Span]]) -> list[Share]:
        """Groups of spans in order, put together to shares of much the same size."""
        sized = [(group, sum(map(self._nbytes, group))) for group in groups if group]
        limit = min(LARGEST_SHARE, sum(size for _, size in sized) // (SHARES_EACH * self.crew.size))
        shares: list[Share] = []
        spans: list[Span] = []
        filled = 0
        for group, size in sized:
            if spans and filled + size > limit:
                shares.append(self._share(spans, filled))
                spans, filled = [], 0
            spans.extend(group)
            filled += size
        return [*shares, *([self._share(spans, filled)] if spans else [])]

    def _share(self, spans: Sequence[Span], nbytes: int) -> Share:
        names = {self.plan.tensors[position].name for position, _, _ in spans}
        return Share(tuple(spans), {name: self.measured[name] for name in names & self.measured.keys()}, nbytes)

    def _nbytes(self, span: Span) -> int:
        position, start, stop = span
        tensor = self.plan.tensors[position]
        return operand_bytes(tensor) * (stop - start) // tensor.numel
