"""Keys and values of the running sequences, in pages.

The attention function stores into and fetches from a `CacheView`, built once a step, and learns nothing of where the
tokens lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.adapters.engine.pages import Pages
from graftwork.errors import InvalidSetting
from graftwork.kernels.paged_attention import paged_attention


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive packed rows of one sequence: rows `row..row+count` are its positions `start..start+count`."""

    pages: Sequence[int]
    """The pages of the sequence, in order; they reach to its last position at least."""
    row: int
    start: int
    count: int

    @property
    def length(self) -> int:
        """Positions of the sequence once these rows are stored."""
        return self.start + self.count


class KeyValueCache:
    """`pages.total` pages of `page_tokens` positions each.

    A layer's tensors are [pages, heads, width, page] for keys and [pages, heads, page, width] for values; they are made
    when the layer first stores, because only then are its true shapes known. What was not written is never read, so
    they begin as they are found: a large cache takes no memory before it is used, and no NaN outlives its sequence.
    """

    def __init__(self, pages: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.pages = Pages(pages)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers that have stored something."""
        return sum(tensor[0].nbytes for layer in self._layers.values() for tensor in layer)

    def pages_for(self, positions: int) -> int:
        """Pages that hold so many positions."""
        return -(-positions // self.page_tokens)

    def fill(self, size: int, *, least: int) -> None:
        """Forget everything and have as many pages as `size` bytes hold, now that the layers are known.

        Raises InvalidSetting when these are fewer than `least`.
        """
        total = size // self.page_bytes
        if total < least:
            expected = f"at least {least * self.page_bytes} bytes for this model"
            raise InvalidSetting(name="GRAFTWORK_CACHE_BYTES", value=size, expected=expected)
        self.pages = Pages(total)
        self._layers.clear()

    def copy(self, source: int, target: int) -> None:
        """Give one page the content of another."""
        with torch.inference_mode():
            for layer in self._layers.values():
                for tensor in layer:
                    tensor[target].copy_(tensor[source])

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys and values, shaped for rows like `key` and `value` ([rows, heads, width])."""
        if index not in self._layers:
            total, page = self.pages.total, self.page_tokens
            keys = key.new_empty(total, *key.shape[1:], page)
            values = value.new_empty(total, value.shape[1], page, value.shape[2])
            self._layers[index] = (keys, values)
        return self._layers[index]

    def view(self, spans: Iterable[Span], device: torch.device) -> CacheView:
        """The cache as one step's attention sees it."""
        return CacheView(self, list(spans), device)


@dataclass(frozen=True, slots=True)
class Singles:
    """The sequences of which a step computes one row; their attention is one call."""

    rows: Tensor | None
    """[sequences]: their packed rows; None when the step has no others."""
    pages: Tensor
    """[sequences, most] int32"""
    lengths: Tensor
    """[sequences] int32: their positions, the new one included."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sequence of which a step computes several rows."""

    rows: slice
    start: int
    length: int
    """Positions, the new ones included."""
    pages: Tensor
    """[pages]: those with its positions."""


class CacheView:
    """One step's access to the cache."""

    def __init__(self, cache: KeyValueCache, spans: list[Span], device: torch.device) -> None:
        self._cache = cache
        self._device = device
        self._masks: dict[tuple[int, int, int | None, int], Tensor] = {}
        size = cache.page_tokens
        spots = [
            (span.pages[at // size], at % size)
            for span in sorted(spans, key=lambda span: span.row)
            for at in range(span.start, span.length)
        ]
        homes = torch.tensor(spots, dtype=torch.long).view(-1, 2).to(device)
        self._homes = (homes[:, 0].contiguous(), homes[:, 1].contiguous())
        self.singles = self._singles([span for span in spans if span.count == 1], len(spans))
        self.stretches = [self._stretch(span) for span in spans if span.count > 1]

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keep the new rows. key, value: [rows, heads, width]."""
        keys, values = self._cache.layer(layer, key, value)
        pages, places = self._homes
        keys[pages, :, :, places] = key
        values[pages, :, places] = value

    def attend_singles(self, layer: int, query: Tensor, scale: float, window: int | None) -> Tensor:
        """What the single rows attend to. query: [sequences, query heads, width] -> the same with the value width."""
        assert self.singles is not None  # noqa: S101  asked for by whoever saw them
        keys, values = self._cache._layers[layer]
        attended = paged_attention(
            query.contiguous(), keys, values, self.singles.pages, self.singles.lengths, scale, window or 0
        )
        assert isinstance(attended, Tensor)  # noqa: S101  tensors give a tensor
        return attended

    def fetch(self, layer: int, stretch: Stretch) -> tuple[Tensor, Tensor]:
        """Keys and values of the stretch's sequence: [1, heads, length, width] each."""
        keys, values = self._cache._layers[layer]
        k = keys[stretch.pages].permute(1, 0, 3, 2).flatten(1, 2)
        v = values[stretch.pages].transpose(0, 1).flatten(1, 2)
        return k[None, :, : stretch.length], v[None, :, : stretch.length]

    def mask(self, stretch: Stretch, window: int | None, copies: int, dtype: torch.dtype) -> Tensor:
        """0 where a row may look (within `window` positions, if given), else -inf, `copies` times below each other.

        -> [1, 1, copies * queries, length]; made once for all layers
        """
        key = (stretch.rows.start, stretch.length, window, copies)
        if key not in self._masks:
            columns = torch.arange(stretch.length, device=self._device)
            ahead = columns[stretch.start :, None] - columns  # [queries, length]
            hidden = (ahead < 0) if window is None else (ahead < 0) | (ahead >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self._device).masked_fill_(hidden, -torch.inf)
            self._masks[key] = mask.repeat(copies, 1)[None, None]
        return self._masks[key]

    def _singles(self, spans: list[Span], of: int) -> Singles | None:
        if not spans:
            return None
        counts = [self._cache.pages_for(span.length) for span in spans]
        most = max(counts)
        table = [[*span.pages[:count], *[0] * (most - count)] for span, count in zip(spans, counts, strict=True)]
        ordered = of == len(spans) and [span.row for span in spans] == list(range(of))
        return Singles(
            rows=None if ordered else torch.tensor([span.row for span in spans], device=self._device),
            pages=torch.tensor(table, dtype=torch.int32).to(self._device),
            lengths=torch.tensor([span.length for span in spans], dtype=torch.int32).to(self._device),
        )

    def _stretch(self, span: Span) -> Stretch:
        pages = torch.tensor(span.pages[: self._cache.pages_for(span.length)], device=self._device)
        return Stretch(slice(span.row, span.row + span.count), span.start, span.length, pages)
