"""The floor under any merge: read every byte of the inputs, write the bytes of the output, and no more.

    python -m benchmarks.merge.floor OUTPUT BYTES INPUT [INPUT ...]

Reads with two threads into one buffer each, and writes the output the same way; nothing is forced to the disk.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK = 1 << 20
THREADS = 2


def main() -> None:
    """Take the arguments of the command line."""
    output, size, *inputs = sys.argv[1:]
    files = [os.open(path, os.O_RDONLY) for path in inputs]
    target = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(target, 0, int(size))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_work, range(THREADS), [files] * THREADS, [target] * THREADS, [int(size)] * THREADS))
    Path(output).unlink()


def _work(number: int, files: list[int], target: int, size: int) -> None:
    buffer = memoryview(bytearray(CHUNK))
    for file in files:
        for start in range(number * CHUNK, os.fstat(file).st_size, THREADS * CHUNK):
            os.preadv(file, [buffer], start)
    for start in range(number * CHUNK, size, THREADS * CHUNK):
        os.pwrite(target, buffer[: size - start], start)


if __name__ == "__main__":
    main()
