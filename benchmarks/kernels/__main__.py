"""Bytes per second of every kernel and twin beside those of a plain copy: `python -m benchmarks.kernels [KERNEL ...]`.

The bytes of a call are those of its arguments, each once; a copy reads and writes every byte.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from graftwork.kernels.arrays import as_tensor, with_arrays
from graftwork.kernels.case import Case
from graftwork.kernels.catalogue import catalogue, workload
from graftwork.kernels.dispatch import Kernel, forced

COPY_BYTES = 1 << 27
MINIMUM_SECONDS = 0.3


def best_seconds(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """The shortest of the calls that fit `MINIMUM_SECONDS`, at least three, after one to warm up."""
    call()
    synchronize()
    times: list[float] = []
    while len(times) < 3 or sum(times) < MINIMUM_SECONDS:
        begin = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def twins_on(kernel: Kernel[..., Any], device: str, case: Case) -> Iterator[str]:
    """The twins that take the case on a device."""
    arguments = tuple(on(device, case.arguments).values())
    yield from (twin for twin in ("reference", "native", "fused") if kernel.refusal(twin, *arguments) is None)


def on(device: str, arguments: Any) -> dict[str, Any]:
    """The arguments, their arrays moved to a device."""
    if device == "cpu":
        return dict(arguments)
    return {name: with_arrays(value, lambda array: as_tensor(array).to(device)) for name, value in arguments.items()}


def copy_speed(device: str, synchronize: Callable[[], object]) -> float:
    """Bytes read and written per second by a copy of 128 MB."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    if device == "cpu":
        return 2 * COPY_BYTES / best_seconds(partial(np.copyto, target, source), synchronize)
    read, write = as_tensor(source).to(device), as_tensor(target).to(device)
    return 2 * COPY_BYTES / best_seconds(partial(write.copy_, read), synchronize)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--dtype", default="BF16", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or a torch device such as cuda")
@click.option("--threads", default=1, show_default=True, help="threads of torch on the CPU; the natives run on one")
def main(names: tuple[str, ...], dtype: str, device: str, threads: int) -> None:
    """Measure the kernels called NAMES, or all of them."""
    import torch

    torch.set_num_threads(threads)
    on_gpu = device != "cpu"
    synchronize: Callable[[], object] = torch.cuda.synchronize if on_gpu else lambda: None
    floor = copy_speed(device, synchronize)
    machine = torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=f"{dtype} on {machine}; copy {floor / 1e9:.1f} GB/s")
    for column in ("kernel", "twin", "ms", "GB/s", "of copy"):
        table.add_column(column, justify="left" if column in ("kernel", "twin") else "right")
    kernels = catalogue()
    for name in names or kernels:
        case = workload(name, dtype)
        for twin in twins_on(kernels[name], device, case):
            with forced(twin):
                seconds = best_seconds(partial(kernels[name], **on(device, case.arguments)), synchronize)
            speed = case.nbytes / seconds
            table.add_row(name, twin, f"{seconds * 1e3:.2f}", f"{speed / 1e9:.2f}", f"{speed / floor:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
