"""Attention over packed sequences, registered with transformers under a name of its own."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor, nn
from transformers import AttentionInterface

from graftwork.adapters.engine.cache import CacheView

NAME = "graftwork_packed"
UNSUPPORTED = ("softcap", "s_aux", "alibi", "position_bias", "head_mask")


class UnsupportedAttentionError(ValueError):
    """The model asks its attention for something that packed attention does not compute."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cache_view: CacheView | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Each packed row attends to its own sequence, up to its own position.

    query:      [1, query heads, rows, width]
    key, value: [1, heads, rows, width]; query heads are a multiple of heads (grouped queries)
    cache_view: the step's view of the cache; it takes the new rows first
    ->          [1, rows, query heads, value width]

    Raises UnsupportedAttentionError naming what the model asks for (a soft cap, attention sinks, a position bias).
    """
    refused = [name for name in UNSUPPORTED if others.get(name) is not None]
    if refused:
        raise UnsupportedAttentionError(f"its attention needs {', '.join(refused)}")
    if cache_view is None:
        raise UnsupportedAttentionError("it does not hand its attention the arguments that are meant for it")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    by_row = query[0].transpose(0, 1)
    cache_view.store(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    singles = cache_view.singles
    if singles is not None and singles.rows is None:
        return cache_view.attend_singles(layer, by_row, scale, sliding_window)[None], None
    out = query.new_empty(*by_row.shape[:2], value.shape[-1])
    if singles is not None:
        out[singles.rows] = cache_view.attend_singles(layer, by_row[singles.rows], scale, sliding_window)
    for stretch in cache_view.stretches:
        rows = query[0, :, stretch.rows]
        fits = sliding_window is None or sliding_window >= stretch.length
        if stretch.start == 0 and fits:
            keys, values = key[:, :, stretch.rows], value[:, :, stretch.rows]
            attended = F.scaled_dot_product_attention(
                rows[None], keys, values, is_causal=True, scale=scale, enable_gqa=True
            )[0].transpose(0, 1)
        else:
            keys, values = cache_view.fetch(layer, stretch)
            mask = cache_view.mask(stretch, sliding_window, rows.shape[0] // keys.shape[1], query.dtype)
            attended = _attend(rows, keys, values, mask, scale)
        out[stretch.rows] = attended
    return out[None], None


def _attend(rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Fold the query heads that share a key head into its rows, so that keys are never repeated.

    rows: [query heads, queries, width] -> [queries, query heads, value width]
    """
    query_heads, queries, width = rows.shape
    heads = keys.shape[1]
    shared = query_heads // heads
    folded = rows.reshape(1, heads, shared * queries, width)
    attended = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
    return attended.reshape(query_heads, queries, -1).transpose(0, 1)


def register() -> None:
    """Make the function known to transformers; without a mask function of that name it builds no mask."""
    AttentionInterface.register(NAME, packed_attention)
