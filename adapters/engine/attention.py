"""Attention over packed sequences, registered with transformers under a name of its own."""

from __future__ import annotations

from typing import Any

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
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return cache_view.attend(layer, q, k, v, scale, sliding_window)[None], None


def register() -> None:
    """Make the function known to transformers; without a mask function of that name it builds no mask."""
    AttentionInterface.register(NAME, packed_attention)
