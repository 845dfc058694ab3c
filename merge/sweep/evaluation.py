"""The evaluation of a merged model: a command of the user's, run with the model's folder."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graftwork.errors import Cancelled, OperationFailed
from graftwork.merge.sweep.sweep import MODEL

POLL_SECONDS = 0.1
GUARD = Path(__file__).with_name("guard.py")
"""It runs the command, and ends it with us."""


class Evaluation(Protocol):
    """Judges a merged model."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain values; results are taken over from an earlier run where they are the same."""

    def measure(self, model: Path, log: Path) -> dict[str, float]:
        """Metrics by name; words for people may go to the file `log`. Raises OperationFailed."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command whose stdout is, or ends with a line that is, a JSON object of numbers; `{model}` is the folder.

    timeout: seconds after which the command and what it started are killed
    stopped: asked while it runs whether it is to be killed
    """

    arguments: tuple[str, ...]
    timeout: float
    stopped: Callable[[], bool] = lambda: False

    @property
    def identity(self) -> Mapping[str, Any]:
        """The arguments, with size and time of the first file among them, the script: once edited, it judges anew.

        Later files may be what the evaluation writes, and do not count.
        """
        script = next((path for path in map(Path, self.arguments[1:]) if path.is_file()), None)
        status = script.stat() if script is not None else None
        stamp = [status.st_size, status.st_mtime_ns] if status is not None else None
        return {"command": list(self.arguments), "script": stamp}

    def measure(self, model: Path, log: Path) -> dict[str, float]:
        """Run the command. Raises OperationFailed saying how it ended, with the last line of its stderr; Cancelled."""
        arguments = [argument.replace(MODEL, str(model)) for argument in self.arguments]
        ours, theirs = os.pipe()
        with log.open("wb") as errors:
            child = subprocess.Popen(  # noqa: S603 - it is the user's own command
                [sys.executable, "-I", str(GUARD), *arguments],
                stdin=ours,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            os.close(ours)
            try:
                printed = self._wait(child)
            finally:
                os.close(theirs)  # the guard kills what still runs
                child.communicate()
        if child.returncode:
            raise self._failed(_how_it_ended(child.returncode, log))
        return self._read(printed.decode(errors="replace"))

    def _wait(self, child: subprocess.Popen[bytes]) -> bytes:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return child.communicate(timeout=max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))[0]
            except subprocess.TimeoutExpired:
                if self.stopped():
                    raise Cancelled(what="The evaluation") from None
                if time.monotonic() > deadline:
                    raise self._failed(f"it took longer than {self.timeout:g} s") from None

    def _read(self, printed: str) -> dict[str, float]:
        lines = printed.strip().splitlines()
        for text in (printed, lines[-1] if lines else ""):
            try:
                found = json.loads(text)
            except ValueError:
                continue
            if isinstance(found, dict):
                return self._numbers(found)
        shown = repr(lines[-1][:80]) if lines else "nothing"
        raise self._failed(f"it ended with {shown} on stdout, not with a JSON object")

    def _numbers(self, found: Mapping[str, Any]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for name, value in found.items():
            if isinstance(value, Mapping):
                numbers |= {f"{name}.{inner}": number for inner, number in self._numbers(value).items()}
            elif isinstance(value, int | float) and not isinstance(value, bool):
                if not math.isfinite(value):
                    raise self._failed(f"{name} is {value}")
                numbers[name] = float(value)
        return numbers

    def _failed(self, reason: str) -> OperationFailed:
        return OperationFailed(what="The evaluation", reason=reason)


def _how_it_ended(code: int, log: Path) -> str:
    how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{how}: {lines[-1].strip()[:200]}" if lines else how
