"""The rows of one encoder step: whole texts, packed one after the other."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.adapters.attachment.attach import Rows
from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.encoder.attention import Spans
from graftwork.adapters.encoder.positions import Positions


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text, or a pair of texts, as the model reads it."""

    ids: Items[int]
    types: Items[int] | None = None
    """Which of the two texts each token is of; None when all are of the first."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Piece:
    """One text and the adapter that reads it; None for the base."""

    tokens: Tokens
    resident: Resident | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's input."""

    input_ids: Tensor
    """[1, rows]"""
    position_ids: Tensor
    """[1, rows]"""
    token_type_ids: Tensor
    """[1, rows]"""
    rows: Rows
    spans: Spans
    order: list[int]
    """Which piece each packed sequence is; equal adapters side by side, and among those equal lengths."""


def pack(pieces: Items[Piece], positions: Positions, device: torch.device) -> Batch:
    """Lay the pieces out, the base's first and then adapter by adapter, each time from the shortest to the longest."""
    found = {piece.resident for piece in pieces if piece.resident is not None}
    residents = tuple(sorted(found, key=lambda resident: (resident.start, resident.digest)))
    slot_of: dict[Resident | None, int] = {None: -1, **{resident: slot for slot, resident in enumerate(residents)}}
    order = sorted(range(len(pieces)), key=lambda index: (slot_of[pieces[index].resident], len(pieces[index].tokens)))
    ids: list[int] = []
    places: list[int] = []
    types: list[int] = []
    slots: list[int] = []
    lengths: list[int] = []
    for index in order:
        piece = pieces[index]
        count = len(piece.tokens)
        ids.extend(piece.tokens.ids)
        places.extend(positions.of(piece.tokens.ids))
        types.extend(piece.tokens.types if piece.tokens.types is not None else [0] * count)
        slots.append(slot_of[piece.resident])
        lengths.append(count)
    sequence_slots = torch.tensor(slots, dtype=torch.int32)
    row_slots = sequence_slots.repeat_interleave(torch.tensor(lengths))
    return Batch(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([places], device=device),
        token_type_ids=torch.tensor([types], device=device),
        rows=Rows(residents, row_slots.to(device), sequence_slots.to(device)),
        spans=Spans(lengths, device),
        order=order,
    )
