"""Requests and responses of `/v1/chat/completions`, as OpenAI's clients send and read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator
from typing_extensions import TypedDict

from graftwork.api.schemas.completions import FinishReason, SamplingFields, Usage
from graftwork.api.schemas.dialect import MessageDialect, Unused, only
from graftwork.api.schemas.logprobs import MAX_TOP_LOGPROBS, ChatLogprobs

TEXTS = ("text", "input_text", "output_text")
"""The types of parts that are text, in the chat API's words and in those of OpenAI's later one."""
PART = ("type", "text", "annotations", "logprobs", "prompt_cache_breakpoint")
"""What such parts may say; the last three are taken, and without effect."""


TEMPLATING = frozenset(
    [
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)
"""What transformers' `apply_chat_template` takes for itself and does not hand to the template."""


class Message(MessageDialect):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: Any) -> Any:
        """OpenAI's lists of text parts as one text; anything else is left for the schema to judge."""
        if not isinstance(value, list):
            return value
        for part in value:
            kind = part.get("type", "text") if isinstance(part, dict) else None
            if kind not in TEXTS or not isinstance(part.get("text"), str):
                other = f", no {kind[:40]}" if isinstance(kind, str) and kind not in TEXTS else ""
                raise ValueError(f"this server takes a text or a list of text parts{other}")
            for key, said in part.items():
                if said is not None and key not in PART:
                    raise ValueError(f"a text part has a type and a text, and there is no such key as {key[:40]}")
        return "".join(part["text"] for part in value)


class ChatRequest(SamplingFields):
    """A conversation to answer."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = Field(default=None, description="say how likely each token was")
    top_logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="how many likeliest tokens to name at each position; needs logprobs",
    )
    tools: Annotated[Any, only([])] = None
    tool_choice: Annotated[Any, only("none", "auto")] = None
    parallel_tool_calls: Unused = None
    functions: Annotated[Any, only([])] = None
    function_call: Annotated[Any, only("none", "auto")] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    web_search_options: Annotated[Any, only()] = None
    moderation: Annotated[Any, only()] = None
    reasoning_effort: Annotated[Any, only("none")] = None
    verbosity: Annotated[Any, only("medium")] = None
    prediction: Unused = None
    add_generation_prompt: Annotated[Any, only(True)] = None
    continue_final_message: Annotated[Any, only(False)] = None
    echo: Annotated[Any, only(False)] = None
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="what the model's chat template asks for by name, such as enable_thinking"
    )

    @property
    def limit_field(self) -> str:
        """The field that says how long the answer may be."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def top(self) -> int | None:
        """How many likeliest tokens to name; None to say nothing of likelihoods."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _for_the_template(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if taken := sorted(TEMPLATING.intersection(value or ())):
            raise ValueError(f"{taken[0]} is not for the template")
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("it needs logprobs to be true")
        return value


class Answer(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str


class Delta(TypedDict, total=False):
    """What a stream adds to the answer."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One answer."""

    index: int = 0
    message: Answer
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None


class ChatChunkChoice(BaseModel):
    """The next piece of one answer."""

    index: int = 0
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None


class ChatResponse(BaseModel):
    """An answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class ChatChunk(BaseModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
