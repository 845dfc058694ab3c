"""Processes whose wall time, processor time and peak memory are measured."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Taken:
    """What a child took: seconds of wall time and of processor time, bytes of memory at most."""

    wall: float
    cpu: float
    resident: int


def measure(arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Taken:
    """Run a command to its end, its output in `log`. Raises CalledProcessError when it fails."""
    began = time.perf_counter()
    with log.open("wb") as output:
        child = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, arguments, log.read_bytes()[-2000:])
    return Taken(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
