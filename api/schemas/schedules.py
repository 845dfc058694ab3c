"""Jobs that are made again and again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from graftwork.registry.jobs.cron import Cron
from graftwork.registry.jobs.schedules import CatchUp, Overlap, Recurrence, Schedule

EXAMPLE = {
    "name": "acme/merged",
    "recipe": {
        "merge_method": "linear",
        "models": {
            "query": {"tag": "nightly", "alias": "prod", "kind": "adapter", "base": "acme/base"},
            "parameters": {"weight": 1.0},
        },
    },
    "promote": "prod",
    "gate": {"dataset": "acme/questions", "metric": "exact_match", "threshold": 0.7, "margin": 0.01},
}


class ScheduleChange(BaseModel):
    """When, and what."""

    model_config = ConfigDict(extra="forbid")

    cron: str = Field(
        max_length=128,
        description="minute, hour, day of the month, month, day of the week",
        examples=["30 2 * * *"],
    )
    time_zone: str = Field(default="UTC", max_length=64, examples=["Europe/Berlin"])
    kind: str = Field(max_length=32, description="the kind of the jobs", examples=["merge"])
    payload: dict[str, Any] = Field(description="what the kind of job is told", examples=[EXAMPLE])
    catch_up: CatchUp = Field(default=CatchUp.ONE, description="of the times that were missed, how many get their job")
    overlap: Overlap = Field(
        default=Overlap.SKIP, description="what to do at a time when an earlier job of the schedule has not ended"
    )
    priority: int = Field(default=0, ge=-100, le=100, description="that of the jobs; higher ones run first")

    @property
    def recurrence(self) -> Recurrence:
        """The same for the registry. Raises InvalidRequest for a time that is none."""
        cron = Cron(self.cron, self.time_zone)
        return Recurrence(cron, self.kind, self.payload, self.catch_up, self.overlap, self.priority)


class ScheduleRequest(ScheduleChange):
    """A schedule to add."""

    name: str = Field(max_length=193, examples=["acme/nightly"])
    enabled: bool = Field(default=True, description="false: paused from the beginning")


class ScheduleOut(BaseModel):
    """A schedule; `next_at` says when its time comes unless it is paused."""

    name: str
    cron: str
    time_zone: str
    kind: str
    payload: dict[str, Any]
    catch_up: CatchUp
    overlap: Overlap
    priority: int
    enabled: bool
    owner: str
    next_at: datetime
    created_at: datetime
    note: str | None = Field(
        default=None, description="said when it is added or changed: why a job of it would fail if it were made now"
    )

    @classmethod
    def of(cls, schedule: Schedule, note: str | None = None) -> ScheduleOut:
        """What there is to say about `schedule`."""
        return cls(
            name=str(schedule.name),
            cron=schedule.cron.expression,
            time_zone=schedule.cron.time_zone,
            kind=schedule.kind,
            payload=dict(schedule.payload),
            catch_up=schedule.catch_up,
            overlap=schedule.overlap,
            priority=schedule.priority,
            enabled=schedule.enabled,
            owner=schedule.access.owner,
            next_at=schedule.next_at,
            created_at=schedule.created_at,
            note=note,
        )
