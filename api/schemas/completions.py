"""Requests and responses of `/v1/completions`, as OpenAI's clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from graftwork.api.schemas.dialect import Dialect, Unused, only
from graftwork.api.schemas.logprobs import MAX_TOP_LOGPROBS, CompletionLogprobs

FinishReason = Literal["stop", "length", "abort"]

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_LENGTH = 256
TOKENS = TypeAdapter(Annotated[list[StrictInt], Field(min_length=1)])


def _every(value: Any) -> Any:
    return 0 if value == -1 else value


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: Unused = None
    continuous_usage_stats: Annotated[Any, only(False)] = None


class SamplingFields(Dialect):
    """What both kinds of completion take."""

    model: str = Field(description="`ns/base`, `ns/adapter`, `ns/adapter@alias` or `ns/adapter@v3`")
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="0 is greedy; 1 when absent and the model's generation_config.json has none",
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Annotated[int, Field(ge=0), BeforeValidator(_every)] | None = Field(
        default=None, description="0, or vLLM's -1, keeps every token"
    )
    min_p: float | None = Field(default=None, ge=0, le=1, description="share of the likeliest token's probability")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="choice i is drawn with the seed plus i")
    stop: list[str] = Field(default=[], description=f"a text or up to {MAX_STOPS} texts to stop before")
    ignore_eos: bool = Field(default=False, description="go on after an end-of-sequence token, to exactly max_tokens")
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES, description="choices; 1 when absent")
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, description="what to add to the logits of tokens, by their ids"
    )
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    timeout: float | None = Field(default=None, gt=0, description="seconds in which it must be done")
    user: str | None = Field(default=None, description="who asks: the server is shared fairly between them")
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=10, description="divides the logits of tokens of the prompt and of the answer so far"
    )
    stop_token_ids: list[StrictInt] | None = Field(
        default=None, max_length=MAX_STOPS, description="tokens that end the answer, whatever ignore_eos says"
    )
    skip_special_tokens: Annotated[Any, only(True)] = None
    spaces_between_special_tokens: Annotated[Any, only(True)] = None
    include_stop_str_in_output: Annotated[Any, only(False)] = None
    detokenize: Annotated[Any, only(True)] = None
    use_beam_search: Annotated[Any, only(False)] = None
    length_penalty: Annotated[Any, only(1)] = None
    min_tokens: Annotated[Any, only(0)] = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @field_validator("stop", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> list[str]:
        texts = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or len(texts) > MAX_STOPS:
            raise ValueError(f"expected a text or up to {MAX_STOPS} texts")
        if not all(isinstance(text, str) and 0 < len(text) <= MAX_STOP_LENGTH for text in texts):
            raise ValueError(f"each stop text has 1 to {MAX_STOP_LENGTH} characters")
        return texts


class CompletionRequest(SamplingFields):
    """A prompt to continue."""

    prompt: str | list[int] = Field(description="a text or the ids of its tokens; either may be alone in a list")
    max_tokens: int | None = Field(default=None, ge=1, description="16 when absent")
    return_token_ids: bool = Field(default=False, description="send the ids of the tokens beside their text")
    best_of: Annotated[Any, only(1)] = None
    echo: Annotated[Any, only(False)] = None
    logprobs: int | None = Field(
        default=None, ge=0, le=MAX_TOP_LOGPROBS, description="how many likeliest tokens to name at each position"
    )
    suffix: Annotated[Any, only("")] = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _no_flag(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_or_tokens(cls, value: Any) -> str | list[int]:
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
            value = value[0]
        if isinstance(value, str):
            return value
        try:
            return TOKENS.validate_python(value)
        except ValidationError:
            raise ValueError("expected one text or one list of token ids, one prompt a request") from None


class PromptDetails(BaseModel):
    """More about the tokens of a prompt."""

    cached_tokens: int
    """How many were not computed again, because an earlier request to the same version began with them."""


class Usage(BaseModel):
    """Tokens read and written, over all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int = 0) -> Usage:
        """The counts and their sum."""
        details = PromptDetails(cached_tokens=cached)
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=details,
        )


class CompletionChoice(BaseModel):
    """One continuation, or the next piece of it."""

    index: int = 0
    text: str
    token_ids: list[int] | None = None
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None


class CompletionResponse(BaseModel):
    """A continuation, or one event of a stream of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
