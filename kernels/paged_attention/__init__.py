"""Attention of one new token a sequence to keys and values that lie in pages."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, empty
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import FLOATS, safetensors_name


@kernel
def paged_attention(
    q: Array, keys: Array, values: Array, pages: Array, lengths: Array, scale: float, window: int = 0
) -> Array:
    """`out[s, h] = softmax(scale * q[s, h] . k[t, g]) v[t, g]` over the positions t of sequence s.

    Query heads share key heads in order: g = h * heads // query heads.

    q:       [sequences, query heads, width]       F64 F32 F16 BF16  each sequence's newest token
    keys:    [pages, heads, width, page]           the same dtype    a page's keys stand in columns
    values:  [pages, heads, page, value width]     the same dtype
    pages:   [sequences, most] I32  which pages hold a sequence, in order; what is beyond its last one is not read, but
                                    must be a page that exists
    lengths: [sequences] I32        positions of each sequence, at least 1, the newest token included
    scale:   of the scores
    window:  how many of the last positions are seen; 0 is all of them
    ->       [sequences, query heads, value width], dtype and device of q

    Scores, softmax and sums are float32, rounded once. Only positions that are seen are read, so other sequences and
    unwritten places cannot show. The native twin gives a sequence the same bits whatever else is in the batch. Pages
    and lengths out of range are an error on the CPU and undefined on a GPU.

    Raises ValueError for dtypes and shapes that do not fit.
    Source: PagedAttention, arXiv:2309.06180, section 4.1.
    """
    for name, array, ndim in (("q", q, 3), ("keys", keys, 4), ("values", values, 4)):
        if array.ndim != ndim or safetensors_name(array.dtype) not in FLOATS or array.dtype != q.dtype:
            raise ValueError(f"{name} must be {ndim}-dimensional {q.dtype}, not {array.dtype} {tuple(array.shape)}")
    for name, array, ndim in (("pages", pages, 2), ("lengths", lengths, 1)):
        if array.ndim != ndim or safetensors_name(array.dtype) != "I32":
            raise ValueError(f"{name} must be {ndim}-dimensional I32, not {array.dtype} {tuple(array.shape)}")
    if keys.shape[2] != q.shape[2] or q.shape[1] % keys.shape[1]:
        raise ValueError(f"q {tuple(q.shape)} does not fit keys {tuple(keys.shape)}")
    if tuple(values.shape[:3]) != (keys.shape[0], keys.shape[1], keys.shape[3]):
        raise ValueError(f"values {tuple(values.shape)} do not fit keys {tuple(keys.shape)}")
    if pages.shape[0] != q.shape[0] or lengths.shape[0] != q.shape[0]:
        raise ValueError(f"pages and lengths must have {q.shape[0]} sequences")
    out = empty((q.shape[0], q.shape[1], values.shape[3]), safetensors_name(q.dtype), like=q)
    paged_attention.run(out, q, keys, values, pages, lengths, scale, window)
    return out
