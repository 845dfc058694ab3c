"""How a failure looks on the wire: RFC 9457 problem details, and OpenAI's error object under `/v1`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """Problem details (RFC 9457); the fields of the error are added beside these members."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str


class InferenceError(BaseModel):
    """What went wrong with an inference request, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class InferenceProblem(BaseModel):
    """The body of a failed inference request."""

    error: InferenceError
