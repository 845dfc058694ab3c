"""What masks say that the attention is not told, found out when a model is loaded: packed attention has no masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from graftwork.adapters.engine import attention

NAME = "graftwork_watched"
_untold: ContextVar[set[int]] = ContextVar("untold")


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[set[int]]:
    """Within the block, forwards of a model with packed attention are watched.

    Yields the set of the reaches (in tokens) that masks would set while the attention is told of another window or of
    none. A layer that is given a mask of its own making raises UnsupportedAttentionError.
    """
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _reach)
    untold = set[int]()
    token = _untold.set(untold)
    model.set_attn_implementation(NAME)
    try:
        yield untold
    finally:
        model.set_attn_implementation(attention.NAME)
        _untold.reset(token)


def _reach(*, device: torch.device, local_size: int | None = None, **others: Any) -> Tensor:
    """In the place of a mask, how many tokens it lets a row see; 0 for all. -> [1, 1, 1, 1]"""
    return torch.full((1, 1, 1, 1), local_size or 0, dtype=torch.int32, device=device)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    if attention_mask is not None:
        if attention_mask.shape != (1, 1, 1, 1) or attention_mask.dtype != torch.int32:
            raise attention.UnsupportedAttentionError("its attention needs a mask of its own making")
        reach = int(attention_mask)
        if reach and reach != options.get("sliding_window"):
            _untold.get().add(reach)
    return attention.packed_attention(module, query, key, value, None, **options)
