"""Keys and values of the running sequences.

The attention function stores into and fetches from a `CacheView`, built once a step, and learns nothing of where the
tokens lie. Here a sequence owns one place of fixed length; pages would change this file only.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive packed rows of one sequence: rows `row..row+count` are its positions `start..start+count`."""

    place: int
    row: int
    start: int
    count: int

    @property
    def length(self) -> int:
        """Positions of the sequence once these rows are stored."""
        return self.start + self.count


class KeyValueCache:
    """`places` sequences of up to `tokens` positions.

    A layer's tensors are [places * tokens, heads, width]; they are made when the layer first stores, because only then
    are its true shapes known. Places are given lowest first, so that the running ones lie side by side.
    """

    def __init__(self, places: int, tokens: int) -> None:
        self.places = places
        self.tokens = tokens
        self._free = list(range(places))
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def free(self) -> int:
        """How many more sequences fit."""
        return len(self._free)

    def take(self) -> int | None:
        """A free place, or None."""
        return heapq.heappop(self._free) if self._free else None

    def give_back(self, place: int, *, scrub: bool = False) -> None:
        """Free a place. `scrub` zeroes it: masked positions are multiplied by 0, which NaN survives."""
        if scrub:
            rows = slice(place * self.tokens, (place + 1) * self.tokens)
            with torch.inference_mode():
                for keys, values in self._layers.values():
                    keys[rows] = 0
                    values[rows] = 0
        heapq.heappush(self._free, place)

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys and values, shaped for rows like `key` and `value` ([rows, heads, width])."""
        if index not in self._layers:
            rows = self.places * self.tokens
            self._layers[index] = (key.new_zeros(rows, *key.shape[1:]), value.new_zeros(rows, *value.shape[1:]))
        return self._layers[index]

    def view(self, spans: Iterable[Span], device: torch.device) -> CacheView:
        """The cache as one step's attention sees it."""
        return CacheView(self, list(spans), device)


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences whose attention is computed in one call: adjacent places, equally many new rows each."""

    place: int
    sequences: int
    queries: int
    """New rows of each sequence."""
    longest: int
    """Positions of the longest sequence, new ones included."""
    rows: Tensor
    """[sequences * queries]: their packed rows, sequence by sequence."""
    positions: Tensor
    """[sequences, queries]: the position of each of these rows."""

    @property
    def whole_prompt(self) -> bool:
        """Whether this is one sequence from its first position on, so that plain causal attention holds."""
        return self.sequences == 1 and self.queries == self.longest


class CacheView:
    """One step's access to the cache."""

    def __init__(self, cache: KeyValueCache, spans: list[Span], device: torch.device) -> None:
        self._cache = cache
        self._device = device
        self._masks: dict[tuple[int, int | None, int], Tensor] = {}
        ordered = sorted(spans, key=lambda span: span.row)
        homes = [span.place * cache.tokens + span.start + i for span in ordered for i in range(span.count)]
        self._homes = torch.tensor(homes, device=device)
        self.groups = [self._group(run) for run in _runs(spans)]

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep the new rows. key, value: [rows, heads, width]."""
        keys, values = self._cache.layer(layer, key, value)
        keys.index_copy_(0, self._homes, key)
        values.index_copy_(0, self._homes, value)

    def fetch(self, layer: int, group: Group) -> tuple[Tensor, Tensor]:
        """Keys and values of the group's sequences: [sequences, heads, longest, width] each."""
        keys, values = self._cache._layers[layer]
        return self._read(keys, group), self._read(values, group)

    def mask(self, group: Group, window: int | None, copies: int, dtype: torch.dtype) -> Tensor:
        """0 where a row may look (within `window` positions, if given), else -inf, `copies` times below each other.

        -> [sequences, 1, copies * queries, longest]; made once for all layers
        """
        key = (id(group), window, copies)
        if key not in self._masks:
            columns = torch.arange(group.longest, device=self._device)
            ahead = group.positions[:, :, None] - columns  # [sequences, queries, longest]
            hidden = (ahead < 0) if window is None else (ahead < 0) | (ahead >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self._device).masked_fill_(hidden, -torch.inf)
            self._masks[key] = mask[:, None].repeat(1, 1, copies, 1)
        return self._masks[key]

    def _read(self, tensor: Tensor, group: Group) -> Tensor:
        by_place = tensor.view(self._cache.places, self._cache.tokens, *tensor.shape[1:])
        return by_place[group.place : group.place + group.sequences, : group.longest].transpose(1, 2)

    def _group(self, run: list[Span]) -> Group:
        rows = [span.row + i for span in run for i in range(span.count)]
        positions = [[span.start + i for i in range(span.count)] for span in run]
        return Group(
            place=run[0].place,
            sequences=len(run),
            queries=run[0].count,
            longest=max(span.length for span in run),
            rows=torch.tensor(rows, device=self._device),
            positions=torch.tensor(positions, device=self._device),
        )


def _runs(spans: Iterable[Span]) -> list[list[Span]]:
    """Spans that can share a call: single rows at adjacent places, of lengths that waste little padding."""
    runs: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.place):
        if runs and _fits(runs[-1], span):
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


def _fits(run: list[Span], span: Span) -> bool:
    if span.count != 1 or run[-1].count != 1 or span.place != run[-1].place + 1:
        return False
    lengths = [span.length, *(other.length for other in run)]
    return max(lengths) <= 2 * min(lengths) + 64
