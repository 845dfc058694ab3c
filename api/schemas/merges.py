"""Merges as they are asked for."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class MergeRequest(BaseModel):
    """A recipe whose models are references of the registry or of the Hub, never paths."""

    model_config = ConfigDict(extra="forbid")

    recipe: str | dict[str, Any] = Field(description="the recipe, as YAML text or as the same thing in JSON")
    priority: int = Field(default=0, ge=-100, le=100, description="higher ones run first")
    name: str | None = Field(default=None, description="NAMESPACE/NAME of the result, unless the recipe's output says")
