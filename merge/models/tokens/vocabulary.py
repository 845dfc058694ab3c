"""The tokens of a model, read from its tokenizer.json without loading a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import InvalidCheckpoint
from graftwork.registry.formats.config import read_object

TOKENIZER_FILE = "tokenizer.json"
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
"""The flags of a token that is added by its text alone."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token and its number; `added` are the entries of tokens that are found before the text is split."""

    label: str
    ids: Mapping[str, int]
    added: tuple[Mapping[str, Any], ...]
    raw: Mapping[str, Any]

    @property
    def plain(self) -> list[str]:
        """The tokens that are not added ones, by number."""
        added = {entry["content"] for entry in self.added}
        return sorted((token for token in self.ids if token not in added), key=self.ids.__getitem__)

    def below(self, rows: int) -> Vocabulary:
        """The vocabulary without the tokens whose number is `rows` or more: the model has no embedding for them.

        Raises InvalidCheckpoint when they are part of a kind of tokenizer that cannot be cut.
        """
        gone = {token for token, number in self.ids.items() if number >= rows}
        if not gone:
            return self
        raw = dict(self.raw)
        kept = tuple(entry for entry in self.added if entry["id"] < rows)
        model = dict(raw["model"])
        vocabulary = model.get("vocab")
        if isinstance(vocabulary, dict):
            model["vocab"] = {token: number for token, number in vocabulary.items() if token not in gone}
            if "merges" in model:
                model["merges"] = [merge for merge in model["merges"] if not gone & set(_halves(merge))]
        elif isinstance(vocabulary, list) and len(vocabulary) > rows:
            reason = f"its tokenizer has {len(vocabulary)} tokens, its embedding {rows} rows, and only BPE can be cut"
            raise InvalidCheckpoint(path=self.label, reason=reason)
        raw.update(model=model, added_tokens=list(kept))
        return Vocabulary(self.label, {t: n for t, n in self.ids.items() if t not in gone}, kept, raw)

    def extended(self, entries: Iterable[Mapping[str, Any]]) -> Vocabulary:
        """The vocabulary with added tokens: those it has keep their number, new ones come after the last, in order."""
        ids, added = dict(self.ids), {entry["content"]: entry for entry in self.added}
        following = max(ids.values(), default=-1) + 1
        for entry in entries:
            token = entry["content"]
            if token in added:
                continue
            if token not in ids:
                ids[token] = following
                following += 1
            added[token] = {"id": ids[token], **{key: value for key, value in entry.items() if key != "id"}}
        ordered = tuple(sorted(added.values(), key=lambda entry: entry["id"]))
        return Vocabulary(self.label, ids, ordered, {**self.raw, "added_tokens": list(ordered)})

    def as_json(self) -> bytes:
        """The tokenizer.json."""
        return json.dumps(self.raw, ensure_ascii=False, indent=2).encode() + b"\n"


def plain_token(token: str) -> Mapping[str, Any]:
    """The entry of a token that is added by its text alone."""
    return {"content": token, **PLAIN}


def read_vocabulary(root: Path, label: str) -> Vocabulary | None:
    """The vocabulary of the model at `root`; None when it has no tokenizer.json that holds one.

    Raises InvalidCheckpoint for a file that is not JSON.
    """
    path = root / TOKENIZER_FILE
    if not path.is_file():
        return None
    raw = read_object(path, TOKENIZER_FILE)
    model = raw.get("model")
    tokens = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(tokens, dict):
        ids = {str(token): int(number) for token, number in tokens.items()}
    elif isinstance(tokens, list):
        ids = {str(entry[0]): number for number, entry in enumerate(tokens)}
    else:
        return None
    listed = raw.get("added_tokens")
    entries = sorted((dict(entry) for entry in listed), key=_number) if isinstance(listed, list) else []
    ids |= {entry["content"]: entry["id"] for entry in entries}
    return Vocabulary(label, ids, tuple(entries), raw)


def _number(entry: Mapping[str, Any]) -> int:
    return int(entry["id"])


def _halves(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else list(merge)
