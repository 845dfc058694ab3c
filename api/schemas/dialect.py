"""What OpenAI's clients send beside what this server does: taken where it changes no answer, refused where it would.

A field that neither OpenAI's API nor this server has is refused too: a typo must not change the answer.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema, model_validator
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


class MessageDialect(BaseModel):
    """What OpenAI's clients may say of a turn of a conversation, beside who said what.

    Null says nothing, whatever the field is called: clients send turns back as they got them, from any server.
    """

    model_config = ConfigDict(extra="forbid")

    name: Unused = None
    tool_call_id: Unused = None
    annotations: Unused = None
    tool_calls: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only()] = None
    audio: Annotated[Any, only()] = None
    refusal: Annotated[Any, only()] = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: said for key, said in value.items() if said is not None or key in cls.model_fields}


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
