"""New keys and values on their way into the pages that `paged_attention` reads."""

from __future__ import annotations

from graftwork.kernels.arrays import Array
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.paged import check_pages


@kernel
def paged_store(keys: Array, values: Array, key: Array, value: Array, pages: Array, spans: Array) -> None:
    """Write the packed rows of `key` and `value` to the places of their positions in `keys` and `values`.

    keys:   [pages, heads, width, page]        F64 F32 F16 BF16  a page's keys stand in columns
    values: [pages, heads, page, value width]  the same dtype
    key:    [rows, heads, width]               the same dtype
    value:  [rows, heads, value width]         the same dtype
    pages, spans: of the sequences, as `paged_attention` takes them

    No two sequences may store at one place. Pages and spans out of range are an error.

    Raises ValueError for dtypes and shapes that do not fit.
    """
    check_pages(keys, values, pages, spans, key=key, value=value)
    rows, heads = key.shape[0], keys.shape[1]
    if tuple(key.shape) != (rows, heads, keys.shape[2]) or tuple(value.shape) != (rows, heads, values.shape[3]):
        raise ValueError(f"key {tuple(key.shape)} and value {tuple(value.shape)} do not fit keys {tuple(keys.shape)}")
    paged_store.run(keys, values, key, value, pages, spans)
