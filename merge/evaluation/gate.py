"""Gates: what a version must do well before an alias moves to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, FiniteFloat, model_validator

from graftwork.merge.evaluation.metric import goal_of
from graftwork.merge.evaluation.yardstick import Yardstick
from graftwork.merge.sweep.sweep import Goal
from graftwork.registry.versions.version import Version


class Gate(Yardstick):
    """A metric, and how good it must be: a threshold, a comparison with what the alias serves now, or both."""

    field = "gate.metric"
    metric: str = Field(description="the metric that decides", examples=["exact_match"])
    threshold: FiniteFloat | None = Field(default=None, description="the worst value that passes")
    margin: Annotated[FiniteFloat, Field(ge=0)] | None = Field(
        default=None, description="by how much it may be worse than the version that the alias is at now"
    )
    goal: Goal | None = Field(default=None, description="which way is better; told by the metric where that is known")

    @model_validator(mode="after")
    def _decides(self) -> Self:
        if self.threshold is None and self.margin is None:
            raise ValueError("give a threshold, a margin, or both")
        return self

    @property
    def direction(self) -> Goal:
        """Which way is better."""
        return self.goal or goal_of(self.metric)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version passes, and why (not)."""

    passed: bool
    value: float
    current: float | None
    reason: str


def judge(gate: Gate, candidate: Version, current: Version | None, value_of: Callable[[Version], float]) -> Verdict:
    """Whether `candidate` may take the place of `current`; `value_of` measures each."""
    value = value_of(candidate)
    sign = 1 if gate.direction == "maximise" else -1
    worse = "below" if sign > 0 else "above"
    told = f"its {gate.metric} on {gate.label} is {value:.6g}"
    if gate.threshold is not None and sign * (value - gate.threshold) < 0:
        return Verdict(False, value, None, f"{told}, {worse} the threshold {gate.threshold:.6g}")
    if gate.margin is None or current is None:
        return Verdict(True, value, None, told)
    before = value_of(current)
    if sign * (value - before) < -gate.margin:
        reason = f"{told}, {worse} the {before:.6g} of {current.ref} by more than {gate.margin:.6g}"
        return Verdict(False, value, before, reason)
    return Verdict(True, value, before, f"{told}, against the {before:.6g} of {current.ref}")
