"""Paged attention against torch's own attention over the same tokens in one piece, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.kernels.dispatch import forced
from graftwork.kernels.paged_attention import paged_attention


@pytest.mark.parametrize("twin", ["native", "reference"])
@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    heads=st.integers(1, 3),
    shared=st.integers(1, 3),
    width=st.sampled_from([4, 12, 64]),
    page=st.sampled_from([1, 3, 16]),
    window=st.sampled_from([0, 1, 5, 200]),
)
def test_it_is_attention_over_the_seen_positions(
    twin: str, lengths: list[int], heads: int, shared: int, width: int, page: int, window: int
) -> None:
    generator = torch.Generator().manual_seed(len(lengths) * 100 + lengths[0])
    owned = [-(-length // page) for length in lengths]
    keys = torch.randn(sum(owned), heads, width, page, generator=generator)
    values = torch.randn(sum(owned), heads, page, width, generator=generator)
    order = torch.randperm(sum(owned), generator=generator)
    table = torch.zeros(len(lengths), max(owned), dtype=torch.int32)
    query = torch.randn(len(lengths), heads * shared, width, generator=generator)
    expected = []
    for index, length in enumerate(lengths):
        mine = order[sum(owned[:index]) : sum(owned[: index + 1])]
        table[index, : owned[index]] = mine
        first = max(0, length - window) if window else 0
        k = keys[mine].permute(1, 0, 3, 2).reshape(heads, -1, width)[:, first:length].double()
        v = values[mine].transpose(0, 1).reshape(heads, -1, width)[:, first:length].double()
        q = query[index].double()[None, :, None]
        expected.append(F.scaled_dot_product_attention(q, k[None], v[None], scale=0.3, enable_gqa=True)[0, :, 0])
    with forced(twin):
        got: Any = paged_attention(
            query, keys, values, table, torch.tensor(lengths, dtype=torch.int32), scale=0.3, window=window
        )
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_pages_and_lengths_that_do_not_exist_are_refused() -> None:
    q, keys, values = torch.zeros(1, 2, 4), torch.zeros(2, 2, 4, 8), torch.zeros(2, 2, 8, 4)
    for page, length in ((2, 1), (-1, 1), (0, 0), (0, 9)):
        pages, lengths = (torch.tensor(item, dtype=torch.int32) for item in ([[page]], [length]))
        with forced("native"), pytest.raises(IndexError, match="sequence 0"):
            paged_attention(q, keys, values, pages, lengths, 1.0)
    with pytest.raises(ValueError, match="do not fit keys"):
        paged_attention(q, keys, values[:1], pages, lengths, 1.0)
