"""The log of a server or a worker: lines for people, or JSON objects that name the request and the job."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from graftwork.context import job_id, request_id
from graftwork.settings import Settings

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record carries; anything else on one was given with it."""


class JsonLines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, what was given with it, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(),
            **{name: value for name, value in vars(record).items() if name not in STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A record as a line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, and those of the exception."""
        about = " ".join(f"{name}={value}" for name, value in _context().items())
        return f"{super().format(record)} {about}".rstrip()


def configure(settings: Settings) -> None:
    """Write this process's log to standard error as the settings say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("graftwork").setLevel(settings.log_level.upper())


def _context() -> dict[str, str]:
    known = {"request_id": request_id.get(), "job_id": job_id.get()}
    return {name: value for name, value in known.items() if value is not None}
