"""Which positions an encoder gives to the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Positions:
    """0, 1, 2 ... as in BERT; or, after RoBERTa (fairseq's make_positions), from behind the padding token's id on.

    There a padding token inside a text has the padding's position and is not counted.
    """

    padding: int | None
    """The id of the padding token where positions begin behind it; None where they begin at 0."""
    limit: int | None
    """How many tokens there are positions for, if that is limited."""

    def of(self, ids: Sequence[int]) -> Sequence[int]:
        """The position of each token of one text."""
        if self.padding is None:
            return range(len(ids))
        if self.padding not in ids:
            return range(self.padding + 1, self.padding + 1 + len(ids))
        places, counted = [], 0
        for token in ids:
            counted += token != self.padding
            places.append(self.padding + counted if token != self.padding else self.padding)
        return places


def positions_of(trunk: PreTrainedModel) -> Positions:
    """How `trunk` counts: transformers gives RoBERTa's kind of embedding a method for it."""
    embeddings = getattr(trunk, "embeddings", None)
    limit = getattr(trunk.config, "max_position_embeddings", None)
    known = limit if isinstance(limit, int) and limit > 0 else None
    if not isinstance(embeddings, nn.Module) or not hasattr(embeddings, "create_position_ids_from_input_ids"):
        return Positions(None, known)
    padding = getattr(embeddings, "padding_idx", None)
    if not isinstance(padding, int):
        return Positions(None, known)
    return Positions(padding, None if known is None else known - padding - 1)
