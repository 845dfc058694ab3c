"""The tokenizer of the output, and the rows of embeddings that each model gives to its tokens.

A model's row of a token is found by the token's text. For a token that a model lacks, as in mergekit: what the recipe
says; else the row of the only model that has it; zeros if none does; the base's row if the base has it; else the mean
of the rows of those that have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graftwork.errors import InvalidCheckpoint, InvalidRecipe
from graftwork.merge.models.aligned import MEAN, SUBSTITUTE, Place, Rows, align
from graftwork.merge.models.readers import Reader
from graftwork.merge.models.sources import Finder, Identity, Origin
from graftwork.merge.recipe import Recipe
from graftwork.merge.sections import ModelToken, TokenEntry, TokenizerEntry, ZeroToken
from graftwork.merge.tokens.vocabulary import Vocabulary, plain_token, read_vocabulary

OF_TOKENS = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|embed_out|tok_embeddings|embeddings|shared|lm_head(?:\.\w+)?"
    r"|output|output_layer|decoder|predictions|vocab_projector)\.(?:weight|bias)$"
)
"""Tensors that may have one row for each token; they do when they have as many rows as the input embedding."""
INPUT_EMBEDDING = re.compile(r"(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|embeddings|shared)\.weight$")


@dataclass(frozen=True, slots=True)
class TokenizerPlan:
    """Where the tokenizer's files are taken from, and its vocabulary where it is rebuilt or rows are rearranged."""

    origin: Origin
    entry: TokenizerEntry | None = None
    vocabulary: Vocabulary | None = None
    is_rebuilt: bool = False
    of_models: Mapping[Identity, Vocabulary] | None = None

    @property
    def label(self) -> str:
        """How a summary names it."""
        return f"{self.origin.label} and others" if self.is_rebuilt else self.origin.label

    @property
    def rows(self) -> int | None:
        """How many rows embeddings have in the output; None when they are left as they are."""
        if self.entry is None or self.vocabulary is None:
            return None
        used = max(self.vocabulary.ids.values(), default=-1) + 1
        step = self.entry.pad_to_multiple_of or 1
        return -(-used // step) * step


def plan_tokenizer(recipe: Recipe, donor: Origin, readers: Sequence[Reader], finder: Finder) -> TokenizerPlan:
    """The tokenizer that the recipe asks for; without a word from it, that of the donor (the base, if any), as it is.

    Where no model has a vocabulary that can be read, the files are copied and rows are left as they are. Raises
    InvalidRecipe, InvalidCheckpoint and what finding a model raises.
    """
    entry = recipe.tokens
    if entry is None:
        return TokenizerPlan(donor)
    if entry.source == "base" and recipe.base_model is None:
        raise InvalidRecipe(where=_where(recipe), reason="it is base, and there is no base_model")
    origin = donor if entry.source in ("union", "base") else finder.find(entry.source)
    found = {reader.origin.identity: _vocabulary_of(reader) for reader in readers}
    own = found.get(donor.identity) or read_vocabulary(donor.root, donor.label)
    known = {key: vocabulary for key, vocabulary in found.items() if vocabulary is not None}
    chosen = own if origin is donor else read_vocabulary(origin.root, origin.label)
    if not known and chosen is None and not entry.tokens and entry.source != "union":
        return TokenizerPlan(origin)
    if chosen is None or own is None:
        label = origin.label if chosen is None else donor.label
        reason = "it has no tokenizer.json with a vocabulary; transformers writes one when it saves a fast tokenizer"
        raise InvalidCheckpoint(path=label, reason=reason)
    if entry.source == "union":
        wanted = _union(chosen, [known[r.origin.identity] for r in readers if r.origin.identity in known])
    else:
        wanted = chosen
    wanted = wanted.extended(plain_token(token) for token in entry.tokens if token not in wanted.ids)
    of_models = {key: replace(known.get(key, own), raw={}) for key in found}
    rebuilt = wanted.ids != (read_vocabulary(origin.root, origin.label) or wanted).ids or wanted.added != chosen.added
    return TokenizerPlan(origin, entry, wanted, rebuilt, of_models)


def align_readers(
    plan: TokenizerPlan, readers: Sequence[Reader], base: Origin | None, finder: Finder
) -> tuple[Reader, ...]:
    """Readers of models that are merged together, with a row for each token of the output. Raises InvalidRecipe."""
    if plan.vocabulary is None or plan.entry is None or plan.of_models is None:
        return tuple(readers)
    alignment = _Alignment(plan, readers, base, finder)
    return tuple(
        align(reader, alignment.rows_of(position), _tensors_of_tokens(reader))
        for position, reader in enumerate(readers)
    )


def embedding_rows(reader: Reader) -> int | None:
    """How many rows the model's input embedding has."""
    for name, located in reader.layout.tensors.items():
        if INPUT_EMBEDDING.search(name) and len(located.info.shape) == 2:
            return located.info.shape[0]
    return None


class _Alignment:
    def __init__(self, plan: TokenizerPlan, readers: Sequence[Reader], base: Origin | None, finder: Finder) -> None:
        if plan.vocabulary is None or plan.of_models is None or plan.entry is None:
            raise ValueError("there is no vocabulary to align to")
        self.readers = readers
        self.vocabularies = [plan.of_models[reader.origin.identity] for reader in readers]
        self.finder = finder
        self.base = next((i for i, r in enumerate(readers) if base and r.origin.identity == base.identity), None)
        limits = [embedding_rows(reader) or 0 for reader in readers]
        self.own = np.full((len(readers), plan.rows or 0), MEAN, np.int64)
        self.substitutes: list[dict[int, Sequence[Place]]] = [{} for _ in readers]
        for token, number in plan.vocabulary.ids.items():
            rows = [vocabulary.ids.get(token, -1) for vocabulary in self.vocabularies]
            rows = [row if row < limit else -1 for row, limit in zip(rows, limits, strict=True)]
            entry = plan.entry.tokens.get(token)
            forced = entry is not None and entry.force
            for position, row in enumerate(rows):
                self.own[position, number] = row if row >= 0 and not forced else SUBSTITUTE
            if forced or min(rows) < 0:
                places = self._places(token, rows, entry)
                for position, row in enumerate(rows):
                    if row < 0 or forced:
                        self.substitutes[position][number] = places

    def rows_of(self, position: int) -> Rows:
        return Rows(self.own[position], self.substitutes[position])

    def _places(self, token: str, rows: Sequence[int], entry: TokenEntry | None) -> Sequence[Place]:
        if entry is not None and entry.source is not None:
            return self._named(token, rows, entry)
        having = [position for position, row in enumerate(rows) if row >= 0]
        if len(having) > 1 and self.base in having and self.base is not None:
            having = [self.base]
        return [Place(self.readers[position], rows[position]) for position in having]

    def _named(self, token: str, rows: Sequence[int], entry: TokenEntry) -> Sequence[Place]:
        where = f"tokenizer.tokens.{token}"
        source = entry.source
        if isinstance(source, ZeroToken) or source is None:
            return []
        reference = source.model if isinstance(source, ModelToken) else source
        wanted = self.finder.find(reference).identity
        position = next((i for i, reader in enumerate(self.readers) if reader.origin.identity == wanted), None)
        if position is None:
            reason = f"{reference} is not one of the models that are merged here"
            raise InvalidRecipe(where=where, reason=reason)
        row = rows[position]
        if isinstance(source, ModelToken):
            ids = self.vocabularies[position].ids
            if source.token is not None and source.token not in ids:
                raise InvalidRecipe(where=where, reason=f"{reference} has no token {source.token!r}")
            row = ids[source.token] if source.token is not None else source.token_id if source.token_id else 0
        limit = embedding_rows(self.readers[position]) or 0
        if not 0 <= row < limit:
            raise InvalidRecipe(where=where, reason=f"{reference} has no embedding of it, in {limit} rows")
        return [Place(self.readers[position], row)]


def _union(first: Vocabulary, others: Sequence[Vocabulary]) -> Vocabulary:
    """The first vocabulary, then the tokens of the others in their order: those of their models, then added ones."""
    added = {entry["content"] for vocabulary in (first, *others) for entry in vocabulary.added}
    plain = [
        plain_token(token)
        for vocabulary in others
        for token in vocabulary.plain
        if token not in first.ids and token not in added
    ]
    return first.extended([*plain, *(entry for vocabulary in others for entry in vocabulary.added)])


def _vocabulary_of(reader: Reader) -> Vocabulary | None:
    """A model's tokens that it has embeddings for."""
    vocabulary = read_vocabulary(reader.origin.root, reader.label) if reader.origin.root.is_dir() else None
    rows = embedding_rows(reader)
    return vocabulary if vocabulary is None or rows is None else vocabulary.below(rows)


def _tensors_of_tokens(reader: Reader) -> frozenset[str]:
    rows = embedding_rows(reader)
    tensors = reader.layout.tensors.items()
    return frozenset(name for name, at in tensors if OF_TOKENS.search(name) and at.info.shape[:1] == (rows,))


def _where(recipe: Recipe) -> str:
    return "tokenizer_source" if recipe.tokenizer_source is not None else "tokenizer.source"
