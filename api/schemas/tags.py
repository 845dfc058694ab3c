"""The words that artifacts are found by."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TagsRequest(BaseModel):
    """All tags that an artifact is to have."""

    model_config = ConfigDict(extra="forbid")

    tags: list[str] = Field(max_length=100, examples=[["nightly", "german"]])


class TagsOut(BaseModel):
    """The tags of an artifact, in order."""

    name: str = Field(examples=["acme/support"])
    tags: list[str] = Field(examples=[["german", "nightly"]])
