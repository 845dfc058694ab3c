"""What is known of how well versions did."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from graftwork.merge.evaluation.yardstick import Yardstick
from graftwork.registry.catalog.evaluations import Evaluation


class EvaluationRequest(Yardstick):
    """A version to evaluate, and what by."""

    model: str = Field(description="a reference to a version", examples=["acme/support@prod"])
    metrics: list[str] = Field(default=[], description="the metrics that are wanted; all there are if empty")
    priority: int = Field(default=0, ge=-100, le=100, description="higher ones run first")


class EvaluationOut(BaseModel):
    """One number about a version."""

    ref: str = Field(examples=["acme/support@v3"])
    digest: str
    dataset: str = Field(
        description="the dataset's pinned reference, or the evaluator's name", examples=["acme/questions@v2"]
    )
    dataset_digest: str | None
    metric: str = Field(examples=["exact_match"])
    value: float = Field(examples=[0.875])
    details: dict[str, Any] = Field(description="how many examples or tokens, the standard error, and the like")
    job: str | None = Field(description="the job that found it out")
    created_at: datetime

    @classmethod
    def of(cls, evaluation: Evaluation) -> EvaluationOut:
        """What there is to say about `evaluation`."""
        return cls(
            ref=evaluation.ref,
            digest=evaluation.digest,
            dataset=evaluation.dataset,
            dataset_digest=evaluation.dataset_digest,
            metric=evaluation.metric,
            value=evaluation.value,
            details=dict(evaluation.details),
            job=evaluation.job,
            created_at=evaluation.created_at,
        )
