"""Attention over packed sequences, registered with transformers under a name of its own."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor, nn
from transformers import AttentionInterface

from graftwork.adapters.engine.cache import CacheView, Group

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
    if refused or cache_view is None:
        raise UnsupportedAttentionError(f"its attention needs {', '.join(refused) or 'a cache view'}")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    query = query[0]
    cache_view.store(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    out = query.new_empty(query.shape[1], query.shape[0], value.shape[-1])
    for group in cache_view.groups:
        keys, values = cache_view.fetch(layer, group)
        rows = query[:, group.rows]  # [query heads, sequences * queries, width]
        if group.whole_prompt and (sliding_window is None or sliding_window >= group.longest):
            attended = F.scaled_dot_product_attention(
                rows[None], keys, values, is_causal=True, scale=scaling, enable_gqa=True
            )[0].transpose(0, 1)
        else:
            mask = cache_view.mask(group, sliding_window, query.shape[0] // keys.shape[1], query.dtype)
            attended = _attend(rows, keys, values, mask, group, scaling)
        out[group.rows] = attended
    return out[None], None


def _attend(rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor, group: Group, scaling: float | None) -> Tensor:
    """Fold the query heads that share a key head into its rows, so that keys are never repeated.

    rows: [query heads, sequences * queries, width] -> [sequences * queries, query heads, value width]
    """
    n, q, heads = group.sequences, group.queries, keys.shape[1]
    shared = rows.shape[0] // heads
    folded = rows.view(heads, shared, n, q, -1).permute(2, 0, 1, 3, 4).reshape(n, heads, shared * q, -1)
    attended = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
    unfolded = attended.view(n, heads, shared, q, -1).permute(0, 3, 1, 2, 4)
    return unfolded.reshape(n * q, heads * shared, -1)


def register() -> None:
    """Make the function known to transformers; without a mask function of that name it builds no mask."""
    AttentionInterface.register(NAME, packed_attention)
