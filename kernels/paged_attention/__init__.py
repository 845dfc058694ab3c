"""Attention of each sequence's newest tokens to keys and values that lie in pages."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.paged import check_pages


@kernel
def paged_attention(
    q: Array, keys: Array, values: Array, pages: Array, spans: Array, scale: float, window: int = 0
) -> Array:
    """`out[r, h] = softmax(scale * q[r, h] . k[t, g]) v[t, g]` over the positions t of row r's sequence up to its own.

    Query heads share key heads in order: g = h * heads // query heads.

    q:       [rows, query heads, width]         F64 F32 F16 BF16  the sequences' newest tokens, one after the other
    keys:    [pages, heads, width, page]        the same dtype    a page's keys stand in columns
    values:  [pages, heads, page, value width]  the same dtype
    pages:   [sequences, most] I32  which pages hold a sequence, in order; what is beyond its last one is not read, but
                                    must be a page that exists
    spans:   [sequences, 2] I32     how many rows each sequence has in q, at least 1, and how many positions, those of
                                    its rows, which are the last, included; may lie on the host
    scale:   of the scores
    window:  how many positions up to its own a row sees; 0 is all of them
    ->       [rows, query heads, value width], dtype and device of q

    Scores, softmax and sums are float32, rounded once. Only positions that are seen are read, so other sequences and
    unwritten places cannot show. The native twin gives a row the same bits whatever else is in the batch, and however
    many rows of its sequence. Pages and spans out of range are an error on the CPU and undefined on a GPU.

    Raises ValueError for dtypes and shapes that do not fit.
    Source: PagedAttention, arXiv:2309.06180, section 4.1.
    """
    check_pages(keys, values, pages, spans, q=q)
    if keys.shape[2] != q.shape[2] or q.shape[1] % keys.shape[1]:
        raise ValueError(f"q {tuple(q.shape)} does not fit keys {tuple(keys.shape)}")
    out = empty((q.shape[0], q.shape[1], values.shape[3]), safetensors_name(q.dtype), like=q)
    paged_attention.run(out, q, keys, values, pages, spans, scale, window)
    return out
