"""The floor under any merge: read every byte of the inputs, write the bytes of the output, and no more.

    python -m benchmarks.merge.floor [--to-disk] OUTPUT BYTES INPUT [INPUT ...]

Two threads read into one buffer each, well behind what they have the system fetch, and write the same way. The output
comes first, so that with --to-disk it goes there while the inputs are read; else nothing is forced to the disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK = 1 << 20
THREADS = 2
AHEAD = 32 * CHUNK


def main() -> None:
    """Take the arguments of the command line."""
    to_disk = sys.argv[1] == "--to-disk"
    output, size, *inputs = sys.argv[1 + to_disk :]
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(target, 0, int(size))
    with ThreadPoolExecutor(THREADS + 1) as pool:
        _share(pool, lambda start, buffer: os.pwrite(target, buffer[: int(size) - start], start), int(size))
        written = pool.submit(os.fdatasync, target) if to_disk else None
        for path in inputs:
            _read(pool, os.open(path, os.O_RDONLY))
        if written is not None:
            written.result()
    Path(output).unlink()


def _read(pool: ThreadPoolExecutor, file: int) -> None:
    os.posix_fadvise(file, 0, AHEAD, os.POSIX_FADV_WILLNEED)

    def read(start: int, buffer: memoryview) -> None:
        os.posix_fadvise(file, start + AHEAD, CHUNK, os.POSIX_FADV_WILLNEED)
        os.preadv(file, [buffer], start)

    _share(pool, read, os.fstat(file).st_size)


def _share(pool: ThreadPoolExecutor, work: Callable[[int, memoryview], object], size: int) -> None:
    """Work on every chunk of so many bytes, each thread on its own."""

    def every(number: int) -> None:
        buffer = memoryview(bytearray(CHUNK))
        for start in range(number * CHUNK, size, THREADS * CHUNK):
            work(start, buffer)

    list(pool.map(every, range(THREADS)))


if __name__ == "__main__":
    main()
