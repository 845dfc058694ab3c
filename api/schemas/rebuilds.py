"""Rebuilds as the API and `--json` show them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from graftwork.merge.rebuild.plan import Rebuild


class RebuildRequest(BaseModel):
    """A version that is not to be used any more, and what takes its place in all that was made of it."""

    model_config = ConfigDict(extra="forbid")

    ref: str = Field(description="also one that was withdrawn", examples=["acme/poisoned@v1"])
    replace_by: str | None = Field(
        default=None,
        description="the version that takes its place; if absent, everything is made without it",
        examples=["acme/clean@v1"],
    )


class RebuildJobRequest(RebuildRequest):
    """A rebuild to carry out."""

    move_aliases: bool = Field(
        default=False, description="point the aliases of each version at the one that takes its place"
    )
    priority: int = Field(default=0, ge=-100, le=100, description="higher ones run first")


class RebuildStepOut(BaseModel):
    """One version that something of the input is in."""

    digest: str
    refs: list[str] = Field(description="its names; none where it is private to others")
    how: Literal["merge", "extract", "experts"] | None = Field(description="null where it cannot be rebuilt")
    left_out: list[str] = Field(description="the inputs that it is made without")
    replaced: list[str] = Field(description="the inputs that another version takes the place of")
    notes: list[str]
    reason: str | None = Field(description="why it cannot be rebuilt")


class RebuildPlanOut(BaseModel):
    """Everything that was made of `ref`, each after what it was made of."""

    ref: str
    digest: str
    replace_by: str | None
    rebuilt: int = Field(description="how many can be rebuilt")
    not_rebuilt: int
    steps: list[RebuildStepOut]

    @classmethod
    def of(cls, planned: Rebuild) -> RebuildPlanOut:
        """What is to be done."""
        possible = sum(step.is_rebuilt for step in planned.steps)
        return cls(
            ref=planned.root.ref,
            digest=planned.root.digest,
            replace_by=None if planned.replacement is None else planned.replacement.ref,
            rebuilt=possible,
            not_rebuilt=len(planned.steps) - possible,
            steps=[RebuildStepOut(**step.as_json()) for step in planned.steps],
        )
