"""Keys and values that lie in pages, as kernels are given them."""

from __future__ import annotations

from graftwork.kernels.arrays import Array
from graftwork.kernels.dtypes import FLOATS, safetensors_name


def check_pages(keys: Array, values: Array, pages: Array, spans: Array, **rows: Array) -> None:
    """`keys`, `values`, `pages` and `spans` must be as `paged_attention` describes them, `rows` packed beside them.

    Raises ValueError that names the one which is not.
    """
    dtype = safetensors_name(keys.dtype)
    if dtype not in FLOATS:
        raise ValueError(f"keys is {dtype}; the kernels take {', '.join(FLOATS)}")
    floats = [("keys", keys, 4, dtype), ("values", values, 4, dtype), *((name, rows[name], 3, dtype) for name in rows)]
    for name, array, ndim, expected in (*floats, ("pages", pages, 2, "I32"), ("spans", spans, 2, "I32")):
        if array.ndim != ndim or safetensors_name(array.dtype) != expected:
            raise ValueError(f"{name} must be {ndim}-dimensional {expected}, not {array.dtype} {tuple(array.shape)}")
    if tuple(values.shape[:3]) != (keys.shape[0], keys.shape[1], keys.shape[3]):
        raise ValueError(f"values {tuple(values.shape)} do not fit keys {tuple(keys.shape)}")
    if tuple(spans.shape) != (pages.shape[0], 2):
        raise ValueError(f"spans {tuple(spans.shape)} do not fit pages {tuple(pages.shape)}")
