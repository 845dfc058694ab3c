"""What a merge has finished, kept beside its partial output, so that a killed merge goes on where it was.

The journal is a file of lines, each a CRC-32 and a JSON value. The first names the merge (merge/plan/identity.py): a
partial folder of another merge is thrown away. The others say which elements of which tensors are in the output, or
hold a result that was measured over the whole model.

A line is appended after the data it speaks of was handed to the operating system, with one write. So after a kill at
any moment, by whatever signal, what the journal says is true: the page cache outlives the process. A line that was cut
short fails its checksum; it and what follows are dropped. After a power cut or a crash of the system the journal may
have reached the disk before the data: such a partial folder is of another boot and is thrown away, which costs time
and nothing else. The finished folder is on disk before it gets its name.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

JOURNAL_FILE = ".journal"
BOOT = Path("/proc/sys/kernel/random/boot_id")
OURS = "graftwork."

Span = tuple[int, int, int]
"""Elements `start` .. `stop` of the tensor at a position of the plan: (position, start, stop)."""


class Journal:
    """The journal of one merge, in its partial folder; any number of threads may add to it."""

    def __init__(self, folder: Path, name: str, *, boot: str | None = None) -> None:
        self._path = folder / JOURNAL_FILE
        self._name = {"merge": name, "boot": boot or _boot()}
        self._done: dict[int, list[tuple[int, int]]] = {}
        self._results: dict[str, Any] = {}
        self._file = -1
        self._lock = threading.Lock()

    @property
    def resumes(self) -> bool:
        """Whether the folder holds a partial result of this merge."""
        return next(iter(_lines(self._path)), (None, 0))[0] == self._name

    def open(self) -> None:
        """Take in what is finished, drop what was cut short, and go on after it."""
        end = 0
        for position, (line, stop) in enumerate(_lines(self._path)):
            if position == 0 and line != self._name:
                break
            end = stop
            if position > 0:
                self._take(line)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, end)
        if end == 0:
            self._append(self._name)
        for spans in self._done.values():
            spans[:] = _joined(spans)

    def close(self, *, remove: bool = False) -> None:
        """Stop; with `remove` the output is complete, and what the journal says is over."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if remove:
            self._path.unlink(missing_ok=True)

    def start_over(self) -> None:
        """Forget everything: the output is not there."""
        os.ftruncate(self._file, 0)
        self._done.clear()
        self._results.clear()
        self._append(self._name)

    def has(self, tensor: int, start: int, stop: int) -> bool:
        """Whether these elements are in the output since before `open`."""
        return any(first <= start and stop <= last for first, last in self._done.get(tensor, ()))

    def add(self, spans: Iterable[Span]) -> None:
        """Record what was written to the output."""
        self._append({"done": list(spans)})

    def result(self, key: str) -> Any:
        """What was measured under this key, or None."""
        return self._results.get(key)

    def keep(self, key: str, result: Any) -> None:
        """Record what was measured over the whole model, where it can be written down."""
        try:
            self._append({"result": key, "value": encode(result)})
        except TypeError:
            return

    def _take(self, line: Any) -> None:
        if "done" in line:
            for tensor, start, stop in line["done"]:
                self._done.setdefault(tensor, []).append((start, stop))
        else:
            self._results[line["result"]] = decode(line["value"])

    def _append(self, value: object) -> None:
        text = json.dumps(value, separators=(",", ":")).encode()
        with self._lock:
            os.write(self._file, b"%08x %s\n" % (zlib.crc32(text), text))


def encode(value: Any) -> Any:
    """A result as JSON: plain values, tuples, arrays and Graftwork's dataclasses. Raises TypeError for others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return {"array": [str(value.dtype), [], base64.b64encode(value.tobytes()).decode()]}
    if isinstance(value, np.ndarray):
        return {"array": [str(value.dtype), list(value.shape), base64.b64encode(value.tobytes()).decode()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    kind = type(value)
    if dataclasses.is_dataclass(value) and kind.__module__.startswith(OURS):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"dataclass": [kind.__module__, kind.__qualname__, fields]}
    raise TypeError(f"{kind.__name__} cannot be written down")


def decode(value: Any) -> Any:
    """The result that `encode` wrote down."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        dtype, shape, data = content
        array = np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
        return array if shape else array[()]
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind in ("list", "tuple"):
        items = [decode(item) for item in content]
        return items if kind == "list" else tuple(items)
    module, name, fields = content
    if not module.startswith(OURS):
        raise TypeError(f"{module} is not Graftwork's")
    return getattr(importlib.import_module(module), name)(**{field: decode(item) for field, item in fields.items()})


def _lines(path: Path) -> Iterable[tuple[Any, int]]:
    """The values of the whole lines, each with the place where its line ends."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    end = 0
    for line in content.splitlines(keepends=True):
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
            return
        end += len(line)
        yield json.loads(text), end


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


def _boot() -> str:
    """What tells this start of the system from others; where there is nothing such, no partial folder is trusted."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return uuid.uuid4().hex
