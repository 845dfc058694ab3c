"""From the engine's logarithms to what OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from graftwork.adapters.engine.sequence import Logprob
from graftwork.adapters.engine.text import REPLACEMENT
from graftwork.api.schemas.logprobs import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob


def completion_logprobs(
    tokenizer: PreTrainedTokenizerBase, logprobs: Sequence[Logprob], offset: int = 0
) -> CompletionLogprobs:
    """The form of `/v1/completions`; `offset` is where the first token's text begins."""
    tokens = [_text(tokenizer, logprob.token) for logprob in logprobs]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    tops: list[dict[str, float]] = []
    for logprob in logprobs:
        best: dict[str, float] = {}
        for other, value in [*logprob.top, (logprob.token, logprob.logprob)]:
            best.setdefault(_text(tokenizer, other), value)
        tops.append(best)
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[logprob.logprob for logprob in logprobs],
        top_logprobs=tops,
        text_offset=offsets,
    )


def chat_logprobs(tokenizer: PreTrainedTokenizerBase, logprobs: Sequence[Logprob]) -> ChatLogprobs:
    """The form of `/v1/chat/completions`."""
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_top(tokenizer, logprob.token, logprob.logprob).model_dump(),
                top_logprobs=[_top(tokenizer, token, value) for token, value in logprob.top],
            )
            for logprob in logprobs
        ]
    )


def _top(tokenizer: PreTrainedTokenizerBase, token: int, logprob: float) -> TopLogprob:
    text = _text(tokenizer, token)
    return TopLogprob(token=text, logprob=logprob, bytes=None if REPLACEMENT in text else list(text.encode()))


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.decode([token]))
