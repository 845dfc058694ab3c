"""The results of a sweep, appended durably: a line is there whole or it does not count."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Result:
    """What came out at one point: metrics, or the error that kept it from having any.

    key: of the recipe, its inputs and the evaluation
    """

    key: str
    recipe: str
    values: Mapping[str, Any]
    metrics: Mapping[str, float]
    error: str | None
    seconds: float


def key_of(**parts: Any) -> str:
    """SHA-256 of plain values by name, 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class ResultLog:
    """An append-only file of results, one JSON object a line. A line cut short by a crash is dropped when it is opened.

    Only one process may have it open.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self._file.truncate(whole)
        self._results: dict[str, Result] = {}
        for line in data[:whole].splitlines():
            result = Result(**json.loads(line))
            self._results[result.key] = result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def find(self, key: str) -> Result | None:
        """The latest result of a key."""
        return self._results.get(key)

    def append(self, result: Result) -> None:
        """Record a result; it is on disk when this returns."""
        line = json.dumps(asdict(result), ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._results[result.key] = result
