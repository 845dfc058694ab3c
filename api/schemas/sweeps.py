"""Sweeps as they are asked for."""

from __future__ import annotations

from pydantic import Field

from graftwork.merge.jobs.kinds.sweep import SweepOrder


class SweepRequest(SweepOrder):
    """A sweep to queue."""

    priority: int = Field(default=0, ge=-100, le=100, description="higher ones run first")
