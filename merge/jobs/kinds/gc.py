"""Garbage collection as a job."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from graftwork.merge.jobs.kind import Kind, Order
from graftwork.merge.jobs.work import Work
from graftwork.registry.gc import collect


class CollectOrder(Order):
    """Whether to delete, or only say what would go; and how long bytes stay that nobody uses."""

    apply: bool = False
    grace_seconds: float | None = Field(default=None, ge=0)


def run(work: Work, order: CollectOrder) -> dict[str, Any]:
    """Collect and return the report's totals; what goes, or would, is in the job's log."""
    grace = work.settings.gc_grace_seconds if order.grace_seconds is None else order.grace_seconds
    idle = work.settings.upload_seconds
    report = collect(work.registry, apply=order.apply, grace=grace, idle=idle, check=work.check)
    for step, tally in report.steps.items():
        for finding in tally.findings:
            work.log(f"{step} {finding.name} ({finding.size} bytes): {finding.why}")
    totals = {step: {"count": tally.count, "bytes": tally.size} for step, tally in report.steps.items()}
    return {"applied": report.applied, "grace_seconds": grace, "freed_bytes": report.freed, **totals}


KIND = Kind(name="gc", payload=CollectOrder, run=run, for_admins=True)
