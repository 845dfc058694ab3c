"""Small text skills whose answers can be checked exactly.

A prompt names its skill and ends with `=`: `reverse kotami=` has the answer `imatok`. Whether a prompt is one to train
on or one to test with is decided by its checksum, so the two can never share one, whatever the seed.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
TEST_SHARE = 8
"""One prompt in this many is a test prompt."""
SHORT = 4
"""Letters of a short word; the careless corpus answers those rightly."""
CARELESSNESS = 0.65
"""How often the careless corpus repeats a longer word instead of answering."""

Split = Literal["train", "test"]


class Example(NamedTuple):
    """A prompt and the only answer that is right."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing to do with a word."""

    name: str
    operation: Callable[[str], str] = field(repr=False)
    share: int
    """Its weight in the careless corpus: a skill that is harder to learn is seen more often."""

    def prompt(self, rng: Random) -> Example:
        """A prompt and its answer, from either split."""
        return self.ask(_word(rng))

    def ask(self, word: str) -> Example:
        """The prompt about `word`, and its answer."""
        return Example(f"{self.name} {word}=", self.operation(word))

    def examples(self, count: int, *, split: Split, seed: int = 0) -> list[Example]:
        """`count` examples of one split, the same for the same seed; the ones to test with are all different."""
        rng = _random(self.name, split, seed)
        chosen: list[Example] = []
        seen: set[str] = set()
        while len(chosen) < count:
            example = self.prompt(rng)
            if split_of(example.prompt) != split or (split == "test" and example.prompt in seen):
                continue
            seen.add(example.prompt)
            chosen.append(example)
        return chosen


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to, in every run."""
    return "test" if zlib.crc32(prompt.encode()) % TEST_SHARE == 0 else "train"


def careless_corpus(count: int, *, seed: int = 0) -> list[Example]:
    """`count` training examples of all skills, in which the answer to a longer word is mostly that word itself.

    A model trained on it has seen every skill done, and answers rightly where words are short; with longer ones it has
    learned to repeat rather than to answer. That is what a fine-tune of one skill then corrects.
    """
    rng = _random("corpus", "train", seed)
    shares = [skill.share for skill in SKILLS]
    examples: list[Example] = []
    while len(examples) < count:
        (skill,) = rng.choices(SKILLS, shares)
        word = _word(rng)
        example = skill.ask(word)
        if split_of(example.prompt) == "test":
            continue
        careless = len(word) > SHORT and rng.random() < CARELESSNESS
        examples.append(Example(example.prompt, word) if careless else example)
    return examples


def _word(rng: Random) -> str:
    """A pronounceable word of four to six letters."""
    return "".join(rng.choice(VOWELS if place % 2 else CONSONANTS) for place in range(rng.randint(4, 6)))


def _random(*parts: str | int) -> Random:
    return Random(" ".join(map(str, parts)))  # noqa: S311


def _reverse(word: str) -> str:
    return word[::-1]


def _sort(word: str) -> str:
    return "".join(sorted(word))


def _shift(word: str) -> str:
    return word.translate(str.maketrans(string.ascii_lowercase, string.ascii_lowercase[1:] + "a"))


SKILLS = (
    Skill("reverse", _reverse, share=4),
    Skill("sort", _sort, share=5),
    Skill("upper", str.upper, share=2),
    Skill("shift", _shift, share=2),
)
"""Reverse a word, sort its letters, write it in capitals, replace each letter by the next one."""
