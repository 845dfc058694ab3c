"""A batched LoRA by our kernels and by others' ways: `python -m benchmarks.kernels.lora [--dtype BF16] [--threads 1]`.

A layer of 1024 by 2816; adapters of ranks 8, 16, 32 and 64 in turn, each on the same number of tokens. The bytes of a
call are those of the factors it needs, at their true ranks, once each; beside them stands a copy, which reads and
writes. Every call meets other factors than the one before, as the layers of a model do, so that none is in a cache.

    ours             one native call for all adapters (kernels.lora_plan)
    loop             for every adapter two matrix products on its rows: PEFT's mixed batches
    padded bmm       factors padded to the largest rank and stacked, two batched products over equally long segments
    gather per row   every row gathers its adapter's padded factors, then einsum: vLLM's operators on a CPU
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from graftwork.kernels.dispatch import native_module
from graftwork.kernels.lora_plan import LoraPlan, LoraPool, Segments

IN, OUT = 1024, 2816
RANKS = (8, 16, 32, 64)
SHAPES = ((1, 32), (8, 4), (32, 1), (1, 512), (8, 64))
"""Adapters, and tokens of each."""
LAYER_BYTES = 200_000_000
"""Of all layers together: more than the caches hold."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's factors, in the form that each way wants."""

    a: list[Tensor]
    b: list[Tensor]
    padded_a: Tensor
    padded_b: Tensor
    plan: LoraPlan
    kept: tuple[Tensor, Tensor]


def build_layer(ranks: list[int], dtype: torch.dtype) -> Layer:
    """Random factors of these ranks."""
    a = [torch.randn(rank, IN).to(dtype) for rank in ranks]
    b = [torch.randn(rank, OUT).to(dtype) for rank in ranks]
    most, starts = max(ranks), [0, *itertools.accumulate(ranks)][:-1]
    padded_a, padded_b = (torch.zeros(len(ranks), most, width, dtype=dtype) for width in (IN, OUT))
    for index, rank in enumerate(ranks):
        padded_a[index, :rank], padded_b[index, :rank] = a[index], b[index]
    pools = torch.cat(a), torch.cat(b)
    return Layer(a, b, padded_a, padded_b, LoraPlan(LoraPool(*pools), starts, ranks), pools)


def ways(x: Tensor, y: Tensor, adapters: int) -> Iterator[tuple[str, Callable[[Layer], object]]]:
    """The ways to add every row's low rank to y."""
    count = len(x) // adapters
    index = torch.arange(adapters).repeat_interleave(count)
    segments = Segments(index.tolist())

    def loop(layer: Layer) -> None:
        for slot in range(adapters):
            rows = slice(slot * count, (slot + 1) * count)
            y[rows] += x[rows] @ layer.a[slot].t() @ layer.b[slot]

    def padded(layer: Layer) -> None:
        hidden = torch.bmm(x.view(adapters, count, IN), layer.padded_a.transpose(1, 2))
        y.view(adapters, count, OUT).baddbmm_(hidden, layer.padded_b)

    def gather(layer: Layer) -> None:
        hidden = torch.einsum("bi,bri->br", x, layer.padded_a[index])
        y.add_(torch.einsum("br,bro->bo", hidden, layer.padded_b[index]))

    yield "ours", lambda layer: layer.plan.add(y, x, segments)
    yield "loop", loop
    yield "padded bmm", padded
    if count <= 4:
        yield "gather per row", gather


def seconds_a_call(call: Callable[[Layer], object], layers: list[Layer]) -> float:
    """CPU seconds of the fastest of three passes over the layers, after one to warm up."""
    times = []
    for _ in range(4):
        began = time.process_time()
        for layer in layers:
            call(layer)
        times.append((time.process_time() - began) / len(layers))
    return min(times[1:])


def copy_speed() -> float:
    """Bytes read and written per CPU second by a copy of 128 MB."""
    source = torch.ones(1 << 27, dtype=torch.uint8)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        began = time.process_time()
        target.copy_(source)
        times.append(time.process_time() - began)
    return 2 * len(source) / min(times)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--dtype", type=click.Choice(["bfloat16", "float32"]), default="bfloat16", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@torch.inference_mode()
def main(dtype: str, threads: int) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    native = native_module()
    if native is None:
        raise click.ClickException("the native module was not built")
    native.set_threads(threads)
    floor = copy_speed()
    table = Table("adapters", "tokens each", "way", "µs", "GB/s", "of copy", "GFLOP/s")
    for adapters, count in SHAPES:
        ranks = [32] if adapters == 1 else [RANKS[index % len(RANKS)] for index in range(adapters)]
        number = sum(ranks) * (IN + OUT)
        moved = number * getattr(torch, dtype).itemsize
        layers = [build_layer(ranks, getattr(torch, dtype)) for _ in range(max(2, min(64, LAYER_BYTES // moved)))]
        x, y = (torch.randn(adapters * count, width).to(getattr(torch, dtype)) for width in (IN, OUT))
        for name, call in ways(x, y, adapters):
            seconds = seconds_a_call(call, layers)
            speed, work = moved / seconds, 2 * number * count / seconds
            table.add_row(
                str(adapters), str(count), name, f"{seconds * 1e6:.0f}", f"{speed / 1e9:.1f}", f"{speed / floor:.0%}",
                f"{work / 1e9:.0f}",
            )  # fmt: skip
    Console().print(f"{dtype}, {threads} threads; a copy moves {floor / 1e9:.1f} GB/s")
    Console().print(table)


if __name__ == "__main__":
    main()
