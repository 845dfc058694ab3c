"""One call for both halves of a batched LoRA, and linear layers whose rows do not depend on each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.kernels.arrays import as_tensor
from graftwork.kernels.dispatch import forced, native_module
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.linear import linear
from graftwork.kernels.lora_expand import lora_expand
from graftwork.kernels.lora_plan import LoraPlan, LoraPool, Segments
from graftwork.kernels.lora_shrink import lora_shrink
from graftwork.settings import load_settings

DTYPES = (torch.bfloat16, torch.float32, torch.float16, torch.float64)
BATCHES = {
    "decode": ([0, 1, 2, -1, 3], [8, 17, 64, 5]),
    "ragged": ([0] * 5 + [1] * 6 + [2] * 7 + [3] * 61, [7, 5, 9, 30]),
    "mixed": ([0] * 37 + [-1] * 2 + [1] * 3 + [2] + [3] * 70, [12, 0, 33, 64]),
}
"""Slots and ranks."""


def batch(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int], list[int], list[int]]:
    slots, ranks = BATCHES[name]
    start = np.cumsum([1, *ranks[:-1]]).tolist()
    generator = torch.Generator().manual_seed(0)
    width, out, rows = 1100, 2500, sum(ranks) + 1  # more than one part of a dot product, and more than one tile
    x, a, b, y = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((len(slots), width), (rows, width), (rows, out), (len(slots), out))
    )
    return x, a, b, y, slots, start, ranks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BATCHES)
def test_a_plan_gives_the_bits_of_the_two_kernels(name: str, dtype: torch.dtype) -> None:
    x, a, b, y, slots, start, ranks = batch(name, dtype)
    expected = y.clone()
    first, rank, slot = (torch.tensor(each, dtype=torch.int32) for each in (start, ranks, slots))
    with forced("native"):
        lora_expand(expected, lora_shrink(x, a, first, rank, slot), b, first, rank, slot)
    assert LoraPlan(LoraPool(a, b), start, ranks).add(y, x, Segments(slots))
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BATCHES)
def test_a_token_gets_the_same_bits_alone(name: str, dtype: torch.dtype) -> None:
    x, a, b, y, slots, start, ranks = batch(name, dtype)
    together, plan = y.clone(), LoraPlan(LoraPool(a, b), start, ranks)
    plan.add(together, x, Segments(slots))
    for token, slot in enumerate(slots):
        plan.add(y[token : token + 1], x[token : token + 1], Segments([slot]))
    assert torch.equal(y, together)


def test_a_plan_refuses_what_it_would_misread() -> None:
    x, a, b, y, slots, start, ranks = batch("decode", torch.float32)
    plan = LoraPlan(LoraPool(a, b), start, ranks)
    assert not plan.add(y.half(), x, Segments(slots))
    assert not plan.add(y.t().contiguous().t(), x, Segments(slots))
    with pytest.raises(ValueError, match="are not those of 4 tokens"):
        plan.add(y, x, Segments(slots[:4]))
    with pytest.raises(IndexError, match="slot 4 does not exist"):
        plan.add(y[:1], x[:1], Segments([4]))
    with pytest.raises(IndexError, match="the rows of slot 0 do not exist"):
        LoraPlan(LoraPool(a, b), [len(a)], [1])
    with forced("reference"):
        assert not LoraPool.takes(a, b)


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6, 7, 8, 13, 18, 71])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_linear_layer_gets_the_same_bits_alone(dtype: torch.dtype, rows: int) -> None:
    x, w, bias = (torch.randn(*shape).to(dtype) for shape in ((rows, 1100), (70, 1100), (70,)))
    together = as_tensor(linear(x, w, bias))
    for row in range(len(x)):
        assert torch.equal(as_tensor(linear(x[row : row + 1], w, bias))[0], together[row])


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_no_bit(threads: int) -> None:
    module = native_module()
    x, a, b, y, slots, start, ranks = batch("mixed", torch.bfloat16)
    expected, plan = y.clone(), LoraPlan(LoraPool(a, b), start, ranks)
    plan.add(expected, x, Segments(slots))
    weight = torch.randn(3000, 1100).bfloat16()
    product = as_tensor(linear(x, weight))
    assert module is not None
    module.set_threads(threads)
    try:
        plan.add(y, x, Segments(slots))
        assert torch.equal(y, expected)
        assert torch.equal(as_tensor(linear(x, weight)), product)
    finally:
        module.set_threads(1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BATCHES)
def test_a_layer_gives_the_bits_of_its_base_and_its_plan(name: str, dtype: torch.dtype) -> None:
    x, a, b, y, slots, start, ranks = batch(name, dtype)
    native: Any = native_module()
    w, bias = torch.randn(b.shape[1], a.shape[1]).to(dtype), torch.randn(b.shape[1]).to(dtype)
    plan, rows = LoraPlan(LoraPool(a, b), start, ranks), Segments(slots)
    expected: Any = linear(x, w, bias)
    name_of = safetensors_name(dtype)
    layer = native.LinearLayer(*(native.Array(each.data_ptr(), name_of, each.shape) for each in (w, bias)))
    layer.compute(y.data_ptr(), x.data_ptr(), len(x), (None, None))
    assert torch.equal(y, expected)
    plan.add(expected, x, rows)
    layer.compute(y.data_ptr(), x.data_ptr(), len(x), (rows.native, plan.native))
    assert torch.equal(y, expected)
    other = LoraPlan(LoraPool(a, a.clone()), start, ranks)
    for added in ((Segments(slots[1:]).native, plan.native), (None, plan.native), (rows.native, other.native)):
        with pytest.raises(ValueError, match="not one of this layer"):
            layer.compute(y.data_ptr(), x.data_ptr(), len(x), added)


def test_small_calls_from_many_threads_keep_their_bits() -> None:
    """Calls follow each other faster than threads wake up, or come while another's runs."""
    native: Any = native_module()
    given = [(torch.randn(tokens, 256), torch.randn(out, 256)) for tokens, out in ((20, 512), (33, 1000), (60, 300))]
    expected = [as_tensor(linear(x, w)) for x, w in given]

    def call(first: int) -> bool:
        turns = [(first + turn) % 3 for turn in range(600)]
        return all(torch.equal(as_tensor(linear(*given[turn])), expected[turn]) for turn in turns)

    try:
        native.set_threads(4)
        with ThreadPoolExecutor(3) as callers:
            assert all(callers.map(call, range(3)))
    finally:
        native.set_threads(load_settings().threads)
