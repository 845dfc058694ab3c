"""What requests to an encoder have in common."""

from __future__ import annotations

from pydantic import Field, field_validator

from graftwork.api.schemas.dialect import Dialect

MAX_TEXTS = 2048
"""Of one request, as OpenAI has it."""


class EncodingFields(Dialect):
    """Who reads the texts, and how much of them."""

    model: str = Field(description="`ns/base`, `ns/adapter`, `ns/adapter@alias` or `ns/adapter@v3`, of an encoder")
    user: str | None = Field(default=None, description="who asks: the server is shared fairly between them")
    timeout: float | None = Field(default=None, gt=0, description="seconds in which it must be done")
    truncate: bool = Field(default=False, description="cut texts that are too long, instead of refusing them")
    truncate_prompt_tokens: int | None = Field(
        default=None, ge=-1, description="cut texts to so many tokens, special ones included; -1: to the model's limit"
    )

    @property
    def cut(self) -> int | None:
        """How many tokens to cut texts to; None to refuse those that are too long."""
        asked = self.truncate_prompt_tokens
        if asked is not None and asked > 0:
            return asked
        return 2**31 if self.truncate or asked == -1 else None

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _not_zero(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("0 is given; -1 or at least 1 is accepted")
        return value
