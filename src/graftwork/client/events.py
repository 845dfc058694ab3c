"""Reading a stream of server-sent events line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job: `kind` is state, progress or log."""

    id: int
    kind: str
    data: Mapping[str, Any]


class EventReader:
    """Puts lines together to events; `position` is the id of the last one, from which a stream can be taken up."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> Iterator[Event]:
        """The event that `line` ends, if it does."""
        if line.startswith(":"):
            return
        if line:
            name, _, value = line.partition(": ")
            self._fields[name] = value
        elif self._fields:
            event = Event(int(self._fields["id"]), self._fields["event"], json.loads(self._fields["data"]))
            self.position, self._fields = event.id, {}
            yield event
