"""Requests and responses of `/v1/embeddings`, as OpenAI's clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictInt, TypeAdapter, ValidationError, field_validator

from graftwork.api.schemas.encoding import MAX_TEXTS, EncodingFields

TOKENS = Annotated[list[StrictInt], Field(min_length=1)]
INPUTS: TypeAdapter[list[str] | list[list[int]]] = TypeAdapter(list[str] | list[TOKENS])


class EmbeddingsRequest(EncodingFields):
    """Texts to make vectors of."""

    input: list[str] | list[list[int]] = Field(
        description=f"a text, the ids of its tokens, or up to {MAX_TEXTS} of either"
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64 is of little-endian float32, which OpenAI's clients ask for and decode"
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="keep so many numbers of each vector, for models trained to be cut (Matryoshka)"
    )
    normalize: bool | None = Field(
        default=None, description="vectors of length 1; what the checkpoint's modules.json says when absent"
    )

    @field_validator("input", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        single = isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int))
        inputs = [value] if single else value
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_TEXTS:
            raise ValueError(f"expected a text, the ids of its tokens, or 1 to {MAX_TEXTS} of either")
        if any(text == "" for text in inputs):
            raise ValueError("a text is empty; each needs at least one character")
        try:
            return INPUTS.validate_python(inputs)
        except ValidationError:
            raise ValueError("expected texts or lists of token ids, not both and nothing else") from None


class EmbeddingOut(BaseModel):
    """One text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="numbers, or base64 of little-endian float32")


class TokensRead(BaseModel):
    """Tokens read, special ones included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """A vector of each text, in their order."""

    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str
    usage: TokensRead
