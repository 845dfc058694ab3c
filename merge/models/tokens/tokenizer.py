"""The tokenizer of the output, and the rows of embeddings that each model gives to its tokens.

A model's row of a token is found by the token's text. For a token that a model lacks, as in mergekit: what the recipe
says; else the row of the only model that has it; zeros if none does; the base's row if the base has it; else the mean
of the rows of those that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graftwork.errors import InvalidCheckpoint, InvalidRecipe
from graftwork.merge.models.layers import INPUT_EMBEDDING
from graftwork.merge.models.readers import Reader
from graftwork.merge.models.sources import Finder, Identity, Origin
from graftwork.merge.models.tokens.vocabulary import Vocabulary, plain_token, read_vocabulary
from graftwork.merge.recipe.recipe import Recipe
from graftwork.merge.recipe.sections import TokenizerEntry


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
    from graftwork.merge.models.tokens.alignment import aligned

    return aligned(plan, readers, base, finder)


def embedding_rows(reader: Reader) -> int | None:
    """How many rows the model's input embedding has."""
    for name, located in reader.layout.tensors.items():
        if INPUT_EMBEDDING.search(name) and len(located.info.shape) == 2:
            return located.info.shape[0]
    return None


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


def _where(recipe: Recipe) -> str:
    return "tokenizer_source" if recipe.tokenizer_source is not None else "tokenizer.source"
