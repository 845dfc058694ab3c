"""From texts to tokens, within what the model can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from transformers import PreTrainedTokenizerBase

from graftwork.adapters.encoder.batch import Tokens
from graftwork.errors import ContextLengthExceeded, InvalidRequest

Text = str | tuple[str, str] | Sequence[int]
"""A text, a pair of texts, or token ids as they are."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A tokenizer and the limits of what is read with it."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    """Tokens that a text may have, special ones included."""
    vocabulary: int
    lower_case: bool = False

    def read(self, texts: Sequence[Text], *, truncate: int | None = None, field: str = "input") -> list[Tokens]:
        """The tokens of each text.

        `truncate` cuts texts to so many tokens (and to `max_tokens`), special ones kept. Raises InvalidRequest naming
        the text, as `field[3]`, that is empty, too long or has unknown tokens.
        """
        limit = None if truncate is None else min(truncate, self.max_tokens)
        found: list[Tokens] = [Tokens(()) if isinstance(text, str | tuple) else Tokens(text[:limit]) for text in texts]
        for kind in (str, tuple):
            places = [place for place, text in enumerate(texts) if isinstance(text, kind)]
            for place, tokens in zip(places, self._tokenize([texts[place] for place in places], limit), strict=True):
                found[place] = tokens
        for place, tokens in enumerate(found):
            self._check(tokens, f"{field}[{place}]")
        return found

    def _tokenize(self, texts: Sequence[Any], limit: int | None) -> list[Tokens]:
        """Texts, or pairs of texts, all of one kind."""
        if not texts:
            return []
        columns = list(zip(*(text if isinstance(text, tuple) else (text,) for text in texts), strict=True))
        if self.lower_case:
            columns = [tuple(text.lower() for text in column) for column in columns]
        has_types = "token_type_ids" in self.tokenizer.model_input_names
        encoded: Any = self.tokenizer(
            *map(list, columns),
            truncation=limit is not None,
            max_length=limit,
            return_attention_mask=False,
            return_token_type_ids=has_types,
            verbose=False,
        )
        types = encoded["token_type_ids"] if has_types else repeat(None)
        return [Tokens(ids, kinds) for ids, kinds in zip(encoded["input_ids"], types, strict=False)]

    def _check(self, tokens: Tokens, field: str) -> None:
        if not len(tokens):
            raise InvalidRequest(field=field, reason="it has no tokens; at least one is needed")
        if len(tokens) > self.max_tokens:
            hint = "send truncate: true to have it cut"
            reason = f"it has {len(tokens)} tokens, and this model reads {self.max_tokens}; {hint}"
            raise ContextLengthExceeded(field=field, reason=reason)
        if not all(0 <= token < self.vocabulary for token in tokens.ids):
            raise InvalidRequest(field=field, reason=f"its tokens must be from 0 to {self.vocabulary - 1}")
