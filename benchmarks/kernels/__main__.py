"""Bytes per second of every kernel and twin beside those of a plain copy: `python -m benchmarks.kernels [KERNEL ...]`.

The bytes of a call are those of its arguments, each once; a copy reads and writes every byte. On a GPU several calls
are queued before they are waited for, so that a launch counts only where it is not hidden behind the call before.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from graftwork.errors import InvalidSetting
from graftwork.kernels.arrays import as_tensor, with_arrays
from graftwork.kernels.case import Case
from graftwork.kernels.catalogue import catalogue, workload
from graftwork.kernels.dispatch import Kernel, forced
from graftwork.merge.device.accelerator import check_device

COPY_BYTES = 1 << 27
MINIMUM_SECONDS = 0.3
QUEUED = 10
"""Calls on a GPU before they are waited for."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Times calls on a device: so many in a row, then until all are through."""

    device: str
    calls: int
    synchronize: Callable[[], object]

    @classmethod
    def of(cls, device: str) -> Clock:
        """One call at a time on the CPU, which is through when it returns."""
        import torch

        return cls(device, 1, lambda: None) if device == "cpu" else cls(device, QUEUED, torch.cuda.synchronize)

    def best_seconds(self, call: Callable[[], object]) -> float:
        """The shortest time a call, of the rounds that fit `MINIMUM_SECONDS`, at least three, after one to warm up."""
        call()
        self.synchronize()
        times: list[float] = []
        while len(times) < 3 or sum(times) < MINIMUM_SECONDS:
            begin = time.perf_counter()
            for _ in range(self.calls):
                call()
            self.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times) / self.calls


def twins_on(kernel: Kernel[..., Any], device: str, case: Case) -> Iterator[str]:
    """The twins that take the case on a device."""
    arguments = tuple(on(device, case.arguments).values())
    yield from (twin for twin in ("reference", "native", "fused") if kernel.refusal(twin, *arguments) is None)


def on(device: str, arguments: Any) -> dict[str, Any]:
    """The arguments, their arrays moved to a device."""
    if device == "cpu":
        return dict(arguments)
    return {name: with_arrays(value, lambda array: as_tensor(array).to(device)) for name, value in arguments.items()}


def copy_speed(clock: Clock) -> float:
    """Bytes read and written per second by a copy of 128 MB."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    if clock.device == "cpu":
        return 2 * COPY_BYTES / clock.best_seconds(partial(np.copyto, target, source))
    read, write = as_tensor(source).to(clock.device), as_tensor(target).to(clock.device)
    return 2 * COPY_BYTES / clock.best_seconds(partial(write.copy_, read))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--dtype", default="BF16", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, or a torch device such as cuda")
@click.option("--threads", default=1, show_default=True, help="threads of torch on the CPU; the natives run on one")
def main(names: tuple[str, ...], dtype: str, device: str, threads: int) -> None:
    """Measure the kernels called NAMES, or all of them."""
    import torch

    try:
        check_device(device)
    except InvalidSetting as error:
        raise click.ClickException(str(error)) from None
    torch.set_num_threads(threads)
    on_gpu = device != "cpu"
    clock = Clock.of(device)
    floor = copy_speed(clock)
    machine = torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()}, {os.cpu_count()} cores"
    table = Table(title=f"{dtype} on {machine}; copy {floor / 1e9:.1f} GB/s")
    for column in ("kernel", "twin", "ms", "GB/s", "of copy"):
        table.add_column(column, justify="left" if column in ("kernel", "twin") else "right")
    kernels = catalogue()
    for name in names or kernels:
        case = workload(name, dtype)
        for twin in twins_on(kernels[name], device, case):
            with forced(twin):
                seconds = clock.best_seconds(partial(kernels[name], **on(device, case.arguments)))
            speed = case.nbytes / seconds
            table.add_row(name, twin, f"{seconds * 1e3:.2f}", f"{speed / 1e9:.2f}", f"{speed / floor:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
