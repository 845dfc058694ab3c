"""One case at a time under watch: what it raises, how long it takes, and what it leaves open or on disk."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from graftwork.errors import GraftworkError

CASE_SECONDS = 5.0
CHECKED_EVERY = 1000
SHOWN = 5


class Target(Protocol):
    """Something that reads what anybody may send."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Make what the cases need in an empty folder of their own."""

    def case(self, rng: random.Random) -> None:
        """One input, made with `rng` alone. Only a GraftworkError may come out."""


class Hang(Exception):
    """A case took longer than CASE_SECONDS."""


@dataclass(slots=True)
class Tally:
    """What became of the cases of one target."""

    target: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)
    """By the place where it was raised: the case's seed and the traceback."""

    def __str__(self) -> str:
        rate = self.cases / self.seconds if self.seconds else 0.0
        return (
            f"{self.target:<18} {self.cases:>9,} cases  {self.refused / max(1, self.cases):6.1%} refused  "
            f"{rate:>7,.0f}/s  slowest {self.slowest * 1000:6.0f} ms  {len(self.failures)} failures"
        )


def fuzz(target: Target, *, seed: int, cases: int, seconds: float, first: int = 0) -> Tally:
    """Run at most `cases` cases of `target` for at most `seconds`; case number n is the same for the same seed."""
    tally = Tally(target.name)
    with tempfile.TemporaryDirectory(prefix="gw-fuzz-", dir=_memory_disk()) as folder, _alarm():
        target.prepare(Path(folder))
        for number in range(3):  # what is loaded and opened once is no leak
            with suppress(Exception):
                target.case(random.Random(f"{seed}/warm/{number}"))
        before = _held(Path(folder))
        began = time.monotonic()
        for number in range(first, first + cases):
            _run(target, f"{seed}/{target.name}/{number}", tally)
            if tally.cases % CHECKED_EVERY == 0 and _is_over(tally, began, seconds, before, Path(folder)):
                break
        _check(tally, before, Path(folder))
        tally.seconds = time.monotonic() - began
    return tally


def _run(target: Target, seed: str, tally: Tally) -> None:
    rng = random.Random(seed)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        target.case(rng)
    except GraftworkError:
        tally.refused += 1
    except Exception as error:  # noqa: BLE001 (finding these is what it is for)
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "graftwork" in frame.filename]
        place = ours[-1] if ours else last
        key = f"{type(error).__name__} at {place.filename}:{place.lineno}"
        if key not in tally.failures and len(tally.failures) < 100:
            tally.failures[key] = f"case {seed}\n{''.join(traceback.format_exception(error)[-12:])}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.cases += 1
    tally.slowest = max(tally.slowest, time.monotonic() - began)


def _is_over(tally: Tally, began: float, seconds: float, before: tuple[int, frozenset[str]], folder: Path) -> bool:
    _check(tally, before, folder)
    return time.monotonic() - began > seconds


def _check(tally: Tally, before: tuple[int, frozenset[str]], folder: Path) -> None:
    descriptors, files = _held(folder)
    if descriptors > before[0]:
        tally.failures["descriptors"] = f"{descriptors - before[0]} file descriptors are open more than before"
    if files - before[1]:
        tally.failures["files"] = f"left on disk: {sorted(files - before[1])[:SHOWN]}"


def _held(folder: Path) -> tuple[int, frozenset[str]]:
    """Open descriptors, and files below the folder."""
    return len(os.listdir("/proc/self/fd")), frozenset(str(path) for path in folder.rglob("*"))  # noqa: PTH208


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"a case took longer than {CASE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
