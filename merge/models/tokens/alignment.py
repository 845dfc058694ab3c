"""Which row of each model's embeddings stands for a token of the output."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from graftwork.errors import InvalidRecipe
from graftwork.merge.models.aligned import MEAN, SUBSTITUTE, Place, Rows, align
from graftwork.merge.models.readers import Reader
from graftwork.merge.models.sources import Finder, Origin
from graftwork.merge.models.tokens.tokenizer import TokenizerPlan, embedding_rows
from graftwork.merge.recipe.sections import ModelToken, TokenEntry, ZeroToken

OF_TOKENS = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|embed_out|tok_embeddings|embeddings|shared|lm_head(?:\.\w+)?"
    r"|output|output_layer|decoder|predictions|vocab_projector)\.(?:weight|bias)$"
)
"""Tensors that may have one row for each token; they do when they have as many rows as the input embedding."""


def aligned(plan: TokenizerPlan, readers: Sequence[Reader], base: Origin | None, finder: Finder) -> tuple[Reader, ...]:
    """Readers with a row for each token of a plan that has a vocabulary. Raises InvalidRecipe."""
    alignment = _Alignment(plan, readers, base, finder)
    return tuple(
        align(reader, alignment.rows_of(position), _tensors_of_tokens(reader))
        for position, reader in enumerate(readers)
    )


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


def _tensors_of_tokens(reader: Reader) -> frozenset[str]:
    rows = embedding_rows(reader)
    tensors = reader.layout.tensors.items()
    return frozenset(name for name, at in tensors if OF_TOKENS.search(name) and at.info.shape[:1] == (rows,))
