"""The rows of one step: pieces of many sequences, packed one after the other."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.adapters.attachment.attach import Rows
from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.engine.cache import CacheView, KeyValueCache, Span


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one sequence that a step computes."""

    token_ids: Items[int]
    start: int
    """Position of the first."""
    pages: Items[int]
    """The sequence's pages in the cache, up to its last token's at least."""
    resident: Resident | None
    """Its adapter; None for the base."""
    wants_logits: bool
    """Whether the logits after its last token are needed."""
    everywhere: bool = False
    """Whether those after each of its tokens are."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's input. Pieces keep the order they were given in, which must put equal adapters side by side."""

    input_ids: Tensor
    """[1, rows]"""
    position_ids: Tensor
    """[1, rows]"""
    logit_rows: Tensor
    """The last row of each piece that wants logits, or all of its rows."""
    rows: Rows
    cache_view: CacheView


def pack(pieces: Items[Piece], cache: KeyValueCache, device: torch.device) -> Batch:
    """Lay the pieces out one after the other, the base's first and then adapter by adapter."""
    residents = tuple(dict.fromkeys(piece.resident for piece in pieces if piece.resident is not None))
    slot_of = {resident: slot for slot, resident in enumerate(residents)}
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans: list[Span] = []
    last: list[int] = []
    for piece in pieces:
        count = len(piece.token_ids)
        spans.append(Span(piece.pages, piece.start, count))
        tokens.extend(piece.token_ids)
        positions.extend(range(piece.start, piece.start + count))
        slots.extend([-1 if piece.resident is None else slot_of[piece.resident]] * count)
        if piece.everywhere:
            last.extend(range(len(tokens) - count, len(tokens)))
        elif piece.wants_logits:
            last.append(len(tokens) - 1)
    slot_rows = torch.tensor(slots, dtype=torch.int32)
    head_slots = slot_rows[last]
    return Batch(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([positions], device=device),
        logit_rows=torch.tensor(last, dtype=torch.long, device=device),
        rows=Rows(residents, slot_rows.to(device), head_slots.to(device)),
        cache_view=cache.view(spans, device),
    )
