"""A character-level tokenizer, as transformers saves and loads it."""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

PADDING, END, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits + " =+-:.,?!"
CHAT_TEMPLATE = "{{ messages[-1]['content'] }}"
"""The last message alone: these models answer one prompt and remember nothing."""


def character_tokenizer(*, context: int) -> PreTrainedTokenizerFast:
    """One token a character of `CHARACTERS` and `<unk>` for any other; pads on the left, as generation wants it."""
    vocabulary = {token: index for index, token in enumerate((PADDING, END, UNKNOWN, *CHARACTERS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = Fuse()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
