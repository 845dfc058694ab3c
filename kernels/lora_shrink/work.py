"""The work list of the Triton twins: tiles of tokens of one slot, found on the device without waiting for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

TILE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """Items of which the first `count` are to be done; the rest of the arrays is undefined."""

    first: Tensor
    """[most] int32: the first token of the item's tile."""
    tokens: Tensor
    """[most] int32: its tokens, up to TILE_TOKENS, all of one slot."""
    part: Tensor
    """[most] int32: which part of the tile the item is, from 0."""
    count: Tensor
    """[1] int32"""
    most: int
    """A bound of `count` that the host knows."""


_tiles: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def tiles(slot: Tensor) -> Work:
    """The tiles of a step, one part each: made once for a slot vector, which must not be rewritten afterwards."""
    if slot not in _tiles:
        _tiles[slot] = _tiles_of(slot)
    work: Work = _tiles[slot]
    return work


def parts(work: Work, each: Tensor, most_parts: int) -> Work:
    """The tiles cut into parts: `each` [most] int32 of them (those beyond `count` must be 0), at most `most_parts`."""
    most = work.most * most_parts
    ends = each.cumsum(0, dtype=torch.int32)
    item = torch.arange(most, dtype=torch.int32, device=each.device)
    tile = torch.searchsorted(ends, item, right=True).clamp(max=work.most - 1)
    part = item - (ends - each)[tile]
    return Work(work.first[tile], work.tokens[tile], part, ends[-1:], most)


def _tiles_of(slot: Tensor) -> Work:
    tokens = len(slot)
    index = torch.arange(tokens, dtype=torch.int32, device=slot.device)
    is_new = torch.ones_like(slot, dtype=torch.bool)
    is_new[1:] = slot[1:] != slot[:-1]
    begin = torch.where(is_new, index, 0).cummax(0).values
    starts = ((index - begin) % TILE_TOKENS == 0) & (slot >= 0)
    place = starts.cumsum(0, dtype=torch.int32)
    # Tokens that start no tile are written to a place beyond all of them.
    first = torch.zeros(tokens + 1, dtype=torch.int32, device=slot.device)
    first.scatter_(0, torch.where(starts, place - 1, tokens).long(), index)
    ends_run = torch.ones_like(is_new)
    ends_run[:-1] = is_new[1:]
    end = torch.where(ends_run, index + 1, tokens).flip(0).cummin(0).values.flip(0)  # of the token's run
    first = first[:tokens]
    length = (end[first.long()] - first).clamp(max=TILE_TOKENS)
    return Work(first, length.int(), torch.zeros_like(first), place[-1:], tokens)
