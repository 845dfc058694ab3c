"""Requests and responses of `/v1/classify`: vLLM's, with the scores by label beside them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from graftwork.api.schemas.embeddings import TokensRead
from graftwork.api.schemas.encoding import MAX_TEXTS, EncodingFields


class TextPair(BaseModel):
    """Two texts that are read together, as transformers' text-classification pipeline takes them."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1)
    text_pair: str = Field(min_length=1)


INPUTS: TypeAdapter[list[str | TextPair]] = TypeAdapter(list[str | TextPair])


class ClassifyRequest(EncodingFields):
    """Texts to classify."""

    input: list[str | TextPair] = Field(description=f"a text, a pair of texts, or up to {MAX_TEXTS} of them")
    use_activation: bool = Field(default=True, description="false answers with the head's logits as `probs`")

    @field_validator("input", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        inputs = [value] if isinstance(value, str | dict) else value
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_TEXTS:
            raise ValueError(f"expected a text, a pair of texts, or 1 to {MAX_TEXTS} of them")
        if any(text == "" for text in inputs):
            raise ValueError("a text is empty; each needs at least one character")
        try:
            return INPUTS.validate_python(inputs)
        except ValidationError:
            raise ValueError('expected texts, or pairs as {"text": "...", "text_pair": "..."}') from None


class ClassificationOut(BaseModel):
    """One text's classification."""

    index: int
    label: str = Field(description="the one with the highest score")
    probs: list[float] = Field(description="the scores, in the order of the head's labels")
    num_classes: int
    scores: dict[str, float] = Field(description="the same by label")


class ClassifyResponse(BaseModel):
    """A classification of each text, in their order."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ClassificationOut]
    usage: TokensRead
