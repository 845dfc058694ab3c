"""Merge methods and their parameters, as derived from the methods themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from graftwork.merge.method import Method


class MethodOut(BaseModel):
    """A merge method; `parameters` is a JSON schema, `perModel` marks what each model may set for itself."""

    name: str
    space: str
    summary: str
    description: str
    cites: str
    needs_base: bool
    min_models: int
    max_models: int | None
    parameters: dict[str, Any]

    @classmethod
    def of(cls, method: Method) -> MethodOut:
        """What `method` says of itself."""
        least, most = method.models
        return cls(
            name=method.name,
            space=method.space,
            summary=method.summary,
            description=method.description,
            cites=method.cites,
            needs_base=method.needs_base,
            min_models=least,
            max_models=most,
            parameters=method.schema(),
        )
