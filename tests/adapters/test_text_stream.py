from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from graftwork.adapters.engine.text import TextStream

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

REPLACEMENT = "\ufffd"


class Bytes:
    """A tokenizer whose tokens are bytes; 256 is special."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False, /) -> str:
        assert skip_special_tokens
        return bytes(token for token in token_ids if token < 256).decode(errors="replace")


def tokens_of(text: str) -> list[int]:
    return list(text.encode())


def run(tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(Bytes(), stop)
    pieces = []
    for token in tokens:
        piece, stopped = stream.push(token)
        pieces.append(piece)
        if stopped:
            return pieces, True
    return [*pieces, stream.flush()], False


def naive(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Read character by character; cut where the first stop string to be completed begins."""
    for end in range(len(text) + 1):
        found = [at for at in (text[:end].find(s) for s in stop) if at >= 0]
        if found:
            return text[: min(found)], True
    return text, False


@given(st.lists(st.integers(0, 256)))
def test_the_pieces_join_to_the_whole_text_whatever_the_bytes(tokens: list[int]) -> None:
    pieces, _ = run(tokens)
    assert "".join(pieces) == Bytes().decode(tokens, True)


class Words:
    """A tokenizer of words that carry the space before them, as SentencePiece's do; a text has none in front."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False, /) -> str:
        return "".join(f" {'abcdef'[token]}" for token in token_ids).removeprefix(" ")


def test_the_space_between_the_prompt_and_the_text_is_part_of_the_text() -> None:
    stream = TextStream(Words(), prompt=[0, 1, 2])
    assert [stream.push(token)[0] for token in (3, 4)] == [" d", " e"]
    assert [TextStream(Words()).push(3)[0]] == ["d"]


def test_half_a_character_at_the_end_of_the_prompt_is_not_what_the_text_goes_on_from() -> None:
    stream = TextStream(Bytes(), prompt=tokens_of("aé")[:-1])
    pieces = [stream.push(token)[0] for token in [*tokens_of("é")[1:], *tokens_of("bc")]]
    assert "".join(pieces) + stream.flush() == f"{REPLACEMENT}bc"


@given(st.text())
def test_no_piece_shows_half_a_character(text: str) -> None:
    text = text.replace(REPLACEMENT, "").encode(errors="ignore").decode()
    pieces, _ = run(tokens_of(text))
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)


@given(st.text("ab\u20ac"), st.lists(st.text("ab\u20ac", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_ends_the_text_where_it_begins(text: str, stop: list[str]) -> None:
    pieces, stopped = run(tokens_of(text), tuple(stop))
    assert ("".join(pieces), stopped) == naive(text, tuple(stop))


def test_only_what_could_become_a_stop_string_is_held_back() -> None:
    pieces, stopped = run(tokens_of("one, two. END of"), ("END",))
    assert stopped
    assert pieces == [*"one, two. ", "", "", ""]
    pieces, stopped = run(tokens_of("aEaENbEN"), ("END",))
    assert pieces == ["a", "", "Ea", "", "", "ENb", "", "", "EN"]
    assert not stopped


@pytest.mark.parametrize("text", ["plain", "na\u00efve \u20ac\U0001f600 \u0e01\u0e33", "  two  spaces "])
def test_a_real_tokenizer_streams_the_text_it_decodes(text: str, family_of: Callable[[str], Family]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(family_of("llama").base)
    stream, ids = TextStream(tokenizer), tokenizer.encode(text)
    assert "".join([*(stream.push(token)[0] for token in ids), stream.flush()]) == text
