"""How likely tokens were, in the two forms that OpenAI's clients read."""

from __future__ import annotations

from pydantic import BaseModel

MAX_TOP_LOGPROBS = 20


class CompletionLogprobs(BaseModel):
    """Of `/v1/completions`: four lists with one item a token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]
    """Where each token's text begins in the continuation."""


class TopLogprob(BaseModel):
    """A token that could have been, with the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None
    """The token's text in UTF-8; None when it is no whole character."""


class TokenLogprob(TopLogprob):
    """A token that was sampled."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of `/v1/chat/completions`: one item a token."""

    content: list[TokenLogprob]
