"""Both halves of a batched LoRA in one native call, prepared once for many steps.

`lora_shrink` and `lora_expand` check and describe their arguments on every call, which costs more than a small batch
takes to compute. An inference step calls every layer with the same adapters in the same pools: a plan describes them
once, and a call hands over two addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graftwork.kernels.arrays import Array, address, device, is_contiguous
from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.lora_shrink import lora_shrink


class Segments:
    """Which tokens of a step follow each other with the same slot (-1 for none); made once a step."""

    def __init__(self, slots: Sequence[int]) -> None:
        self.tokens = len(slots)
        module: Any = native_module()
        self.native = module.LoraRows(slots)


class LoraPool:
    """One layer's rank rows: a [rows, in] and b [rows, out], of one dtype: F64 F32 F16 BF16."""

    def __init__(self, a: Array, b: Array) -> None:
        self._kept = a, b  # their addresses are
        self.dtype, self.width, self.out = a.dtype, a.shape[1], b.shape[1]
        self.views = [native_view(each) for each in (a, b)]

    @staticmethod
    def takes(a: Array, b: Array) -> bool:
        """Whether these can be a pool here: in host memory, of one dtype, with the native module."""
        return a.dtype == b.dtype and lora_shrink.choice(a, b) == "native"


class LoraPlan:
    """`y[t] += sum_r (a[start[slot[t]] + r] . x[t]) * b[start[slot[t]] + r]`, on the CPU.

    start, rank: of each slot, as in `lora_shrink`

    The same bits as the native twins of `lora_shrink` and `lora_expand`. Raises IndexError for rows that do not exist.
    """

    def __init__(self, pool: LoraPool, start: Sequence[int], rank: Sequence[int]) -> None:
        module: Any = native_module()
        self._pool = pool
        self.native = module.LoraPlan([module.LoraLayer(*pool.views, start, rank, 0)])
        self.dtype = pool.dtype

    def add(self, y: Array, x: Array, segments: Segments) -> bool:
        """Add to y [tokens, out] in place; False, and nothing done, for arrays that are not laid out like the pools."""
        pool = self._pool
        if y.dtype != pool.dtype or x.dtype != pool.dtype or not (is_contiguous(y) and is_contiguous(x)):
            return False
        if tuple(x.shape) != (segments.tokens, pool.width) or tuple(y.shape) != (segments.tokens, pool.out):
            raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} are not those of {segments.tokens} tokens")
        if device(x) != "cpu" or device(y) != "cpu":
            return False
        self.native.add(segments.native, address(x), address(y), pool.out)
        return True
