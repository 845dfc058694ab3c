"""Attention in both directions over packed sequences, registered with transformers under a name of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor, nn
from transformers import AttentionInterface

from graftwork.adapters.engine.attention import UNSUPPORTED, UnsupportedAttentionError

NAME = "graftwork_encoder"


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring packed sequences of one length: rows `row..row + sequences * length`, computed in one call."""

    row: int
    sequences: int
    length: int

    @property
    def rows(self) -> slice:
        """Its packed rows."""
        return slice(self.row, self.row + self.sequences * self.length)


class Spans:
    """Where the sequences of a packed batch lie."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """`lengths`: of the sequences, in the order they are packed; each at least 1."""
        self.sequences = len(lengths)
        self.rows = sum(lengths)
        self.runs = list(_runs(lengths))
        starts = torch.tensor([0, *lengths[:-1]], device=device)
        self.firsts = starts.cumsum(0)
        """[sequences]: the first row of each."""
        self._windows: dict[tuple[int, int], Tensor] = {}
        self._device = device

    def window(self, length: int, width: int) -> Tensor | None:
        """Which positions see which when only those less than `width` apart do: bool [length, length]; None for all."""
        if length <= width:
            return None
        if (length, width) not in self._windows:
            place = torch.arange(length, device=self._device)
            self._windows[length, width] = (place[:, None] - place).abs() < width
        return self._windows[length, width]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    spans: Spans | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Each packed row attends to all rows of its own sequence (those less than `sliding_window` away, if given).

    query:      [1, query heads, rows, width]
    key, value: [1, heads, rows, width]; query heads are a multiple of heads (grouped queries)
    spans:      where the sequences lie
    ->          [1, rows, query heads, value width]

    Sequences are never padded: one call computes neighbours of equal length. Raises UnsupportedAttentionError naming
    what the model asks for and this does not compute.
    """
    refused = [name for name in UNSUPPORTED if others.get(name) is not None]
    if getattr(module, "is_causal", False) or others.get("is_causal"):
        refused.append("a causal mask")
    if refused or spans is None:
        raise UnsupportedAttentionError(f"its attention needs {', '.join(refused) or 'spans'}")
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [rows, heads, width]
    out = query.new_empty(queries.shape[0], queries.shape[1], values.shape[-1])
    for run in spans.runs:
        q, k, v = (_folded(tensor, run) for tensor in (queries, keys, values))
        mask = None if sliding_window is None else spans.window(run.length, sliding_window)
        shared = q.shape[1] != k.shape[1]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=shared)
        _folded(out, run).copy_(attended)
    return out[None], None


def register() -> None:
    """Make the function known to transformers; without a mask function of that name it builds no mask."""
    AttentionInterface.register(NAME, packed_attention)


def _folded(rows: Tensor, run: Run) -> Tensor:
    """The run's rows of [rows, heads, width] as a view [sequences, heads, length, width]."""
    return rows[run.rows].view(run.sequences, run.length, *rows.shape[1:]).transpose(1, 2)


def _runs(lengths: Sequence[int]) -> Iterable[Run]:
    row, first = 0, 0
    for index in range(1, len(lengths) + 1):
        if index == len(lengths) or lengths[index] != lengths[first]:
            yield Run(row, index - first, lengths[first])
            row += (index - first) * lengths[first]
            first = index
