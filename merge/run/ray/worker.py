"""The side of a merge on Ray that computes: an actor with the plan and the output's files open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from graftwork.merge.output.journal import Span
from graftwork.merge.output.weight_files import WeightFiles
from graftwork.merge.plan.plan import Plan
from graftwork.merge.run.execute import Run
from graftwork.merge.run.ray.order import Order
from graftwork.merge.run.ray.share import Assignment, Norms, Share
from graftwork.progress import silent


@dataclass(frozen=True, slots=True)
class _Part:
    """The output as far as one share goes."""

    journal: Assignment
    files: WeightFiles

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        self.files.write(tensor, start, data)


class Worker:
    """Does shares of the merge of `order`, whose partial output is in `folder`."""

    def __init__(self, order: Order, folder: Path) -> None:
        self._order = order
        self._folder = folder

    @cached_property
    def _plan(self) -> Plan:
        return self._order.plan()

    @cached_property
    def _files(self) -> WeightFiles:
        files = WeightFiles(self._folder)
        files.open(self._plan.shards)
        return files

    def prepare(self) -> None:
        """Plan and open the output. Raises what `Order.plan` raises."""
        self._files  # noqa: B018  for its effect

    def norms(self, share: Share) -> Norms:
        """The norms of whole tensors, which LiNeS' alpha is found from."""
        run = self._run(Assignment(share), share)
        tensors = [self._plan.tensors[position] for position, _, _ in share.spans]
        before, after = run.norms(tensors)
        return Norms(before.by_tensor, after.by_tensor, run.measured)

    def write(self, share: Share, alpha: float) -> list[Span]:
        """Merge and write a share. Returns its spans once they are on disk."""
        assignment = Assignment(share)
        self._run(assignment, share).write(alpha)
        self._files.sync()
        return assignment.written

    def _run(self, assignment: Assignment, share: Share) -> Run:
        return Run(self._plan, _Part(assignment, self._files), silent, dict(share.measured))
