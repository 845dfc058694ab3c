from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graftwork.kernels.dispatch import forced
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.lora_fill import PoolRows, lora_fill

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(16, 64), (5, 130), (1, 257), (33, 63)]
"""Ranks and widths that fill whole tiles, and that do not."""

Factors = list[tuple[Tensor, float | None]]


def filled(
    factors: list[tuple[Tensor, float | None]], dtype: torch.dtype, twin: str
) -> tuple[list[Tensor], int | None]:
    """What the factors become in rows between others, and what is said of them."""
    content = torch.cat([values.contiguous().view(torch.uint8).flatten() for values, _ in factors])
    places, at = [], 0
    for values, _ in factors:
        places.append((at, safetensors_name(values.dtype)))
        at += values.nbytes
    shapes = [values.shape if scale is None else values.shape[::-1] for values, scale in factors]
    pools = [torch.full((rank + 4, width), 7.0, dtype=dtype) for rank, width in shapes]
    with forced(twin):
        fault = lora_fill(
            [PoolRows(pool, 2, len(pool) - 2) for pool in pools], content, places, [scale for _, scale in factors]
        )
    return pools, fault


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", DTYPES)
def test_factors_are_scaled_in_float32_and_rounded_once(stored: torch.dtype, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    factors: Factors = []
    for rank, width in SHAPES:
        factors += [(torch.randn(rank, width).to(stored), None), (torch.randn(width, rank).to(stored), 0.37)]
    for twin in ("native", "reference"):
        pools, fault = filled(factors, dtype, twin)
        assert fault is None
        for pool, (values, scale) in zip(pools, factors, strict=True):
            wanted = values.float() if scale is None else values.T.float() * torch.tensor(scale)
            assert torch.equal(pool[2:-2], wanted.to(dtype))
            assert (torch.cat([pool[:2], pool[-2:]]) == 7).all()


@pytest.mark.parametrize("twin", ["native", "reference"])
def test_the_first_factor_that_is_not_finite_in_the_rows_is_told(twin: str) -> None:
    fine, large, broken = torch.ones(3, 40), torch.full((40, 3), 6e4), torch.full((3, 40), torch.nan)
    factors: Factors = [(fine, None), (large, 2.0), (broken, None)]
    assert filled(factors, torch.float16, twin)[1] == 1  # after the scale
    assert filled(factors, torch.float32, twin)[1] == 2


def test_values_that_do_not_fit_their_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="another length"):
        lora_fill([PoolRows.all(torch.ones(2, 3))], torch.zeros(24, dtype=torch.uint8), [(0, "F32")], [])


def test_rows_that_a_pool_does_not_have_are_refused() -> None:
    with pytest.raises(IndexError, match="rows 1 to 3 of 2"):
        lora_fill([PoolRows(torch.ones(2, 3), 1, 3)], torch.zeros(24, dtype=torch.uint8), [(0, "F32")], [None])
