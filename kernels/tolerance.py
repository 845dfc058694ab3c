"""How far a twin may be from the reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Relative and absolute; both zero means the same bits, NaN in the same places."""

    rtol: float = 0.0
    atol: float = 0.0


EXACT = Tolerance()
"""Elementwise kernels fix the order of every operation, and counting is exact."""

SUMS: dict[str, Tolerance] = {
    "F64": Tolerance(1e-5, 1e-6),
    "F32": Tolerance(1e-5, 1e-6),
    "F16": Tolerance(1e-3, 1e-4),
    "BF16": Tolerance(8e-3, 1e-3),
}
"""Kernels that add along a row in float32 may add in another order; by the dtype of the result."""

DOUBLE_SUMS = Tolerance(1e-12, 1e-18)
"""Kernels that add in float64."""

EXPONENTIALS: dict[str, Tolerance] = {
    "F64": Tolerance(1e-6, 1e-5),
    "F32": Tolerance(1e-6, 1e-5),
    "F16": Tolerance(2e-3, 1e-5),
    "BF16": Tolerance(1.6e-2, 1e-5),
}
"""Elementwise kernels of e^x in float32: two places of the result, and what torch loses in 1 + tanh(x) near -1."""

TOLERANCES: dict[str, Tolerance | dict[str, Tolerance]] = {
    "linear": SUMS,
    "rms_norm": SUMS,
    "gated_product": EXPONENTIALS,
    "lora_shrink": SUMS["F32"],
    "lora_expand": SUMS,
    "paged_attention": SUMS,
    "gram": DOUBLE_SUMS,
    "abs_sum": DOUBLE_SUMS,
    "row_gram": DOUBLE_SUMS,
}


def tolerance(kernel: str, dtype: str) -> Tolerance:
    """The tolerance of a kernel whose inputs have a safetensors dtype; exact unless the table says otherwise."""
    entry = TOLERANCES.get(kernel, EXACT)
    return entry if isinstance(entry, Tolerance) else entry[dtype]
