"""Paged attention against torch's own attention over the same tokens in one piece, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.kernels.dispatch import forced, native_module
from graftwork.kernels.paged_attention import paged_attention
from graftwork.kernels.paged_store import paged_store
from graftwork.kernels.tolerance import SUMS
from graftwork.settings import load_settings

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SCALE = 0.3


class Paged:
    """Sequences of random tokens in pages that are strewn about, everything else NaN."""

    def __init__(
        self,
        spans: list[tuple[int, int]],
        heads: int,
        shared: int,
        widths: tuple[int, int],
        page: int,
        dtype: torch.dtype,
    ) -> None:
        """`spans`: rows and positions; `widths`: of keys and of values."""
        generator = torch.Generator().manual_seed(sum(length for _, length in spans) + page)
        owned = [-(-length // page) for _, length in spans]
        order = (torch.randperm(sum(owned), generator=generator) + 1).to(torch.int32)

        def tokens(count: int, width: int, of: int = heads) -> Tensor:
            return torch.randn(count, of, width, generator=generator).to(dtype)

        self.pages = torch.zeros(len(spans), max(owned), dtype=torch.int32)
        for index, count in enumerate(owned):
            self.pages[index, :count] = order[sum(owned[:index]) :][:count]
        self.spans = torch.tensor(spans, dtype=torch.int32)
        self.keys = torch.full((sum(owned) + 1, heads, widths[0], page), torch.nan, dtype=dtype)
        self.values = torch.full((sum(owned) + 1, heads, page, widths[1]), torch.nan, dtype=dtype)
        self.key = [tokens(length, widths[0]) for _, length in spans]
        self.value = [tokens(length, widths[1]) for _, length in spans]
        self.q = tokens(sum(count for count, _ in spans), widths[0], heads * shared)
        whole = self.spans[:, 1:].repeat(1, 2)
        paged_store(self.keys, self.values, torch.cat(self.key), torch.cat(self.value), self.pages, whole)

    def attend(self, window: int) -> Any:
        """All rows at once."""
        return paged_attention(self.q, self.keys, self.values, self.pages, self.spans, SCALE, window)

    def places(self) -> Iterator[tuple[int, int, int]]:
        """The row, the sequence and the length of the sequence up to it, of every row."""
        row = 0
        for sequence, (count, length) in enumerate(self.spans.tolist()):
            for end in range(length - count + 1, length + 1):
                yield row, sequence, end
                row += 1

    def expected(self, window: int) -> Tensor:
        """Each row by itself, in float64."""
        rows = []
        for row, sequence, end in self.places():
            seen = slice(max(0, end - window) if window else 0, end)
            q, k, v = (
                tensor.double().transpose(0, 1)[None]
                for tensor in (self.q[row : row + 1], self.key[sequence][seen], self.value[sequence][seen])
            )
            rows.append(F.scaled_dot_product_attention(q, k, v, scale=SCALE, enable_gqa=True)[0, :, 0])
        return torch.stack(rows)


SPANS = st.integers(1, 150).flatmap(
    lambda length: st.tuples(st.one_of(st.just(1), st.just(length), st.integers(1, length)), st.just(length))
)


@settings(max_examples=40, deadline=None)
@given(
    spans=st.lists(SPANS, min_size=1, max_size=4),
    heads=st.integers(1, 3),
    shared=st.integers(1, 8),
    widths=st.sampled_from([(4, 4), (16, 16), (33, 33), (64, 64), (24, 16), (80, 65), (256, 256)]),
    page=st.sampled_from([1, 3, 16, 64, 100]),
    window=st.sampled_from([0, 1, 5, 70, 200]),
    dtype=st.sampled_from(list(DTYPES)),
)
def test_it_is_attention_over_the_seen_positions(
    spans: list[tuple[int, int]],
    heads: int,
    shared: int,
    widths: tuple[int, int],
    page: int,
    window: int,
    dtype: str,
) -> None:
    paged = Paged(spans, heads, shared, widths, page, DTYPES[dtype])
    expected, allowed = paged.expected(window), SUMS[dtype]
    for twin in ("native", "reference"):
        with forced(twin):
            got = paged.attend(window)
        torch.testing.assert_close(got.double(), expected, rtol=allowed.rtol, atol=max(allowed.atol, 1e-5))


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("window", [0, 37])
def test_a_row_gets_the_same_bits_alone_in_a_chunk_and_from_any_number_of_threads(dtype: str, window: int) -> None:
    native = native_module()
    assert native is not None
    spans = [(300, 300), (1, 90), (130, 400), (2, 2), (1, 1)]
    paged = Paged(spans, heads=2, shared=3, widths=(64, 64), page=16, dtype=DTYPES[dtype])
    with forced("native"):
        got = paged.attend(window)
        for row, sequence, end in paged.places():
            pages, span = paged.pages[sequence : sequence + 1], torch.tensor([[1, end]], dtype=torch.int32)
            alone = paged_attention(paged.q[row : row + 1], paged.keys, paged.values, pages, span, SCALE, window)
            assert torch.equal(alone[0], got[row]), f"row {row}"
        try:
            for threads in (1, 3):
                native.set_threads(threads)
                assert torch.equal(paged.attend(window), got)
        finally:
            native.set_threads(load_settings().threads)


def test_pages_and_spans_that_do_not_exist_are_refused() -> None:
    q, keys, values = torch.zeros(1, 2, 4), torch.zeros(2, 2, 4, 8), torch.zeros(2, 2, 8, 4)
    for page, span in ((2, (1, 1)), (-1, (1, 1)), (0, (0, 1)), (0, (1, 9)), (0, (1, 0)), (0, (2, 1)), (0, (2, 2))):
        pages, spans = (torch.tensor([item], dtype=torch.int32) for item in ([page], span))
        message = "other rows" if span == (2, 2) else "sequence 0"
        with forced("native"), pytest.raises(IndexError, match=message):
            paged_attention(q, keys, values, pages, spans, 1.0)
        with forced("native"), pytest.raises(IndexError, match=message):
            paged_store(keys, values, q, q, pages, spans)
    with pytest.raises(ValueError, match="do not fit keys"):
        paged_attention(q, keys, values[:1], pages, spans, 1.0)
    with pytest.raises(ValueError, match="do not fit pages"):
        paged_attention(q, keys, values, pages, spans[0, None, :1], 1.0)
    with pytest.raises(ValueError, match="pages must be 2-dimensional I32"):
        paged_store(keys, values, q, q, pages.long(), spans)
    with pytest.raises(ValueError, match="do not fit keys"):
        paged_store(keys, values, q[:, :1], q, pages, spans)
