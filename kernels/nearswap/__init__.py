"""A step of bounded length from the base towards another model."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, check_output, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def nearswap(out: Array, base: Array, x: Array, t: float, scale: float = 1.0) -> None:
    """Write `base + scale * clamp(x - base, -t, t)`.

    out, base, x: any shape, F64 F32 F16 BF16; out may be base or x
    t:            0 or more

    Every value is first rounded to float32, each operation is rounded to float32 and none is contracted: all twins give
    the same bits. A NaN stays NaN.

    Raises ValueError for other dtypes, shapes that differ and a negative t.
    Source: alchemonaut's QuartetAnemoi-70B; mergekit, `nearswap`.
    """
    check_slices(out=out, base=base, x=x)
    check_output(out)
    if not t >= 0:
        raise ValueError(f"t is {t}; expected 0 or more")
    nearswap.run(out, base, x, t, scale)
