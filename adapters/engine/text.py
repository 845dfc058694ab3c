"""From tokens to text, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

REPLACEMENT = "\ufffd"
PROMPT_CONTEXT = 5
"""Tokens of the prompt that are decoded with the first of the answer, as vLLM has it."""


class Decoder(Protocol):
    """The part of a transformers tokenizer that turns tokens into text."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ..., /) -> Any:
        """The text of `token_ids`."""


class TextStream:
    """The text of a growing list of tokens, as far as it is certain.

    Held back are a character whose bytes are not all there yet (decoded, it ends in U+FFFD) and any ending that could
    become a stop string. Without a stop string, all pieces and the final `flush` join to the decoding of all tokens.
    """

    def __init__(self, decoder: Decoder, stop: tuple[str, ...] = (), prompt: Sequence[int] = ()) -> None:
        """`prompt` is what the text goes on from: a decoder that strips the space before a text would strip it here."""
        self._decoder = decoder
        self._stop = stop
        before = list(prompt[-PROMPT_CONTEXT:])
        self._tokens = [] if self._decode(before).endswith(REPLACEMENT) else before
        self._context = 0  # tokens before it are forgotten; from it to _certain they only give context
        self._certain = len(self._tokens)  # the text of the tokens before it was released
        self._held = ""
        self._stopped = False

    def push(self, token: int) -> tuple[str, bool]:
        """The text that became certain with `token`, and whether a stop string was met (it is not in the text)."""
        self._tokens.append(token)
        fresh = self._fresh()
        if fresh.endswith(REPLACEMENT):
            return "", False
        return self._release(fresh)

    def flush(self) -> str:
        """What was still held back; after the last token."""
        if self._stopped:
            return ""
        text, stopped = self._release(self._fresh())
        if stopped:
            return text
        text, self._held = text + self._held, ""
        return text

    def _fresh(self) -> str:
        known = self._decode(self._tokens[self._context : self._certain])
        return self._decode(self._tokens[self._context :])[len(known) :]

    def _release(self, fresh: str) -> tuple[str, bool]:
        if fresh:
            self._context, self._certain = self._certain, len(self._tokens)
        text = self._held + fresh
        ends = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self._held, self._stopped = "", True
            return text[: min(ends)], True
        keep = len(text) - self._undecided(text)
        self._held = text[keep:]
        return text[:keep], False

    def _undecided(self, text: str) -> int:
        """Length of the longest ending of `text` that begins some stop string."""
        longest = min(len(text), max((len(stop) for stop in self._stop), default=1) - 1)
        endings = (n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in self._stop))
        return next(endings, 0)

    def _decode(self, tokens: list[int]) -> str:
        return str(self._decoder.decode(tokens, True))
