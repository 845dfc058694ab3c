"""What OpenAI's clients send beside what this server does: taken where it changes no answer, refused where it would.

A field that neither OpenAI's API nor this server has is refused too: a typo must not change the answer.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema
from pydantic_core.core_schema import no_info_before_validator_function

Unused = Annotated[Any, Field(description="taken, and without effect")]


def only(*accepted: object) -> GetPydanticSchema:
    """A field that this server does not support: it may be left out, be null, or have one of these values."""

    def check(value: object) -> None:
        if value is not None and value not in accepted:
            raise ValueError("this server does not support it: leave it out")

    return GetPydanticSchema(
        lambda source, handler: no_info_before_validator_function(check, handler(source)),
        lambda schema, handler: {"enum": [*accepted, None], "description": "not supported"},
    )


class Dialect(BaseModel):
    """What OpenAI's clients may say of a request to any model."""

    model_config = ConfigDict(extra="forbid")

    metadata: Unused = None
    store: Unused = None
    service_tier: Unused = None
    safety_identifier: Unused = None
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None
