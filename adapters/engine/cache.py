"""Keys and values of the running sequences, in pages.

The attention function asks a `CacheView`, built once a step, and learns nothing of where the tokens lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftwork.adapters.engine.pages import Pages
from graftwork.errors import InvalidSetting
from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.paged_attention import paged_attention
from graftwork.kernels.paged_store import paged_store


@dataclass(frozen=True, slots=True)
class Span:
    """The next packed rows, of one sequence: its positions `start..start+count`."""

    pages: Sequence[int]
    """The pages of the sequence, in order; they reach to its last position at least."""
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
        for index, layer in self._layers.items():
            keys, values = (each.new_empty(total, *each.shape[1:]) for each in layer)
            self._layers[index] = keys, values

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

    def kept(self, index: int) -> tuple[Tensor, Tensor] | None:
        """The layer's keys and values; None before it has stored anything."""
        return self._layers.get(index)

    def view(self, spans: Sequence[Span], device: torch.device) -> CacheView:
        """The cache as one step's attention sees it; the spans are in the order of their rows."""
        return CacheView(self, spans, device)


class CacheView:
    """One step's access to the cache."""

    def __init__(self, cache: KeyValueCache, spans: Sequence[Span], device: torch.device) -> None:
        self._cache = cache
        counts = [cache.pages_for(span.length) for span in spans]
        most = max(counts, default=0)
        table = [[*span.pages[:count], *[0] * (most - count)] for span, count in zip(spans, counts, strict=True)]
        self._pages = torch.tensor(table, dtype=torch.int32).view(len(spans), most).to(device)
        self._spans = torch.tensor([(span.count, span.length) for span in spans], dtype=torch.int32)

    def cached(self, layer: int) -> tuple[Any, Any] | None:
        """The layer's keys and values as native calls take them; None before it has stored anything."""
        kept = self._cache.kept(layer)
        return None if kept is None else (native_view(kept[0]), native_view(kept[1]))

    def native_step(self, cos: Tensor, sin: Tensor) -> Any:
        """The step as native calls take it, with the rotary embeddings of its rows: [1, rows, width] each."""
        native: Any = native_module()
        turns = (native_view(each, each.shape[1:]) for each in (cos, sin))
        return native.Step(*turns, native_view(self._pages), native_view(self._spans))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
        """Keep the new rows' keys and values, then what each row attends to.

        query: [rows, query heads, width]; key, value: [rows, heads, width] -> [rows, query heads, value width]
        """
        keys, values = self._cache.layer(layer, key, value)
        paged_store(keys, values, key.contiguous(), value.contiguous(), self._pages, self._spans)
        attended = paged_attention(query.contiguous(), keys, values, self._pages, self._spans, scale, window or 0)
        assert isinstance(attended, Tensor)  # noqa: S101  tensors give a tensor
        return attended
